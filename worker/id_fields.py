"""What an id from outside may look like: printable ASCII, so that two ids that look equal are equal.

A spreadsheet or a data frame turns ids into numbers: `123456.0`, `1.23457E+11`, `NaN`. Such a value is not the id any
more, so it is refused. The same is true of `None` and `NULL`, which programs write for a value that is missing: all
operations without an id would share it. A login may be no number with separators and no date (`123.456`, `Jan-45`). An
id of the CRM's may be: an import asks then, because only there it is likely that a spreadsheet made it.
"""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from worker.doubtful_ids import number_or_date

# With a sign in the exponent, as programs write it: 1E5 may be somebody's id.
_NUMBER = re.compile(r"[+-]?(?:\d+\.0+|\d(?:\.\d+)?e[+-]\d+|nan|inf|infinity)", re.IGNORECASE)
_NOTHING = {"null", "none", "nil", "undefined"}
_PRINTABLE = re.compile(r"[!-~]*")
_DIGITS = re.compile(r"[0-9]+")
_LOGIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _id(value: Any) -> Any:
    """Check a text, and return a whole number as its digits. The field's own type refuses all other values."""
    if isinstance(value, str):
        return _printable_ascii(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(int(value))  # of a member of `class Login(int, Enum)`, str would give the name
    if isinstance(value, float):
        raise ValueError(f"{value!r} is a floating-point number: give the id as text, for instance '123456'")
    return value


def _printable_ascii(value: str) -> str:
    if _DIGITS.fullmatch(value):  # most ids
        return value
    if not _PRINTABLE.fullmatch(value):
        char = next(char for char in value if not _PRINTABLE.fullmatch(char))
        raise ValueError(f"{value[:80]!a} holds U+{ord(char):04X}: use printable ASCII characters without spaces")
    if _NUMBER.fullmatch(value):
        raise ValueError(f"{value[:80]!r} is what a spreadsheet or a data frame makes of an id: give the id as text")
    if value.lower() in _NOTHING:
        raise ValueError(
            f"{value[:80]!r} is what a program writes for a missing value: give the id, or leave the field out"
        )
    return value


def _login(value: Any) -> Any:
    value = _id(value)
    if not value or not isinstance(value, str):
        return value  # which the field's own type and length refuse
    if not _LOGIN.fullmatch(value):
        raise ValueError(f"{value[:80]!r} is not a login: use letters, digits, dots, underscores and hyphens")
    if what := number_or_date(value):
        raise ValueError(
            f"{value[:80]!r} {what}, and no login looks like that: give the login as text, such as '123456'"
        )
    return value


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) and len(value) < 20 else value


def _id_field(longest: int) -> Any:
    return Field(min_length=1, max_length=longest, json_schema_extra={"format": ID_FORMAT})


ID_FORMAT = "id"
"""The format that the JSON schema of a payload gives to an id, so that an import knows it from other texts."""

Id = Annotated[str, _id_field(128), BeforeValidator(_id)]
"""An id of the CRM's: of a withdrawal, a call, an entity. A whole number counts as its digits."""

Number = Annotated[int, Field(ge=1, le=2**63 - 1), BeforeValidator(_number)]
"""An id of B2COPY's that is a number, also if a person wrote it as text."""

Login = Annotated[str, _id_field(64), BeforeValidator(_login)]
"""A login of a trading platform. MT4 and MT5 have digits alone; others may have letters."""

Key = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_printable_ascii)]
"""The key of an operation, `<kind>:<id>`."""
