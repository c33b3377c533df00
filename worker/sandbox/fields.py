"""Checks of the fields of a request."""

import time
from typing import Any

from worker.sandbox.responses import Refused


def text(body: Any, name: str) -> str:
    """Return a field of the body. Raises Refused (400) unless it is a non-empty string."""
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, str) or not value:
        raise Refused(400, f"{name} must be a non-empty string")
    return value


def optional_text(body: dict[str, Any], name: str) -> dict[str, str]:
    """Return the field as a dict of one, or an empty dict if it is absent. Raises Refused (400) if it is no string."""
    if name not in body:
        return {}
    if not isinstance(body[name], str):
        raise Refused(400, f"{name} must be a string")
    return {name: body[name]}


def integer(body: Any, name: str) -> int:
    """Return a field of the body. Raises Refused (400) unless it is an integer."""
    value = body.get(name) if isinstance(body, dict) else None
    if type(value) is not int:
        raise Refused(400, f"{name} must be an integer")
    return value


def check_spellings(body: Any, name: str, other: str) -> None:
    """Check a field that the documentation spells in two ways. Raises Refused (400) if both are given and differ."""
    if isinstance(body, dict) and name in body and other in body and body[name] != body[other]:
        raise Refused(400, f"{name} and {other} differ")


def boolean(parameters: dict[str, Any], name: str) -> bool:
    """Return a parameter that may stand in the query. Raises Refused (400) unless it is true or false, or 1 or 0."""
    value = {"true": True, "1": True, "false": False, "0": False}.get(str(parameters[name]).lower())
    if value is None:
        raise Refused(400, f"{name} must be true or false")
    return value


def parameter(parameters: dict[str, Any], name: str, default: int | None = None) -> int:
    """Return a parameter that may stand in the query, where all values are strings.

    Raises Refused (400) unless it is an integer that is not negative.
    """
    value = parameters.get(name, default)
    if type(value) is int or (isinstance(value, str) and value.isdecimal() and len(value) < 19):
        number = int(value)
        if number >= 0:
            return number
    raise Refused(400, f"{name} must be an integer that is not negative")


def date(at: float) -> str:
    """Return a time, s since 1970, in ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(at))
