"""What an id from outside may look like: printable ASCII, so that two ids that look equal are equal.

A spreadsheet or a data frame turns ids into numbers: `123456.0`, `1.23457E+11`, `NaN`. Such a value is not the id any
more, so it is refused.
"""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

# With a sign in the exponent, as programs write it: 1E5 may be somebody's id.
_NUMBER = re.compile(r"[+-]?(?:\d+\.0+|\d(?:\.\d+)?e[+-]\d+|nan|inf|infinity)", re.IGNORECASE)
_PRINTABLE = re.compile(r"[!-~]*")
_LOGIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _text_of_int(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        raise ValueError(f"{value!r} is a floating-point number: give the id as text, for instance '123456'")
    return value


def _printable_ascii(value: str) -> str:
    if not _PRINTABLE.fullmatch(value):
        char = next(char for char in value if not _PRINTABLE.fullmatch(char))
        raise ValueError(f"{value[:80]!a} holds U+{ord(char):04X}: use printable ASCII characters without spaces")
    if _NUMBER.fullmatch(value):
        raise ValueError(f"{value!r} is what a spreadsheet or a data frame makes of an id: give the id as text")
    return value


def _login(value: str) -> str:
    if not _LOGIN.fullmatch(value):
        raise ValueError(f"{value[:80]!r} is not a login: use letters, digits, dots, underscores and hyphens")
    return value


Id = Annotated[
    str, BeforeValidator(_text_of_int), Field(min_length=1, max_length=128), AfterValidator(_printable_ascii)
]
"""An id of the CRM's: of a withdrawal, a call, an entity. A whole number counts as its digits."""

Login = Annotated[
    str,
    BeforeValidator(_text_of_int),
    Field(min_length=1, max_length=64),
    AfterValidator(_printable_ascii),
    AfterValidator(_login),
]
"""A login of a trading platform. MT4 and MT5 have digits alone; others may have letters."""

Key = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_printable_ascii)]
"""The key of an operation, `<kind>:<id>`."""
