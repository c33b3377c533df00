"""Faults: an answer that is wrong, incomplete, or never arrives."""

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

HUGE = 64 << 20  # bytes; no client should read such an answer to its end


class Dropped(web.Response):
    """A response that aiohttp cannot send any more, because the connection is closed."""


class Faults:
    """Picks the fault of a call, and counts the calls of each fault."""

    def __init__(self) -> None:
        self._count: Counter[int] = Counter()  # by the place in the list: two faults may be equal
        self._late: set[asyncio.TimerHandle] = set()

    def begin(self) -> None:
        """Start the counts again, because faults were set."""
        self._count.clear()

    def forget(self) -> None:
        """Start the counts again, and cancel late effects."""
        self._count.clear()
        for timer in self._late:
            timer.cancel()
        self._late.clear()

    def pick(self, switches: Switches, route: str, body: bytes) -> Fault | None:
        for place, fault in enumerate(switches.faults):
            if not fault.concerns(route, body) or (fault.share < 1 and random.random() >= fault.share):  # noqa: S311
                continue
            if fault.next is None or self._count[place] < fault.next:
                self._count[place] += 1
                return fault
        return None

    def effect(self, fault: Fault, carry_out: Callable[[], Answer]) -> Answer:
        """Carry the call out now, later or not at all; return its answer if it was carried out now."""
        if fault.effect == "late":

            def land() -> None:
                self._late.discard(timer)
                carry_out()

            timer = asyncio.get_running_loop().call_later(fault.seconds, land)
            self._late.add(timer)
        elif fault.effect == "done" or fault.what in {"trickle", "cut", "lacks"}:
            return carry_out()
        return Answer(200, b"")


def replacement(fault: Fault, original: Answer) -> Answer | Refused | None:
    """Return the answer that the fault sends instead of the original; None if it breaks the connection."""
    match fault.what:
        case "status":
            extra = {"Retry-After": fault.retry_after, "Location": fault.location}
            return Refused(
                fault.status, fault.message, {name: text for name, text in extra.items() if text is not None}
            )
        case "html":
            return Answer(200, b"<html><body><h1>Just a moment...</h1></body></html>", "text/html")
        case "empty":
            return Answer(200, b"")
        case "no_content":
            return Answer(204, b"")
        case "huge":
            return Answer(200, b'{"padding": "' + b" " * HUGE + b'"}')
        case "lacks":
            return original.without(fault.field)
        case _:
            return None


async def break_off(fault: Fault, original: Answer, request: web.BaseRequest) -> Dropped:
    """Send a part of the answer or nothing, and close the connection."""
    match fault.what:
        case "cut":
            raw = _raw(original)
            at = len(raw) - len(original.body) // 2 if fault.at is None else fault.at
            _write(request, raw[:at])
        case "trickle":
            for byte in _raw(original):
                if _is_closed(request):
                    break
                _write(request, bytes([byte]))
                await asyncio.sleep(fault.seconds or 0.2)
        case "silence":
            until = time.monotonic() + (fault.seconds or float("inf"))
            while time.monotonic() < until and not _is_closed(request):
                await asyncio.sleep(0.02)
    return drop(request, reset=fault.what == "reset")


def drop(request: web.BaseRequest, reset: bool = False) -> Dropped:
    """Close the connection after what was written is sent; or reset it (RST), which clients report differently."""
    transport = request.transport
    if transport is not None:
        if reset:
            # With SO_LINGER of 0 s, close sends RST (socket(7)).
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.close()
    return Dropped()


def send_interim(request: web.BaseRequest) -> None:
    """Send interim responses ahead of the answer: 102 Processing, 103 Early Hints (RFC 9110 section 15.2)."""
    _write(
        request, b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
    )


def _is_closed(request: web.BaseRequest) -> bool:
    return request.transport is None or request.transport.is_closing()


def _write(request: web.BaseRequest, raw: bytes) -> None:
    if request.transport is not None:
        request.transport.write(raw)


def _raw(answer: Answer) -> bytes:
    """Return the whole answer as HTTP/1.1 bytes (RFC 9112)."""
    head = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\nContent-Type: {answer.content_type}\r\n"
    return f"{head}Content-Length: {len(answer.body)}\r\n\r\n".encode() + answer.body
