"""The one place that turns an HTTP answer into a value or an error of `worker.errors`.

B2COPY documents no error bodies. Its routes look like gRPC behind HTTP, `{"code": 5, "message": "...", "details": []}`,
so that mapping is assumed; whatever stands in the body is kept as evidence, and its shape never fails us.
"""

import json
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from worker.errors import (
    AccessRejected,
    B2CopyError,
    Conflict,
    NotFound,
    RateLimited,
    Rejected,
    Unavailable,
    UnknownOutcome,
)
from worker.session import Answer
from worker.watch.redact import redacted

WORDS_LIMIT = 500  # characters of B2COPY's own words kept as evidence
RETRY_AFTER_LIMIT = 86400.0  # seconds: a longer one is a mistake, and would hold an operation beyond its deadline


def value_of(answer: Answer, what: str, *, repeatable: bool) -> Any:
    """Return the JSON of a 2xx answer; raise what the answer means otherwise.

    `repeatable` says that the same call may be made again without harm. If it may not, an answer that leaves open
    whether the call had its effect is an `UnknownOutcome`, where a repeatable call would simply be `Unavailable`.
    """
    if 200 <= answer.status < 300:
        return _json_of(answer, what)
    raise _error_of(answer, what, repeatable=repeatable)


def words_of(body: bytes) -> str:
    """Return B2COPY's own words from an answer of any shape, shortened, without anything that looks like a token."""
    text = body.decode("utf-8", "replace").strip()
    try:
        words = said(json.loads(text))
    except (ValueError, RecursionError):
        words = re.sub(r"<[^>]*>", " ", text)  # an HTML page of some proxy
    # A lone surrogate is valid JSON, but no database takes it.
    words = re.sub(r"\s+", " ", words).strip().encode("utf-8", "replace").decode()
    return redacted(words)[:WORDS_LIMIT]


def _json_of(answer: Answer, what: str) -> Any:
    """A connection cut inside the headers looks like an empty 200 to requests: only whole JSON is believed."""
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):  # the latter from thousands of brackets
        words = words_of(answer.body) or "an empty body"
        raise UnknownOutcome(f"{what}: HTTP {answer.status} without whole JSON", None, words) from None


def _error_of(answer: Answer, what: str, *, repeatable: bool) -> B2CopyError:
    status, words = answer.status, words_of(answer.body)
    match status:
        case 429:
            return RateLimited(what, status, words, retry_after(answer.headers))
        case 401 | 403:
            return AccessRejected(what, status, words)
        case 404:
            return NotFound(what, status, words)
        case 409:
            return Conflict(what, status, words)
        case 501:  # gRPC Unimplemented: no such method, however often we ask
            return Rejected(what, status, words)
        case (
            408 | 425 | 503
        ):  # taken as not processed: who is busy, or still waits for the request, has not acted on it
            return Unavailable(what, status, words, retry_after(answer.headers))
    if status >= 500:
        if not repeatable:
            return UnknownOutcome(what, status, words)
        return Unavailable(what, status, words, retry_after(answer.headers))
    if status >= 400:
        return Rejected(what, status, words)
    # A redirect is not followed: it would carry the payload to another host.
    return Unavailable(f"{what}: redirected, is B2COPY_HOST right?", status, words)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return `Retry-After` in seconds, a day at most; it may be a number or a date (RFC 9110 section 10.2.3)."""
    said = headers.get("Retry-After", "").strip()
    if not said:
        return None
    if said.isdecimal():
        return min(RETRY_AFTER_LIMIT, float(said))
    try:
        at = parsedate_to_datetime(said).timestamp()
        now = parsedate_to_datetime(headers["Date"]).timestamp() if "Date" in headers else time.time()
    except (ValueError, OverflowError):
        return None
    return min(RETRY_AFTER_LIMIT, max(0.0, at - now))


def said(body: Any) -> str:
    """Return the words in a decoded body: those under the usual names, else all of it."""
    if isinstance(body, Mapping):
        parts = [said(body[name]) for name in ("message", "error", "errors", "details") if body.get(name)]
        return "; ".join(part for part in parts if part) or json.dumps(body, ensure_ascii=False)
    if isinstance(body, list):
        return "; ".join(said(part) for part in body)
    return str(body)
