"""The one place that turns an HTTP answer into a JSON value or an error of `worker.errors`.

B2COPY documents no error bodies. Its routes look like gRPC behind HTTP, `{"code": 5, "message": "...", "details": []}`,
so that mapping is assumed (https://grpc.github.io/grpc/core/md_doc_statuscodes.html). Whatever the body holds is stored
as evidence, and its shape never fails us.
"""

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
from worker.http import Answer


def value_of(answer: Answer, name: str) -> Any:
    """Return the JSON of a 2xx answer, None if it says that it has no body. `name` is the route's, for messages.

    Raises the error that any other answer means, and `UnknownOutcome` for a 2xx without whole JSON: a connection cut
    inside the headers can look like an empty 200.
    """
    if not 200 <= answer.status < 300:
        raise _error_of(answer, name)
    if answer.is_empty:
        return None
    try:
        return answer.json()
    except ValueError:
        text = answer.server_message() or "an empty body"
        raise UnknownOutcome(f"{name}: HTTP {answer.status} without whole JSON", answer.status, text) from None


def _error_of(answer: Answer, name: str) -> B2CopyError:
    status, text = answer.status, answer.server_message()
    match status:
        case 429:
            return RateLimited(name, status, text, answer.retry_after)
        case 401 | 403:
            return AccessRejected(name, status, text)
        case 404:
            return NotFound(name, status, text)
        case 409:
            return Conflict(name, status, text)
        case 501:  # gRPC Unimplemented: there is no such method, however often we ask
            return Rejected(name, status, text)
        case 307 | 308:  # "repeat it at another address": not processed here, and not followed with our token
            return Unavailable(f"{name}: redirected, is B2COPY_HOST right?", status, text)
    if status >= 500 or status in {408, 425}:
        return Unavailable(name, status, text, answer.retry_after)
    if 400 <= status < 500:
        return Rejected(name, status, text)
    return UnknownOutcome(f"{name}: an answer that nobody understands", status, text)
