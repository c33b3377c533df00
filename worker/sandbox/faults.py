"""Every way an answer can go wrong or go missing."""

import asyncio
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus

from aiohttp import web

from worker.sandbox.responses import Answer, Refused
from worker.sandbox.switches import Fault, Switches

HUGE = 64 << 20  # bytes of an answer that nobody should swallow


class Dropped(web.Response):
    """Never reaches the caller: the connection is gone, with whatever was written on it."""


class Faults:
    """Picks the fault a call meets, and remembers how many calls each has met."""

    def __init__(self) -> None:
        self._met: Counter[Fault] = Counter()
        self._late: set[asyncio.TimerHandle] = set()

    def begin(self) -> None:
        """Count anew, as when faults are set."""
        self._met.clear()

    def forget(self) -> None:
        """As `begin`; and effects still to land never do."""
        self._met.clear()
        for timer in self._late:
            timer.cancel()
        self._late.clear()

    def pick(self, switches: Switches, route: str, body: bytes) -> Fault | None:
        for fault in switches.faults:
            if not fault.concerns(route, body) or (fault.share < 1 and random.random() >= fault.share):  # noqa: S311
                continue
            if fault.next is None or self._met[fault] < fault.next:
                self._met[fault] += 1
                return fault
        return None

    def effect(self, fault: Fault, carry_out: Callable[[], Answer]) -> Answer:
        """Carry the call out now, later or not at all, as the fault says; return what it was answered, if now."""
        if fault.effect == "late":

            def land() -> None:
                self._late.discard(timer)
                carry_out()

            timer = asyncio.get_running_loop().call_later(fault.seconds, land)
            self._late.add(timer)
        elif fault.effect == "done" or fault.what in {"trickle", "cut", "lacks"}:
            return carry_out()
        return Answer(200, b"")


def spoil(fault: Fault, said: Answer) -> Answer | Refused | None:
    """Return what a fault says in place of the answer; None if it spoils not the words but the wire."""
    match fault.what:
        case "status":
            extra = {"Retry-After": fault.retry_after, "Location": fault.location}
            return Refused(fault.status, fault.words, {name: text for name, text in extra.items() if text is not None})
        case "html":
            return Answer(200, b"<html><body><h1>Just a moment...</h1></body></html>", "text/html")
        case "empty":
            return Answer(200, b"")
        case "huge":
            return Answer(200, b'{"padding": "' + b" " * HUGE + b'"}')
        case "lacks":
            return said.without(fault.field)
        case _:
            return None


async def break_off(fault: Fault, said: Answer, request: web.BaseRequest) -> Dropped:
    """Give the answer in part or not at all, and end the connection."""
    match fault.what:
        case "cut":
            raw = _raw(said)
            at = len(raw) - len(said.body) // 2 if fault.at is None else fault.at
            _write(request, raw[:at])
        case "trickle":
            for byte in _raw(said):
                if _gone(request):
                    break
                _write(request, bytes([byte]))
                await asyncio.sleep(fault.seconds or 0.2)
        case "silence":
            until = time.monotonic() + (fault.seconds or float("inf"))
            while time.monotonic() < until and not _gone(request):
                await asyncio.sleep(0.02)
    return drop(request, reset=fault.what == "reset")


def drop(request: web.BaseRequest, reset: bool = False) -> Dropped:
    """Close the connection once what was written is out; or reset it (RST), which a client meets differently."""
    transport = request.transport
    if transport is not None:
        if reset:
            # SO_LINGER with no time to linger: closing sends RST (socket(7)).
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.close()
    return Dropped()


def send_interim(request: web.BaseRequest) -> None:
    """Send interim responses ahead of the answer: 102 Processing, 103 Early Hints (RFC 9110 section 15.2)."""
    _write(
        request, b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
    )


def _gone(request: web.BaseRequest) -> bool:
    return request.transport is None or request.transport.is_closing()


def _write(request: web.BaseRequest, raw: bytes) -> None:
    if request.transport is not None:
        request.transport.write(raw)


def _raw(said: Answer) -> bytes:
    """The whole answer as it goes over the wire (RFC 9112)."""
    head = f"HTTP/1.1 {said.status} {HTTPStatus(said.status).phrase}\r\nContent-Type: {said.content_type}\r\n"
    return f"{head}Content-Length: {len(said.body)}\r\n\r\n".encode() + said.body
