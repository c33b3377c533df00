"""A kind of operation: what its payload must be, what names it, and how it is done."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from worker.b2copy import B2Copy
from worker.errors import BadPayload
from worker.flow.outcome import Outcome
from worker.ledger import Claim, New


class Payload(BaseModel):
    """What a kind needs to know. Unknown fields are refused: a misspelt one would be lost in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, str_strip_whitespace=False)


P = TypeVar("P", bound=Payload)


@dataclass(frozen=True)
class Kind(Generic[P]):
    """`describe` turns a valid payload into an operation; `act` makes one attempt at it and says what it learned."""

    name: str
    payload: type[P]
    describe: Callable[[P], New]
    act: Callable[[B2Copy, P, Claim], Outcome]

    def new(self, fields: Mapping[str, Any]) -> New:
        """Return the operation these fields ask for. Raises `BadPayload` naming the field and the remedy."""
        return self.describe(self.checked(fields))

    def checked(self, fields: Mapping[str, Any]) -> P:
        """Return the fields as this kind's payload. Raises `BadPayload`."""
        try:
            return self.payload.model_validate(fields)
        except ValidationError as error:
            raise BadPayload(f"{self.name}: {_told(error, self.payload.model_fields)}") from None


def _told(error: ValidationError, known: Iterable[str]) -> str:
    problems = []
    for problem in error.errors(include_url=False, include_input=False):
        field = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            problems.append(f"{field} is not a field: there are {', '.join(known)}")
        elif problem["type"] == "missing":
            problems.append(f"{field} is missing")
        else:
            problems.append(f"{field}: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(problems)
