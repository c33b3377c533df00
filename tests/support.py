"""Waiting for what other processes do: for a condition with a deadline, never for a while."""

import time
from collections.abc import Callable
from typing import TypeVar

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
