"""Blank a secret that a server repeats in its answer, however it writes it there."""

import base64
import re
from functools import cache, lru_cache
from html.entities import html5
from itertools import groupby

BLANKED = b"[redacted]"

_SHORT = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_NEVER_ESCAPED = re.compile(r"[A-Za-z0-9_.~-]")
_LONG = 64  # characters; in a longer secret only what encoders do escape is looked for in another spelling
_MARKS = (b"\\", b"%", b"&")  # one of them begins every other spelling
_BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=")
_BASE64_LEAST = 12  # characters; what is shorter may stand there by chance
_BASE64_SHIFTS = ((0, 0), (1, 2), (2, 3))  # bytes before the secret -> characters of base64 that they change


def without_secret(body: bytes, secret: str) -> bytes:
    """Return the body without the secret as it is, and without any spelling of it that encoders produce.

    Encoders differ in what they escape: `/` becomes `\\/`, `\\u002F`, `%2F` or `&#47;`. JSON in JSON doubles the
    backslashes. In base64 the secret is found at any place of a longer text, such as `user:password`.
    """
    if not secret:
        return body
    is_spelled = any(mark in body for mark in _MARKS)
    body = _spellings(secret).sub(BLANKED, body) if is_spelled else body.replace(secret.encode(), BLANKED)
    for part in _base64_parts(secret):
        if part in body:
            body = _without_base64(body, part)
    return body


@lru_cache(maxsize=8)
def _base64_parts(secret: str) -> tuple[bytes, ...]:
    """Return what stands in every base64 of a text with the secret in it, for each place where it may begin."""
    parts, raw = set(), secret.encode()
    for before, changed in _BASE64_SHIFTS:
        text = base64.b64encode(bytes(before) + raw)[changed : (before + len(raw)) * 8 // 6]
        if len(text) >= _BASE64_LEAST:
            parts |= {text, text.translate(bytes.maketrans(b"+/", b"-_"))}
    return tuple(parts)


def _without_base64(body: bytes, part: bytes) -> bytes:
    """Blank each text in base64 that holds `part`, from its beginning to its end."""
    parts, done = [], 0
    while (at := body.find(part, done)) >= 0:
        begin, end = at, at + len(part)
        while begin > done and body[begin - 1] in _BASE64:
            begin -= 1
        while end < len(body) and body[end] in _BASE64:
            end += 1
        parts += [body[done:begin], BLANKED]
        done = end
    return b"".join([*parts, body[done:]])


@cache
def _entities() -> dict[str, list[str]]:
    """Return the names that HTML has for a character: `amp;`."""
    names: dict[str, list[str]] = {}
    for name, text in html5.items():
        if name.endswith(";"):
            names.setdefault(text, []).append(name)
    return names


@lru_cache(maxsize=8)  # a long token takes milliseconds
def _spellings(secret: str) -> re.Pattern[bytes]:
    is_long = len(secret) > _LONG
    return re.compile(b"".join(_spelling(char, len(list(run)), is_long) for char, run in groupby(secret)))


@lru_cache(maxsize=512)
def _spelling(char: str, count: int, is_long: bool) -> bytes:
    """Return a pattern for a character that stands `count` times, and for its escapes.

    All repetitions are bounded, and a run of one character is one pattern, so that no answer takes long.
    """
    raw = re.escape(char.encode())
    if is_long and _NEVER_ESCAPED.match(char):
        return raw * count
    units, code = char.encode("utf-16-be"), ord(char)
    names = "".join(f"|{name}" for name in _entities().get(char, ()))
    escapes = [
        "".join(rf"\\{{1,16}}u(?i:{units[at : at + 2].hex()})" for at in range(0, len(units), 2)),
        "".join(f"%(?:25){{0,3}}(?i:{byte:02x})" for byte in char.encode()),
        rf"&(?:amp;){{0,3}}(?:#0{{0,4}}{code};|#[xX]0{{0,4}}(?i:{code:x});{names})",
    ]
    if code < 256:
        escapes.append(rf"\\{{1,16}}x(?i:{code:02x})")
    if char in _SHORT:
        escapes.append(rf"\\{{1,16}}{_SHORT[char]}")
    each = b"|".join(escape.encode() for escape in escapes)
    if char == "\\":  # which stands for itself, and before itself
        return rb"(?:(?:%b){%d}|\\{%d,%d})" % (each, count, count, 16 * count)
    before = b"" if _NEVER_ESCAPED.match(char) else rb"\\{0,16}"
    return rb"(?:%b|%b%b){%d}" % (each, before, raw, count)
