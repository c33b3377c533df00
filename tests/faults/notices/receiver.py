"""A CRM's webhook that can misbehave."""

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple

from worker.testbed.ports import free_port
from worker.webhook.endpoint import DEADLINE_S
from worker.webhook.signing import Secrets

SECRET = "whsec_" + "Y3Jt" * 8
PATH = "/hooks"
LATE_S = DEADLINE_S + 1.0  # seconds; the sender has given up this delivery, and does not know that it arrived

Mode = Literal["takes", "fails", "hangs", "redirects", "late", "dead"]


class Received(NamedTuple):
    """A notice that the CRM got: it has acted on it, whatever it answered. `at` is Unix time in seconds."""

    id: str
    key: str
    sequence: int
    body: bytes
    at: float


class Receiver:
    """A context manager. `mode` says how it answers; while it is `dead`, nobody listens on its port.

    `requests` counts the deliveries in each mode, `followed` the requests of a sender that follows a redirect.
    """

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.unsigned: list[str] = []  # why a request could not be trusted
        self.requests: Counter[Mode] = Counter()
        self.followed = 0
        self._mode: Mode = "takes"
        self._port = free_port()
        self._changed = threading.Condition()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}{PATH}"

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        with self._changed:
            self._mode = mode
            self._changed.notify_all()
        if mode == "dead":
            self._close()
        elif self._server is None:
            self._listen()

    def count(self, is_delivery: bool) -> Mode:
        """Count a request, and return how to answer a delivery."""
        with self._changed:
            if is_delivery:
                self.requests[self._mode] += 1
            else:
                self.followed += 1
            return self._mode

    def wait_while(self, mode: Mode, seconds: float) -> None:
        """Wait so long, but not longer than it answers in this way."""
        with self._changed:
            self._changed.wait_for(lambda: self._mode != mode, seconds)

    def __enter__(self) -> "Receiver":
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.mode = "dead"

    def _listen(self) -> None:
        handler = type("Handler", (_Handler,), {"receiver": self})
        self._server = _Server(("127.0.0.1", self._port), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the usual 5 a worker that opens ten connections waits a second for one of them


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are used again
    receiver: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != PATH:
            self._is_not_a_delivery()
            return
        mode = self.receiver.count(is_delivery=True)
        match mode:
            case "takes":
                self._take(body)
                self._answer(204)
            case "late":
                self._take(body)
                self.receiver.wait_while(mode, LATE_S)
                self._answer(204)
            case "fails":
                self._answer(500)
            case "redirects":
                self._answer(302, Location=self.receiver.url + "/elsewhere")
            case "hangs":
                self.receiver.wait_while(mode, 2 * LATE_S)
                self.close_connection = True
            case "dead":
                self.close_connection = True

    def do_GET(self) -> None:
        self._is_not_a_delivery()

    def _is_not_a_delivery(self) -> None:
        self.receiver.count(is_delivery=False)
        self._answer(404)

    def _take(self, body: bytes) -> None:
        if problem := Secrets([SECRET]).problem(body, dict(self.headers.items())):
            self.receiver.unsigned.append(problem)
            return
        data: dict[str, Any] = json.loads(body)["data"]
        notice_id = self.headers["webhook-id"]
        self.receiver.received.append(Received(notice_id, data["key"], data["sequence"], body, time.time()))

    def _answer(self, status: int, **headers: str) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True  # the sender has given up

    def log_message(self, format: str, *args: Any) -> None:
        pass
