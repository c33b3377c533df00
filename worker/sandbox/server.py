"""The HTTP edge: what arrives, how long it takes, and every way an answer can go missing.

aiohttp's low-level server, since its C parser and a plain dispatch answer thousands of requests a second on one core.
"""

import asyncio
import random
import time
from collections import Counter
from email.utils import formatdate
from typing import Any
from weakref import WeakKeyDictionary

from aiohttp import web

from worker.sandbox.answers import Answer, Refused, refusal
from worker.sandbox.b2copy import B2Copy, Call
from worker.sandbox.control_routes import Control
from worker.sandbox.counters import Counters
from worker.sandbox.switches import TOKEN_ROUTES, Fault, Switches


class Server:
    """Answers for `b2copy` over HTTP, with the faults its switches ask for."""

    def __init__(self, b2copy: B2Copy) -> None:
        self.b2copy = b2copy
        self.counters = Counters()
        self._requests_on: WeakKeyDictionary[asyncio.BaseTransport, int] = WeakKeyDictionary()
        self._used_faults: Counter[Fault] = Counter()
        self._allowance = 1.0
        self._allowance_at = time.monotonic()
        self._late: set[asyncio.TimerHandle] = set()
        self.listener = Listener(self.handle)
        self.control = Control(self)

    def forget(self) -> None:
        """Start afresh: counters, tokens, effects, fee runs. Switches and keys stay."""
        for timer in self._late:
            timer.cancel()
        self._late.clear()
        self._used_faults.clear()
        self.counters = Counters()
        self.b2copy.forget()

    def switch(self, changes: dict[str, Any]) -> Switches:
        """Change switches while running; faults that are set count their calls anew. Raises ValidationError."""
        self.b2copy.switches = self.b2copy.switches.changed(changes)
        if "faults" in changes:
            self._used_faults.clear()
        return self.b2copy.switches

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.path
        if path.startswith("/_sandbox/") or path == "/openapi.json":
            return await self.control.handle(request)
        route = self.b2copy.route_of(request.method, path)
        self.counters.calls[route] += 1
        if route not in TOKEN_ROUTES:
            return await self._serve(route, request)
        call = self.counters.token_call_starts(route)
        try:
            response = await self._serve(route, request)
            call.status = response.status if not isinstance(response, Dropped) else 0
            return response
        finally:
            self.counters.token_call_ends(call)

    async def _serve(self, route: str, request: web.BaseRequest) -> web.StreamResponse:
        switches = self.b2copy.switches
        if (switches.drop_reused or switches.idle_timeout) and not self._keeps(request, switches):
            return _drop(request)
        raw = await request.read()  # at most 1 MiB, or aiohttp answers 413
        if switches.latency and (latency := switches.latency_of(route)):
            await asyncio.sleep(latency)
        if switches.rate_limit and not self._allowed(switches.rate_limit):
            retry_after = {"Retry-After": switches.rate_limit_retry_after} if switches.rate_limit_retry_after else None
            return self._respond(route, refusal(switches, Refused(429, "too many requests", retry_after)))
        transport = request.transport
        peer = transport.get_extra_info("peername")[0] if transport is not None else ""
        headers = request.headers
        call = Call(request.method, request.rel_url, headers.get("Authorization", ""), raw, peer)
        fault = self._fault(route) if switches.faults else None
        if fault is None:
            return self._respond(route, self.b2copy.carry_out(route, call))
        self.counters.faults[fault.what] += 1
        return await self._fail(fault, route, call, request)

    def _respond(self, route: str, said: Answer) -> web.Response:
        self.counters.answered(route, said.status)
        response = web.Response(
            body=said.body, status=said.status, headers=said.headers, content_type=said.content_type
        )
        if self.b2copy.switches.clock_offset:
            response.headers["Date"] = formatdate(self.b2copy.now(), usegmt=True)
        return response

    def _keeps(self, request: web.BaseRequest, switches: Switches) -> bool:
        """Say whether this connection may carry one more request; and close it once idle for too long."""
        transport = request.transport
        if transport is None:
            return False
        count = self._requests_on[transport] = self._requests_on.get(transport, 0) + 1
        if switches.drop_reused and count > 1:
            return False
        if switches.idle_timeout:
            asyncio.get_running_loop().call_later(switches.idle_timeout, self._close_idle, transport, count)
        return True

    def _close_idle(self, transport: asyncio.BaseTransport, count: int) -> None:
        if self._requests_on.get(transport) == count:
            transport.close()

    def _allowed(self, rate: float) -> bool:
        """A bucket that holds one second's worth, at least one call."""
        now = time.monotonic()
        self._allowance = min(max(rate, 1.0), self._allowance + (now - self._allowance_at) * rate)
        self._allowance_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def _fault(self, route: str) -> Fault | None:
        for fault in self.b2copy.switches.faults:
            if not fault.concerns(route) or (fault.share < 1 and random.random() >= fault.share):  # noqa: S311
                continue
            if fault.next is None:
                return fault
            if self._used_faults[fault] < fault.next:
                self._used_faults[fault] += 1
                return fault
        return None

    async def _fail(self, fault: Fault, route: str, call: Call, request: web.BaseRequest) -> web.StreamResponse:
        said = None
        if fault.effect == "late":
            loop = asyncio.get_running_loop()
            self._late.add(loop.call_later(fault.seconds, self.b2copy.carry_out, route, call))
        elif fault.effect == "done" or fault.what in {"trickle", "truncate", "lacks"}:
            said = self.b2copy.carry_out(route, call)
        switches = self.b2copy.switches
        match fault.what:
            case "status":
                extra = {"Retry-After": fault.retry_after, "Location": fault.location}
                headers = {name: value for name, value in extra.items() if value is not None}
                return self._respond(route, refusal(switches, Refused(fault.status, fault.words, headers)))
            case "drop":
                return _drop(request)
            case "silence":
                await _silence(request, fault.seconds)
                return _drop(request)
            case "html":
                page = b"<html><body><h1>Just a moment...</h1></body></html>"
                return self._respond(route, Answer(200, page, "text/html"))
            case "empty":
                return self._respond(route, Answer(200, b""))
        assert said is not None  # noqa: S101
        match fault.what:
            case "lacks":
                return self._respond(route, said.without(fault.field))
            case "truncate":
                return await self._cut(route, said, request)
            case _:
                return await self._trickle(route, said, request, fault.seconds or 0.2)

    async def _cut(self, route: str, said: Answer, request: web.BaseRequest) -> web.StreamResponse:
        """Announce the whole body, send half of it, and close."""
        response = await self._begin(route, said, request)
        await response.write(said.body[: len(said.body) // 2])
        return _drop(request, politely=True)

    async def _trickle(self, route: str, said: Answer, request: web.BaseRequest, pause: float) -> web.StreamResponse:
        response = await self._begin(route, said, request)
        for byte in said.body:
            if _gone(request):
                return _drop(request)
            await response.write(bytes([byte]))
            await asyncio.sleep(pause)
        await response.write_eof()
        return response

    async def _begin(self, route: str, said: Answer, request: web.BaseRequest) -> web.StreamResponse:
        self.counters.answered(route, said.status)
        response = web.StreamResponse(status=said.status)
        response.content_type = said.content_type
        response.content_length = len(said.body)
        await response.prepare(request)
        return response


class Listener:
    """The listening socket, which can go away for a while: connections are then refused by the kernel."""

    def __init__(self, handle: Any) -> None:
        self._server = web.Server(handle, access_log=None, keepalive_timeout=3600.0)
        self._socket: asyncio.Server | None = None
        self._host, self._port = "", 0

    async def open(self, host: str, port: int) -> int:
        """Listen; return the port, which is a free one for 0."""
        loop = asyncio.get_running_loop()
        self._socket = await loop.create_server(self._server, host, port, backlog=1024, reuse_address=True)
        self._host, self._port = host, self._socket.sockets[0].getsockname()[1]
        return self._port

    async def go_away(self, seconds: float) -> None:
        """Refuse and cut all connections, then listen again."""
        self.close()
        await asyncio.sleep(seconds)
        await self.open(self._host, self._port)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        for connection in list(self._server.connections):
            if connection.transport is not None:
                connection.transport.abort()


class Dropped(web.Response):
    """Never reaches the caller: the connection is gone."""


def _gone(request: web.BaseRequest) -> bool:
    return request.transport is None or request.transport.is_closing()


def _drop(request: web.BaseRequest, politely: bool = False) -> Dropped:
    """Close the connection without an answer: a reset, or politely after what has been written."""
    if request.transport is not None:
        if politely:
            request.transport.close()
        else:
            request.transport.abort()
    return Dropped()


async def _silence(request: web.BaseRequest, seconds: float) -> None:
    """Say nothing, for ever (0) or for some seconds, while the caller still waits."""
    until = time.monotonic() + seconds if seconds else float("inf")
    while time.monotonic() < until and not _gone(request):
        await asyncio.sleep(0.02)
