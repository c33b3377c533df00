"""Read JSON that asks for something so that nothing of it is lost or guessed: what Python would change is refused.

Python takes the last of two values of one name, keeps 17 digits of a number with a decimal point, and reads NaN, which
is no JSON. What the sender meant would then be done otherwise, in silence. Answers are not refused for their numbers:
`number_as_written` keeps the digits.
"""

import json
import math
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from typing import Any, Self

_SHOWN = 80  # characters of a name or number in an error


def loads(text: str | bytes, restore: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Return the value; bytes are UTF-8. Raises `ValueError`, which says in words what is wrong.

    `restore` replaces each object, as `object_hook` of `json.loads` does.
    """
    try:
        return _decoder(restore).decode(text.decode() if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("nested too deep") from None


@cache
def _decoder(restore: Callable[[dict[str, Any]], Any] | None) -> json.JSONDecoder:
    def read_object(pairs: list[tuple[str, Any]]) -> Any:
        found = unique_names(pairs)
        return found if restore is None else restore(found)

    return json.JSONDecoder(object_pairs_hook=read_object, parse_float=_number, parse_constant=_refuse_constant)


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's fields, for `object_pairs_hook`. Raises `ValueError` if a name is given twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        doubled = [name[:_SHOWN] for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        raise ValueError(f"{', '.join(map(ascii, doubled[:10]))} is given twice")
    return found


class WrittenNumber(float):
    """A number whose `str` is how it was written: 1000.10."""

    __slots__ = ("_written",)
    _written: str

    def __new__(cls, written: str) -> Self:
        number = super().__new__(cls, written)
        number._written = str(written)
        return number

    def __str__(self) -> str:
        return self._written


def number_as_written(text: str) -> WrittenNumber | str:
    """Return the number, or its text if Python's number would be another one. For `parse_float` of `json`."""
    value = WrittenNumber(text)
    return value if _is_exact(text, value) else text


def _number(text: str) -> float:
    value = float(text)
    if not _is_exact(text, value):
        raise ValueError(f"{text[:_SHOWN]} has more digits than a JSON number keeps: give it as text, or rounded")
    return value


def _is_exact(text: str, value: float) -> bool:
    try:
        return math.isfinite(value) and Decimal(text) == Decimal(repr(value))
    except ArithmeticError:  # an exponent of many digits
        return False


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
