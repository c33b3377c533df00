"""A whole HTTP answer: its body, `Date`, `Retry-After` and the server's text.

Only `session/token_endpoints.py` reads the text itself, because it must remove the secret that was presented first.
"""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from worker.exact_json import number_as_written
from worker.operation import MESSAGE_LIMIT
from worker.watch.redact import redacted

RETRY_AFTER_MAX = 86400.0  # seconds; a longer Retry-After is cut, because operations would miss their deadlines

NOT_PROCESSED = frozenset({307, 308, 407, 408, 421, 425, 503})
"""Statuses of a server that has not processed the request. 307, 308: it redirects. 407: a proxy asks for a login. 421:
the wrong server. 408, 425: the request was incomplete or too early. 503: busy."""

_READ = 16 * 1024  # bytes of a body from which a server message is taken
_DEPTH = 4  # levels of a JSON body that are searched for a server message
_NAMES = ("message", "error", "errors", "details")


class AmbiguousJson(ValueError):
    """An object gives two values to one name."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered, whole. `headers` are looked up in any case.

    `first_was_lost`: the same request was sent before, on a connection that ended without an answer. It may have been
    carried out, so a refusal of the second one proves nothing. `token`: the session's token that the request carried.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    first_was_lost: bool = False
    token: Any = field(default=None, repr=False, compare=False)

    @property
    def server_time(self) -> float | None:
        """The `Date` header as Unix seconds, if there is a valid one (RFC 9110 section 6.6.1)."""
        return _instant(self.headers.get("Date"))

    @property
    def retry_after(self) -> float | None:
        """The `Retry-After` header in seconds, at most a day; a number or a date (RFC 9110 section 10.2.3)."""
        value = (self.headers.get("Retry-After") or "").strip()
        if re.fullmatch(r"[0-9]{1,15}", value):
            return min(RETRY_AFTER_MAX, float(value))
        at = _instant(value)
        if at is None:
            return None
        now = self.server_time
        return min(RETRY_AFTER_MAX, max(0.0, at - (time.time() if now is None else now)))

    @property
    def is_empty(self) -> bool:
        """Whether the server said that there is no body; a connection cut before the body is not such an answer.

        Only the last chunk ends a chunked body. With a `Content-Encoding`, bytes may have come that decode to nothing,
        as the first ones of a compressed body that was cut.
        """
        if self.body:
            return False
        length = self.headers.get("Content-Length", "").strip()
        if self.status in {204, 205} or re.fullmatch(r"0+(?:\s*,\s*0+)*", length):
            return True
        encodings = self.headers.get("Transfer-Encoding", "").lower().split(",")
        return encodings[-1].strip() == "chunked" and "Content-Encoding" not in self.headers

    def json(self) -> Any:
        """Return the decoded body. A number with more digits than Python's numbers keep is a text.

        Raises `ValueError` if it is not JSON (RFC 8259), cut, or nested too deep, and `AmbiguousJson` if an object
        gives two values to one name: nobody can tell which one was meant.
        """
        try:
            return _DECODER.decode(self.body.decode(json.detect_encoding(self.body), "surrogatepass"))
        except RecursionError:
            raise ValueError("nested too deep") from None

    @property
    def is_json_object(self) -> bool:
        """Whether the body has the shape that B2COPY's API gives its refusals; a proxy sends text, HTML or nothing.

        No value is read, so a name may have two.
        """
        try:
            return isinstance(json.loads(self.body), dict)
        except (ValueError, RecursionError):
            return False

    def server_message(self) -> str:
        """Return the server's own text from a body of any shape: one line, bounded, redacted."""
        try:
            return server_message(self.json())
        except ValueError:
            text = self.body[:_READ].decode("utf-8", "replace")
            return one_line(re.sub(r"<[^<>]*>", " ", text))  # an HTML page of some proxy

    def __repr__(self) -> str:
        return f"<Answer {self.status}, {len(self.body)} bytes>"


def server_message(body: Any) -> str:
    """Return the text in a decoded JSON body: what stands under the usual names, otherwise all of it."""
    return one_line(_text_of(body, _DEPTH))


def one_line(text: str) -> str:
    """Return a server's text as it may be stored, logged and shown: one line, bounded, redacted, valid Unicode."""
    text = text[: MESSAGE_LIMIT * 8].encode("utf-8", "replace").decode()  # a lone surrogate is valid JSON
    # Twice, because redacting JSON writes it again, and an escape may then be written as the character itself.
    return _printable(redacted(_printable(text)))[:MESSAGE_LIMIT]


def _printable(text: str) -> str:
    return re.sub(r" +", " ", "".join(char if char.isprintable() else " " for char in text)).strip()


def _text_of(body: Any, depth: int) -> str:
    if isinstance(body, Mapping):
        named = [_text_of(body[name], depth - 1) for name in _NAMES if body.get(name)] if depth else []
        return "; ".join(text for text in named if text) or _json_of(body)
    if isinstance(body, list) and depth:
        return "; ".join(_text_of(part, depth - 1) for part in body[:10])
    return body if isinstance(body, str) else _json_of(body)


def _json_of(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "(nested too deep to be shown)"


def _instant(value: str | None) -> float | None:
    if not value:
        return None
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs) and any(found[name] != value for name, value in pairs):
        raise AmbiguousJson("one name has two values")
    return found


_DECODER = json.JSONDecoder(
    parse_float=number_as_written, parse_constant=_refuse_constant, object_pairs_hook=_unambiguous
)
