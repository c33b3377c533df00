"""Turns an answer of B2COPY's API into a JSON value or an error of `worker.errors`.

Answers about tokens and notices are read elsewhere: `session/token_endpoints.py`, `webhook/endpoint.py`.

B2COPY documents no error bodies. Its routes look like gRPC behind HTTP, `{"code": 5, "message": "...", "details": []}`,
so that mapping is assumed (https://grpc.github.io/grpc/core/md_doc_statuscodes.html). So is that the body of a refusal
is a JSON object, with any fields. A refusal (4xx, 501) with another body is a proxy's: the texts of Traefik and of a
Kubernetes default backend, the HTML of nginx or a firewall, the empty body of Envoy, and also a JSON list, text or
number, because neither generation of the API is known to refuse by one. 409, 413, 414 and 422 are always about the
request. A gateway that has no route may also answer 404, 405 or 501 with a JSON object (Kong: `{"message": "no Route
matched with those values"}`). So on a gRPC route these statuses are B2COPY's only with a gRPC code.
`b2copy-sync verify` tests this (`errors.form`). What the body says is stored as evidence and decides nothing else.
"""

from typing import Any

from worker.errors import (
    AccessRejected,
    B2CopyError,
    Conflict,
    NotFound,
    NotFromB2Copy,
    Permanent,
    RateLimited,
    Rejected,
    Unavailable,
    UnknownOutcome,
)
from worker.http import Answer
from worker.http.answer import NOT_PROCESSED, server_message

# What stands beside the message of a refusal. An ordinary answer may have a code, a status and a message too, and has
# fields of its own.
_OF_REFUSAL = frozenset(
    {"code", "status", "message", "details", "timestamp", "path", "trace_id", "traceId", "request_id", "requestId"}
)
_CODES_OF_SUCCESS = (None, "", 0, "0", 200, "200", "OK")
_EMPTY: tuple[Any, ...] = (None, "", [], {})
_GRPC_ERRORS = range(1, 17)  # 0 is success
_ABOUT_THE_REQUEST = frozenset({409, 413, 414, 422})  # statuses that no proxy gives to everybody
_NO_ROUTE = frozenset({404, 405, 501})  # statuses of a gateway that has no route to B2COPY
_FAILURES = frozenset({"error", "fail", "failed", "failure"})


def value_of(answer: Answer, name: str, is_secret: bool = False, is_grpc: bool = False) -> Any:
    """Return the JSON of a 2xx answer, None if it says that it has no body.

    `name` is the route's, for messages. `is_grpc`: its errors are gRPC's.

    Raises the error that any other answer means, and `UnknownOutcome` for a 2xx without whole JSON: a connection cut
    inside the headers can look like an empty 200. Nothing of a 2xx that `is_secret` is quoted.
    """
    if not 200 <= answer.status < 300:
        error = _error_of(answer.status, answer.server_message(), answer.retry_after, name)
        if isinstance(error, Permanent) and is_from_proxy(answer, is_grpc):
            raise NotFromB2Copy(f"{name}: a proxy refused it, not B2COPY", answer.status, error.server_message)
        raise error
    if answer.is_empty:
        return None
    try:
        return answer.json()
    except ValueError:
        text = "" if is_secret else answer.server_message() or "an empty body"
        raise UnknownOutcome(f"{name}: HTTP {answer.status} without whole JSON", answer.status, text) from None


def is_from_proxy(answer: Answer, is_grpc: bool) -> bool:
    """Return whether a refusal (4xx, 501) comes from a proxy or gateway in front of B2COPY."""
    if answer.status in _ABOUT_THE_REQUEST:
        return False
    if not answer.is_json_object:
        return True
    return is_grpc and answer.status in _NO_ROUTE and not _has_grpc_code(answer)


def _has_grpc_code(answer: Answer) -> bool:
    try:
        code = answer.json().get("code")
    except ValueError:  # a name has two values, or a number is none
        return False
    return type(code) is int and code in _GRPC_ERRORS


def data_of(body: Any, name: str, is_secret: bool = False) -> Any:
    """Return what an answer of generation 1 holds, in its envelope (`status`, `meta`, `data`) or bare.

    The envelope has a status of its own, also inside a 200. Raises the error that such a status means, and
    `UnknownOutcome` if a part of the envelope says in another way that the request failed. Nothing of an answer that
    `is_secret` is quoted.
    """
    if not isinstance(body, dict):
        return body
    meta = body.get("meta")
    for status in (_status(body), _status(meta)):
        if status is not None and status >= 400:
            text = "" if is_secret else server_message(body)
            if status in NOT_PROCESSED:  # it has run, perhaps in part, or it would not say 200
                raise Unavailable(f"{name}: HTTP says success and the body says {status}", 200, text)
            raise _error_of(status, text, None, name)
    for part in (body, meta, body.get("data")):
        if says_failure(part) or (isinstance(part, dict) and _is_failure(part.get("status"))):
            raise contradiction({} if is_secret else body, name)
    is_envelope = "data" in body and ("meta" in body or _status(body) is not None)
    return body["data"] if is_envelope else body


def says_failure(part: Any) -> bool:
    """Return whether an object of a 2xx answer says that the request failed, in one of the usual ways."""
    if not isinstance(part, dict):
        return False
    return (
        bool(part.get("error") or part.get("errors"))
        or any(part.get(name, True) in (False, "false") for name in ("success", "ok"))
        or _is_refusal(part)
    )


def _is_refusal(part: dict[str, Any]) -> bool:
    """Return whether an object is a message with a code or status of failure, and nothing else."""
    if "message" not in part or not {name for name, value in part.items() if value not in _EMPTY} <= _OF_REFUSAL:
        return False
    status = _status(part)
    return (
        part.get("code") not in _CODES_OF_SUCCESS
        or _is_failure(part.get("status"))
        or (status is not None and status >= 400)
    )


def contradiction(body: Any, name: str) -> UnknownOutcome:
    """Return the error for a 2xx whose body says that the request failed: neither of the two can be believed."""
    return UnknownOutcome(f"{name}: HTTP says success and the body says failure", 200, server_message(body))


def _is_failure(status: Any) -> bool:
    return status is False or (isinstance(status, str) and status.lower() in _FAILURES)


def _status(part: Any) -> int | None:
    """Return the HTTP status that part of an envelope holds, as a number or as text."""
    status = part.get("status") if isinstance(part, dict) else None
    if isinstance(status, str) and status.isascii() and status.isdigit() and len(status) == 3:
        status = int(status)
    return status if type(status) is int and 100 <= status <= 599 else None


def _error_of(status: int, text: str, retry_after: float | None, name: str) -> B2CopyError:
    match status:
        case 429:
            return RateLimited(name, status, text, retry_after)
        case 401 | 403:
            return AccessRejected(name, status, text)
        case 404:
            return NotFound(name, status, text)
        case 409:
            return Conflict(name, status, text)
        case 499:  # gRPC Cancelled: the caller is gone, and what was begun may still be done
            return UnknownOutcome(name, status, text)
        case 501:  # gRPC Unimplemented: there is no such method, however often we ask
            return Rejected(name, status, text)
        case 307 | 308:  # "repeat it at another address": not processed here, and not followed with our token
            return Unavailable(f"{name}: redirected, is B2COPY_HOST right?", status, text)
    if status >= 500 or status in NOT_PROCESSED:
        return Unavailable(name, status, text, retry_after)
    if 400 <= status < 500:
        return Rejected(name, status, text)
    return UnknownOutcome(f"{name}: an unexpected status, which does not say what was done", status, text)
