"""Blank a secret that a server repeats in its answer, however its JSON encoder writes it."""

import re
from functools import lru_cache

BLANKED = b"[redacted]"

_SHORT = {'"': '"', "\\": "\\", "/": "/", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_NEVER_ESCAPED = re.compile(r"[A-Za-z0-9_.~-]")


def without_secret(body: bytes, secret: str) -> bytes:
    """Return the body without the secret as it is, and without any spelling of it in a JSON string.

    Encoders differ in what they escape: some write `/` as `\\/`, others `+` as `\\u002B` (RFC 8259 section 7).
    """
    if not secret:
        return body
    if b"\\" not in body:
        return body.replace(secret.encode(), BLANKED)
    return _spellings(secret).sub(BLANKED, body)


@lru_cache(maxsize=8)  # a long token takes a millisecond
def _spellings(secret: str) -> re.Pattern[bytes]:
    return re.compile("".join(map(_spelling, secret)).encode())


def _spelling(char: str) -> str:
    """Return a pattern for a character and its escapes."""
    if _NEVER_ESCAPED.match(char):
        return re.escape(char)
    units = char.encode("utf-16-be")
    escape = "".join(rf"\\u(?i:{units[at : at + 2].hex()})" for at in range(0, len(units), 2))
    short = rf"\\{re.escape(_SHORT[char])}|" if char in _SHORT else ""
    return f"(?:{short}{escape}|{re.escape(char)})"  # escapes first, because a backslash begins its own
