"""What the sandbox answers: a status with JSON, and refusals in any shape that a server or gateway may give them."""

import json
from typing import Any

from worker.sandbox.switches import Switches

# google.rpc.Code by HTTP status: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
_GRPC = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 412: 9, 429: 8, 500: 13, 501: 12, 503: 14, 504: 4}


class Answer:
    """A whole HTTP answer, before a fault changes it."""

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
        """Return the same answer without one field."""
        data = json.loads(self.body)
        if isinstance(data, dict):
            data.pop(field, None)
        return Answer(self.status, json.dumps(data).encode(), self.content_type, self.headers)


class Refused(Exception):
    """The call is refused with an HTTP status and a message."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, message)
        self.status, self.message, self.headers = status, message, headers


def answer(data: Any) -> Answer:
    return Answer(200, json.dumps(data, separators=(",", ":")).encode())


def enveloped(data: Any, status: int = 200) -> dict[str, Any]:
    """Return the envelope that routes under /api/v1 put around their data."""
    return {"status": status, "meta": {"behaviours": [], "status": status}, "data": data}


def refusal(switches: Switches, refused: Refused) -> Answer:
    """Return a refusal in the shape of the switch `error_shape`, because B2COPY documents none."""
    status, message, headers = refused.status, refused.message, refused.headers
    match switches.error_shape:
        case "text":
            return Answer(status, message.encode(errors="replace"), "text/plain", headers)
        case "html":
            page = f"<html><head><title>{status}</title></head><body><h1>{message}</h1></body></html>"
            return Answer(status, page.encode(errors="replace"), "text/html", headers)
        case "empty":
            return Answer(status, b"", "text/plain", headers)
        case "message":
            data: Any = {"message": message}
        case "error":
            data = {"error": message}
        case "errors":
            data = {"errors": [{"code": str(status), "message": message}]}
        case "grpc":
            data = {"code": _GRPC.get(status, 2), "message": message, "details": []}
    return Answer(status, json.dumps(data).encode(), headers=headers)
