"""The HTTP server: it counts calls, applies latency, rate limit and faults, and sends the answer.

It uses aiohttp's low-level server without its router, because that answers thousands of requests per second on one
core. A benchmark must not measure the sandbox.
"""

import asyncio
import time
from email.utils import formatdate
from typing import Any

from aiohttp import web

from worker.sandbox.b2copy import B2Copy
from worker.sandbox.control_routes import Control
from worker.sandbox.counters import ApiCall, Counters
from worker.sandbox.faults import Dropped, Faults, break_off, drop, replacement, send_interim
from worker.sandbox.listener import Listener
from worker.sandbox.responses import Answer, Refused, refusal
from worker.sandbox.routes import Call, route_of
from worker.sandbox.switches import TOKEN_ROUTES, Switches


class Server:
    """Serves `b2copy` over HTTP, with the faults of its switches."""

    def __init__(self, b2copy: B2Copy) -> None:
        self.b2copy = b2copy
        self.counters = Counters()
        self.listener = Listener(self.handle)
        self._faults = Faults()
        self._rate = Rate()
        self._control = Control(self)

    def forget(self) -> None:
        """Clear counters, tokens, effects, fee runs, accounts and clients. Switches and keys stay."""
        self._faults.forget()
        self._rate = Rate()
        self.counters = Counters()
        self.b2copy.forget()

    def switch(self, changes: dict[str, Any]) -> Switches:
        """Change switches; if faults are set, their counts start again. Raises ValueError."""
        self.b2copy.switches = self.b2copy.switches.changed(changes)
        if "faults" in changes:
            self._faults.begin()
        return self.b2copy.switches

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.path
        if path.startswith("/_sandbox/") or path == "/openapi.json":
            return await self._control.handle(request)
        route = route_of(request.method, path)
        counters = self.counters  # a local, because `forget` may replace them during the call
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
        if (switches.drop_reused or switches.idle_timeout) and not self.listener.accepts(
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
        original = self._faults.effect(fault, lambda: self.b2copy.carry_out(route, call))
        instead = replacement(fault, original)
        if instead is None:
            return await break_off(fault, original, request)
        return self._respond(route, refusal(switches, instead) if isinstance(instead, Refused) else instead)

    def _respond(self, route: str, answer: Answer) -> web.Response:
        self.counters.answered(route, answer.status)
        response = web.Response(
            body=answer.body, status=answer.status, headers=answer.headers, content_type=answer.content_type
        )
        if self.b2copy.switches.clock_offset:
            response.headers["Date"] = formatdate(self.b2copy.now(), usegmt=True)
        return response


class Rate:
    """A token bucket that holds the calls of one second, at least one."""

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
