"""Waiting for other processes: for a condition with a deadline, never for a while. And one request, synchronously."""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from worker.http import Answer, Http, event_loop
from worker.operation import OnUnknown

Found = TypeVar("Found")


def until(condition: Callable[[], Found], within: float = 20.0, every: float = 0.02) -> Found:
    """Return the condition's first true value. Fails with its last value when `within` seconds are over."""
    end = time.monotonic() + within
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {within:g} s; last seen: {found!r}")
        time.sleep(every)


class PeakMemory:
    """The highest resident memory of this process since the object was made, in MB above what it was then."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak so far
        self._before = self._peak_mb()

    @property
    def grown_mb(self) -> float:
        return self._peak_mb() - self._before

    def _peak_mb(self) -> float:
        [kb] = re.findall(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
        return int(kb) / 1024


def post(http: Http, path: str, payload: Mapping[str, Any], on_unknown: OnUnknown = OnUnknown.STOP) -> Answer:
    """Send one POST with the service admin's token, in this thread."""
    return event_loop().run(http.request("POST", path, json=payload, on_unknown=on_unknown))
