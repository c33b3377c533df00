"""What the sandbox answers: a status with JSON, and refusals in any of the shapes a gateway may give them."""

import json
from typing import Any

from worker.sandbox.switches import Switches

# google.rpc.Code by HTTP status: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
_GRPC = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 412: 9, 429: 8, 500: 13, 501: 12, 503: 14, 504: 4}


class Answer:
    """A whole HTTP answer, before any fault touches it."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status, self.body, self.content_type, self.headers = status, body, content_type, headers

    def without(self, field: str) -> "Answer":
        """Return the same answer with one field left out."""
        data = json.loads(self.body)
        data.pop(field, None)
        return Answer(self.status, json.dumps(data).encode(), self.content_type, self.headers)


class Refused(Exception):
    """The call is refused with an HTTP status and words."""

    def __init__(self, status: int, words: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, words)
        self.status, self.words, self.headers = status, words, headers


def answer(data: Any) -> Answer:
    return Answer(200, json.dumps(data, separators=(",", ":")).encode())


def refusal(switches: Switches, refused: Refused) -> Answer:
    """Dress a refusal in the shape the switch asks for: B2COPY documents none."""
    status, words, headers = refused.status, refused.words, refused.headers
    match switches.error_shape:
        case "text":
            return Answer(status, words.encode(), "text/plain", headers)
        case "html":
            page = f"<html><head><title>{status}</title></head><body><h1>{words}</h1></body></html>"
            return Answer(status, page.encode(), "text/html", headers)
        case "empty":
            return Answer(status, b"", "text/plain", headers)
        case "error":
            data: Any = {"error": words}
        case "errors":
            data = {"errors": [{"code": str(status), "message": words}]}
        case _:
            data = {"code": _GRPC.get(status, 2), "message": words, "details": []}
    return Answer(status, json.dumps(data).encode(), headers=headers)
