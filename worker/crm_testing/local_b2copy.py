"""The local B2COPY in this process: its server, a log of every call, and a login that needs no Redis."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from aiohttp import web

from worker.http import event_loop
from worker.sandbox.assertion import Keys
from worker.sandbox.b2copy import B2Copy
from worker.sandbox.routes import route_of
from worker.sandbox.server import Server
from worker.sandbox.switches import Switches

T = TypeVar("T")

_SHOWN = 300  # characters of a body that the log shows


class Call(NamedTuple):
    """One call as B2COPY saw it. `status` 0: no answer was sent. `at_s`: seconds since the fixture was made."""

    at_s: float
    route: str
    method: str
    path: str
    body: str
    status: int
    answer: str

    def __str__(self) -> str:
        answered = f"{self.status} {self.answer[:_SHOWN]}" if self.status else "no answer"
        return f"{self.at_s:7.3f} s  {self.method} {self.path} {self.body[:_SHOWN]} -> {answered}"


class LoggingServer(Server):
    """The sandbox's server. `calls` holds every call in the order of their answers."""

    def __init__(self) -> None:
        # B2COPY opens accounts for registered clients alone. A CRM that mixes up its own ids with B2COPY's must see it.
        super().__init__(B2Copy(Switches(clients="registered"), Keys()))
        self.url = ""
        self.calls: list[Call] = []
        self._began = time.monotonic()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        at_s = time.monotonic() - self._began
        body = (await request.read()).decode(errors="replace")
        response = await super().handle(request)
        is_whole = isinstance(response, web.Response) and type(response) is web.Response
        answer = response.body if isinstance(response, web.Response) and isinstance(response.body, bytes) else b""
        path = request.rel_url.path
        status = response.status if is_whole else 0
        route = route_of(request.method, path)
        self.calls.append(Call(at_s, route, request.method, path, body, status, answer.decode(errors="replace")))
        return response

    def on_loop(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function of the server where the server runs, and return its result."""

        async def call() -> T:
            return function(*args)

        return event_loop().run(call())

    @classmethod
    def start(cls) -> "LoggingServer":
        """Return a server that listens on a free port of the loopback address."""

        async def listen() -> LoggingServer:
            server = cls()
            server.url = f"http://127.0.0.1:{await server.listener.open('127.0.0.1', 0)}"
            return server

        return event_loop().run(listen())

    def stop(self) -> None:
        self.on_loop(self.listener.close)


class Token(NamedTuple):
    access: str
    generation: int


class LocalLogin:
    """A session for one process: a token of the local B2COPY, and a new one when that is refused."""

    def __init__(self, server: LoggingServer) -> None:
        self._server, self._logins = server, 0
        self._token = self._log_in()

    def cached(self) -> Token:
        return self._token

    current = cached

    def rejected(self, token: Token, *, is_doubtful: bool = False) -> Token:
        if token == self._token:
            self._token = self._log_in()
        return self._token

    def clock(self) -> int:
        return self._logins

    def _log_in(self) -> Token:
        # Called in threads of ours while the loop is free, so the server may be asked on its loop.
        b2copy = self._server.b2copy
        pair = self._server.on_loop(b2copy.tokens.log_in, time.monotonic(), b2copy.now(), b2copy.switches)
        self._logins += 1
        return Token(pair.access, self._logins)
