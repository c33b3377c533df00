"""The HTTP edge: what arrives, how long it takes, and what is said.

aiohttp's low-level server with a plain dispatch, since its C parser then answers thousands of requests a second on one
core: the sandbox must not be what a benchmark measures.
"""

import asyncio
import time
from email.utils import formatdate
from typing import Any

from aiohttp import web

from worker.sandbox.b2copy import B2Copy, Call
from worker.sandbox.control_routes import Control
from worker.sandbox.counters import ApiCall, Counters
from worker.sandbox.faults import Dropped, Faults, break_off, drop, send_interim, spoil
from worker.sandbox.listener import Listener
from worker.sandbox.responses import Answer, Refused, refusal
from worker.sandbox.switches import TOKEN_ROUTES, Switches


class Server:
    """Answers for `b2copy` over HTTP, with the faults its switches ask for."""

    def __init__(self, b2copy: B2Copy) -> None:
        self.b2copy = b2copy
        self.counters = Counters()
        self.listener = Listener(self.handle)
        self._faults = Faults()
        self._rate = Rate()
        self._control = Control(self)

    def forget(self) -> None:
        """Start afresh: counters, tokens, effects, fee runs. Switches and keys stay."""
        self._faults.forget()
        self._rate = Rate()
        self.counters = Counters()
        self.b2copy.forget()

    def switch(self, changes: dict[str, Any]) -> Switches:
        """Change switches while running; faults that are set count their calls anew. Raises ValueError."""
        self.b2copy.switches = self.b2copy.switches.changed(changes)
        if "faults" in changes:
            self._faults.begin()
        return self.b2copy.switches

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.path
        if path.startswith("/_sandbox/") or path == "/openapi.json":
            return await self._control.handle(request)
        route = self.b2copy.route_of(request.method, path)
        counters = self.counters  # these, even if all is forgotten meanwhile
        counters.calls[route] += 1
        if route not in TOKEN_ROUTES:
            if not self.b2copy.switches.call_log:
                return await self._serve(route, request)
            arrived = time.monotonic()
            response = await self._serve(route, request)
            status = 0 if isinstance(response, Dropped) else response.status
            counters.api_calls.append(ApiCall(route, arrived, time.monotonic(), status))
            return response
        call = counters.token_call_starts(route)
        try:
            response = await self._serve(route, request)
            call.status = 0 if isinstance(response, Dropped) else response.status
            return response
        finally:
            counters.token_call_ends(call)

    async def _serve(self, route: str, request: web.BaseRequest) -> web.StreamResponse:
        switches = self.b2copy.switches
        if (switches.drop_reused or switches.idle_timeout) and not self.listener.keeps(
            request, switches.drop_reused, switches.idle_timeout
        ):
            return drop(request)
        raw = await request.read()  # at most 1 MiB, or aiohttp answers 413
        if switches.latency and (latency := switches.latency_of(route)):
            await asyncio.sleep(latency)
        if switches.rate_limit and not self._rate.allows(switches.rate_limit):
            retry_after = {"Retry-After": switches.rate_limit_retry_after} if switches.rate_limit_retry_after else None
            return self._respond(route, refusal(switches, Refused(429, "too many requests", retry_after)))
        call = Call(request.method, request.rel_url, request.headers.get("Authorization", ""), raw, _peer(request))
        fault = self._faults.pick(switches, route, raw) if switches.faults else None
        if fault is None:
            return self._respond(route, self.b2copy.carry_out(route, call))
        self.counters.faults[fault.what] += 1
        if fault.what == "interim":
            send_interim(request)
            return self._respond(route, self.b2copy.carry_out(route, call))
        said = self._faults.effect(fault, lambda: self.b2copy.carry_out(route, call))
        spoilt = spoil(fault, said)
        if spoilt is None:
            return await break_off(fault, said, request)
        return self._respond(route, refusal(switches, spoilt) if isinstance(spoilt, Refused) else spoilt)

    def _respond(self, route: str, said: Answer) -> web.Response:
        self.counters.answered(route, said.status)
        response = web.Response(
            body=said.body, status=said.status, headers=said.headers, content_type=said.content_type
        )
        if self.b2copy.switches.clock_offset:
            response.headers["Date"] = formatdate(self.b2copy.now(), usegmt=True)
        return response


class Rate:
    """A bucket that holds one second's worth of calls, at least one."""

    def __init__(self) -> None:
        self._left = 1.0
        self._at = time.monotonic()

    def allows(self, per_second: float) -> bool:
        now = time.monotonic()
        self._left = min(max(per_second, 1.0), self._left + (now - self._at) * per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _peer(request: web.BaseRequest) -> str:
    address = request.transport.get_extra_info("peername") if request.transport is not None else None
    return str(address[0]) if address else ""
