"""Waiting for other processes: for a condition with a deadline, never for a while. And one request, synchronously."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from worker.http import Answer, Http, event_loop
from worker.operation import OnUnknown

Found = TypeVar("Found")


def until(condition: Callable[[], Found], within: float = 10.0, every: float = 0.02) -> Found:
    """Return the condition's first true value. Fails with its last value when `within` seconds are over."""
    end = time.monotonic() + within
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {within:g} s; last seen: {found!r}")
        time.sleep(every)


def post(http: Http, path: str, payload: Mapping[str, Any], on_unknown: OnUnknown = OnUnknown.STOP) -> Answer:
    """Send one POST with the service admin's token, in this thread."""
    return event_loop().run(http.request("POST", path, json=payload, on_unknown=on_unknown))
