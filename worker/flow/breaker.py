"""Stop asking while B2COPY is away.

One breaker per process, in memory: it costs a call nothing, and every process finds out for itself. What the fleet
shares is the effect: when a breaker closes, the ledger makes everything that waited for B2COPY due again.

Written here because pybreaker holds its lock during the call, which would send one request at a time.
"""

import threading
import time
from collections.abc import Callable

FAILURES_TO_OPEN = 5  # failures in a row, with no success between them
PROBE_EVERY = 2.0  # seconds between two calls while open


class Breaker:
    """Closed: all may call. Open: one call every `PROBE_EVERY` seconds. Any success closes it. Thread-safe."""

    def __init__(self, on_close: Callable[[], None]) -> None:
        self._on_close = on_close
        self._lock = threading.Lock()
        self._failures = 0
        self._next_probe = 0.0
        self.epoch = 0  # how often it has opened: tells claims made before from the probes made after

    @property
    def open(self) -> bool:
        return self._failures >= FAILURES_TO_OPEN

    def allowance(self, wanted: int) -> int:
        """Return how many of `wanted` calls may be made now: all, or while open one probe at a time."""
        if not self.open:
            return wanted
        with self._lock:
            now = time.monotonic()
            if wanted < 1 or now < self._next_probe:
                return 0
            self._next_probe = now + PROBE_EVERY
            return 1

    def until_probe(self) -> float:
        """Return the seconds until the next probe may go; 0 if it may go now."""
        return max(0.0, self._next_probe - time.monotonic()) if self.open else 0.0

    def failed(self) -> None:
        """Note that B2COPY did not answer, or answered 5xx."""
        with self._lock:
            self._failures += 1
            if self._failures == FAILURES_TO_OPEN:
                self.epoch += 1
                self._next_probe = time.monotonic() + PROBE_EVERY

    def succeeded(self) -> None:
        """Note that B2COPY answered sensibly, whatever it said."""
        if not self._failures:  # the usual case costs no lock
            return
        with self._lock:
            was_open, self._failures = self.open, 0
        if was_open:
            self._on_close()
