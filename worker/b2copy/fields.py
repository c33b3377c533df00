"""Fields of generation 1, whose answers have numbers as texts, two formats of dates and names in two spellings.

Fields that we only show are read leniently: a value that cannot be read is None, and `raw` has the whole answer. Fields
that we act on are read strictly: an answer without them raises `UnknownOutcome`.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, AliasPath, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from worker.b2copy.response_mapping import data_of
from worker.errors import UnknownOutcome
from worker.http.answer import server_message
from worker.storable import storable_json

_ID_LIMIT = 255  # characters; a longer id does not fit into an index of PostgreSQL, which would refuse the row
_NUMBER_LIMIT = 2**63  # of ids that are numbers: no database gives larger ones, or less than 1


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return storable_json(str(value)) or None


def _id_text(value: Any) -> str | None:
    text = _text(value)
    return text if text is not None and len(text) <= _ID_LIMIT else None


def _id_number(value: Any) -> int | None:
    number = _whole_number(value)
    return number if number is not None and 0 < number < _NUMBER_LIMIT else None


def _whole_number(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        value = int(value)
    return value if type(value) is int else None


def _decimal(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = Decimal(str(value))  # of a number of an answer, `str` is how it was written
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _instant(value: Any) -> datetime | None:
    """Read `2024-07-18 08:19:11` (counted as UTC: the documentation does not say) or `2024-07-18T08:19:11+00:00`."""
    try:
        instant = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _flag(value: Any) -> bool | None:
    return {"1": True, "true": True, "0": False, "false": False}.get(str(value).lower())


Text = Annotated[str | None, BeforeValidator(_text)]
"""A text or a whole number."""
IdText = Annotated[str | None, BeforeValidator(_id_text)]
"""An id or a login, which is a text or a whole number."""
IdOrEmpty = Annotated[str, BeforeValidator(lambda value: _id_text(value) or "")]
"""An id or a login; empty if the answer has none."""
WholeNumber = Annotated[int | None, BeforeValidator(_whole_number)]
Money = Annotated[Decimal | None, BeforeValidator(_decimal)]
"""An amount or another figure, exactly as it came."""
Instant = Annotated[datetime | None, BeforeValidator(_instant)]
Flag = Annotated[bool | None, BeforeValidator(_flag)]

Needed = Annotated[str, BeforeValidator(_id_text)]
"""An id or a login that we act on: an answer without it cannot be believed."""
NeededNumber = Annotated[int, BeforeValidator(_id_number)]
"""The number of a record that we act on."""


def named(*names: str | AliasPath, default: Any = None) -> Any:
    """Return a field that stands under one of these names, whichever comes first."""
    return Field(default, validation_alias=AliasChoices(*names))


def needed(*names: str | AliasPath) -> Any:
    """Return a field that an answer must have under one of these names."""
    return Field(validation_alias=AliasChoices(*names))


class Answered(BaseModel):
    """An object of an answer. `raw` is all of it, in a form that every database stores."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    raw: dict[str, Any] = Field(default_factory=dict, repr=False)


M = TypeVar("M", bound=Answered)


def read_object(model: type[M], body: Any, name: str) -> M:
    """Read an object, without its envelope. Raises `UnknownOutcome` if it lacks what we act on."""
    return object_of(model, data_of(body, name), name)


def object_of(model: type[M], data: Any, name: str) -> M:
    """Read an object that stood in an envelope. Raises as `read_object`."""
    if not isinstance(data, dict):
        raise UnknownOutcome(f"{name}: the answer is not an object", 200, server_message(data))
    try:
        return model.model_validate({**data, "raw": storable_json(data)})
    except ValidationError as error:
        missing = ", ".join(sorted({str(problem["loc"][0]) for problem in error.errors()}))
        raise UnknownOutcome(f"{name}: an answer without a usable {missing}", 200, server_message(data)) from None


def read_as(model: type[M], name: str) -> Callable[[Any, Mapping[str, Any]], M]:
    """Return what a `Route` needs to read an object."""
    return lambda body, sent: read_object(model, body, name)
