"""Blank secrets in text and in values. Secrets are found by their names, schemes and shapes.

Redact values before they are serialised (`redacted_value`), because their structure shows where a secret ends. Redact
text once more before it leaves the process (`redacted`), because it may hold JSON in JSON, a repr, a URL or headers.
Text that is JSON is still JSON afterwards. If it is unclear where a secret ends, too much is blanked rather than too
little.

Two sorts of secrets are not found: those without a telling name, scheme or shape, and those whose own characters are
encoded again (base64, %XX).
"""

import json
import re
from functools import lru_cache
from typing import Any
from urllib.parse import quote

MASK = "[redacted]"

_HEADER = r"(?:proxy-)?authorization|(?:set-)?cookie"
_WORD = "token|secret|passw(?:or)?d|passphrase|credential|api[_-]?key|secrete?[_-]?key|private[_-]?key|assertion|jwt"
_NAME = rf"[\w-]*(?:{_WORD})(?:s|[_-]?values?|[_-]?\d{{1,3}})?|pwd|(?:[\w-]*[_-])?pass(?:code)?|t?otp|{_HEADER}"
_IS_NAME = re.compile(_NAME, re.IGNORECASE)
_IS_HEADER = re.compile(_HEADER, re.IGNORECASE)
# Before a colon these are words of a sentence, too: unless what follows looks like nothing but a secret.
_AMBIGUOUS = frozenset({
    "token", "secret", "assertion", "credential", "jwt", "pass", "passcode", "otp", "totp",
    "tokens", "secrets", "assertions", "credentials", "passwords",
})  # fmt: skip
_OPAQUE = r"(?=[\w+/=.~-]{0,64}\d)(?=[\w+/=.~-]{0,64}[A-Za-z])[\w+/=.~-]{16,}"
_IS_OPAQUE = re.compile(_OPAQUE)
_SPACE = r"(?:\s|\\+[nrt])*"  # line ends may be escaped, in JSON inside JSON
_ENCODED_QUOTE = "&quot;|&#3[49];|&#x2[27];|%2[27]"  # in HTML and in URLs
_FIELD = re.compile(
    rf"""(?<![\w-])(?P<name>{_NAME})(?P<quote>\\*["']|{_ENCODED_QUOTE})?\]?{_SPACE}"""
    rf"""(?P<separator>={{1,3}}>?|:=?|,|%3[AD]|\uff1a){_SPACE}(?:{_ENCODED_QUOTE})?"""
    r"""(?:[bru]{0,2}(?=\\*["']))?""",  # of a bytes literal
    re.IGNORECASE,
)
_QUOTE = re.compile(r"""(\\*)(["'])""")
_BARE = re.compile(r"[^\s&]+")
_LINE = re.compile(r"[^\r\n]*")
_SHAPES = re.compile(
    r"(?P<scheme>(?:bearer|(?-i:Basic))\s+)[^\s'\",}\\]+"
    # A JWT, which is `{"` in base64. Without its dots it must be a word of its own: random ids hold these letters, too.
    r"|(?-i:eyJ)[\w-]{10,}\.[\w-]*(?:\.[\w-]*)?|(?<![\w-])(?-i:eyJ)[\w-]{16,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|whsec_[\w+/=-]+"
    rf"|(?P<words>(?:{_WORD}) (?:is |was )?[\"'(<\[]?){_OPAQUE}"  # token "..." is invalid
    rf"|(?P<element><(?:[\w-]{{1,40}}:)?(?:{_NAME})(?:\s[^<>]{{0,200}})?>)[^<]+"
    r"|(?P<url>(?<![\w+.-])[a-z][\w+.-]*://[^\s/:]*:)\S{1,1024}(?=@)",  # up to the last @: a password may hold one
    re.IGNORECASE | re.DOTALL,
)
_HINTS = (
    "token", "secret", "pass", "pwd", "otp", "key", "authoriz", "cookie", "assertion", "bearer", "basic", "eyj",
    "://", "credential", "jwt", "whsec_",
)  # fmt: skip
_HINT = re.compile("|".join(_HINTS), re.IGNORECASE)


