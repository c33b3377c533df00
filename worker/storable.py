"""JSON from outside, in a form that every database stores."""

import json
from typing import Any

DEPTH_LIMIT = 64  # levels; JSON writers and databases fail on much deeper values


def is_storable(text: str) -> bool:
    """Return whether both databases take a text: no NUL, no half of a surrogate pair."""
    return "\0" not in text and is_unicode(text)


def is_unicode(value: Any) -> bool:
    """Return whether JSON's texts can be written in UTF-8: half of a surrogate pair cannot."""
    try:
        (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode()
    except UnicodeEncodeError:
        return False
    return True


def storable_json(value: Any, depth: int = DEPTH_LIMIT) -> Any:
    """Return decoded JSON without what some database refuses.

    Lone surrogates and NUL become U+FFFD, numbers that JSON cannot write become text, and what is nested deeper than
    `DEPTH_LIMIT` is left out.
    """
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")
        case float() if value != value or value in {float("inf"), float("-inf")}:
            return str(value)
        case dict() | list() | tuple() if not depth:
            return "(nested too deep)"
        case dict():
            return {storable_json(name): storable_json(item, depth - 1) for name, item in value.items()}
        case list() | tuple():
            return [storable_json(item, depth - 1) for item in value]
    return value