def may_hold_secret(text: str) -> bool:
    """Return False for text without any of the hints. Most text has none, and this check costs a tenth of the regex."""
    if not text.isascii():  # a letter such as U+017F is equal to an s for the regular expressions below
        return _HINT.search(text) is not None
    lower = text.lower()
    for hint in _HINTS:  # noqa: SIM110 - `any` with a generator takes twice as long, and this runs for every log line
        if hint in lower:
            return True
    return False


def reads_like_secret(text: str) -> bool:
    """Return whether a part of this name would be blanked in a sentence, in JSON or in a URL."""
    return may_hold_secret(text) and any(redacted(form) != form for form in (text, quote(text, safe="")))


def redacted(text: str) -> str:
    """Return `text` with its secrets blanked. If `text` is JSON, so is the result."""
    if not may_hold_secret(text):
        return text
    if text.lstrip()[:1] in {"{", "[", '"'}:
        try:
            value = json.loads(text, object_pairs_hook=_unique)
            cleaned = redacted_value(value)
        except (ValueError, RecursionError):  # fewer levels can be redacted than read
            pass
        else:
            return text if cleaned == value else json.dumps(cleaned, ensure_ascii=not text.isprintable())
    return _SHAPES.sub(_blank_shape, _blank_fields(text))


def redacted_value(value: Any) -> Any:
    """Return a value made of mappings, sequences and texts with its secrets blanked."""
    match value:
        case str():
            return redacted(value)
        case dict():
            return {name: _redacted_field(name, content) for name, content in value.items()}
        case list() | tuple() if type(value) in {list, tuple}:
            make = list if isinstance(value, list) else tuple
            if len(value) == 2 and isinstance(value[0], str) and _IS_NAME.fullmatch(value[0]):  # one of many headers
                return make((value[0], _redacted_field(*value)))
            return make(redacted_value(item) for item in value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse doubled names, because Python would show us only the last of two values."""
    if len(content := dict(pairs)) < len(pairs):
        raise ValueError("doubled name")
    return content


@lru_cache(1024)
def _is_secret_name(name: str) -> bool:
    return _IS_NAME.fullmatch(name) is not None


def _redacted_field(name: Any, content: Any) -> Any:
    is_secret = isinstance(name, str) and _is_secret_name(name) and content and content is not True
    return MASK if is_secret else redacted_value(content)


def _blank_fields(text: str) -> str:
    """Blank the values of named secrets in text that is not JSON as a whole."""
    parts, done = [], 0
    for found in _FIELD.finditer(text):
        name, quote, separator = found["name"].lower(), found["quote"], found["separator"]
        if found.start() < done or (separator == "," and not quote):
            continue
        if separator == ":" and not quote and name in _AMBIGUOUS and not _IS_OPAQUE.match(text, found.end()):
            continue
        if text.startswith(MASK, found.end()):
            continue
        begin, end = _span(text, found.end(), is_header=bool(_IS_HEADER.fullmatch(name)) and not quote)
        parts += [text[done:begin], MASK]
        done = end
    return "".join([*parts, text[done:]])


def _span(text: str, start: int, is_header: bool) -> tuple[int, int]:
    """Return where the value at `start` begins and ends.

    A quoted value ends at the next quote of its kind that is not escaped more often than the first one. Each level of
    JSON in JSON adds backslashes. Without such a quote the text was cut off, and all the rest is the value.
    """
    if opening := _QUOTE.match(text, start):
        depth, kind = len(opening[1]), opening[2]
        for quote in _QUOTE.finditer(text, opening.end()):
            if quote[2] == kind and len(quote[1]) <= depth:
                return opening.end(), quote.start()
        return opening.end(), len(text)
    if is_header or text[start : start + 1] in {"{", "[", "("}:
        end = _LINE.match(text, start)
    else:
        end = _BARE.match(text, start)
    return start, end.end() if end else start


def _blank_shape(found: re.Match[str]) -> str:
    return f"{found['scheme'] or found['url'] or found['words'] or found['element'] or ''}{MASK}"
