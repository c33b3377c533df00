"""Send only circuit probes while a destination, or its login, is unavailable.

Each process has its own circuit breaker in memory, so a call costs no request to Redis, and every process notices an
outage by itself. When one process closes its circuit, the whole fleet gains: the ledger makes the operations due that
waited for the destination, and the other processes may probe at once.

We do not use pybreaker, because it holds its lock during the call and so lets through one request at a time.
"""

import threading
import time
from collections.abc import Callable

FAILURES_TO_OPEN = 5  # failures in a row, without a success between them, that open the circuit
PROBE_EVERY_S = 2.0  # seconds between two probes of a process while the circuit is open
RESERVED = 0.75  # of PROBE_EVERY_S: for so long after a probe no other process of the fleet makes one
LATER = 0.125  # of PROBE_EVERY_S: a probe that does not go first is asked for so much later
NEXT_PROBE_S = 0.1  # seconds; a probe that has shown nothing is followed by another one after this time


class CircuitBreaker:
    """Closed: all may call. Open: one probe every `PROBE_EVERY_S`. Any success closes it. Thread-safe.

    `reserve_probe` is called before each probe, so that one process of the fleet makes it. It returns 0 to that
    process, and to the others the seconds after which to ask again. They ask at that time, because a process whose
    probes always fail would otherwise be the first each time, although another one would get an answer.

    Urgent probes, those of the money lane, go first: the others are asked for a moment later. Otherwise one withdrawal
    would wait among hundreds of other operations, if those are due again and again because each fails at once. After
    an urgent probe of this process the others go first, because it may be the urgent ones alone that fail.
    """

    def __init__(self, reserve_probe: Callable[[], float], failures_to_open: int = FAILURES_TO_OPEN) -> None:
        self._reserve_probe, self._failures_to_open = reserve_probe, failures_to_open
        self._lock = threading.Lock()
        self._failures = 0
        self._urgent_goes_first = True
        self._next_probe = {True: 0.0, False: 0.0}  # urgent or not -> monotonic seconds
        self.times_opened = 0  # a claim made before the last opening is returned unsent, one made after it is a probe

    @property
    def is_open(self) -> bool:
        return self._failures >= self._failures_to_open

    def available(self, wanted: int, urgent: bool) -> int:
        """Return how many of `wanted` calls could be made now: all, or one probe, or none."""
        if not self.is_open:
            return wanted
        return min(wanted, 1) if time.monotonic() >= self._next_probe[urgent] else 0

    def take(self, count: int, urgent: bool) -> int:
        """Return how many of `count` calls may be made now; one probe at most while the circuit is open."""
        if not self.is_open:
            return count
        with self._lock:
            now = time.monotonic()
            if count < 1 or now < self._next_probe[urgent]:
                return 0
            self._next_probe = dict.fromkeys((True, False), now + PROBE_EVERY_S)
        if wait_s := self._reserve_probe():
            self._probe_after(wait_s)
            return 0
        self._urgent_goes_first = not urgent
        self._next_probe[not urgent] = time.monotonic() + RESERVED * PROBE_EVERY_S  # when other processes may ask
        return 1

    def _probe_after(self, wait_s: float) -> None:
        first, at = self._urgent_goes_first, time.monotonic() + wait_s
        self._next_probe = {first: at, not first: at + LATER * PROBE_EVERY_S}

    def allow_next_probe(self) -> None:
        """Let another probe be made soon, because the last one has shown nothing about the destination."""
        with self._lock:
            now, first = time.monotonic(), self._urgent_goes_first
            soon = {first: now + NEXT_PROBE_S / 2, not first: now + NEXT_PROBE_S}
            self._next_probe = {urgent: min(at, self._next_probe[urgent]) for urgent, at in soon.items()}

    def until_probe_s(self, urgent: bool) -> float:
        """Return the seconds until this process may try to probe; 0 if the circuit is closed."""
        return max(0.0, self._next_probe[urgent] - time.monotonic()) if self.is_open else 0.0

    def record_failure(self) -> bool:
        """Note that the destination did not answer, or answered with a failure of its own.

        Returns whether this opens the breaker.
        """
        with self._lock:
            self._failures += 1
            opened = self._failures == self._failures_to_open
            if opened:
                self.times_opened += 1
                self._urgent_goes_first = True
                self._probe_after(PROBE_EVERY_S)
        return opened

    def record_success(self) -> bool:
        """Note that the destination answered an operation, with success or failure.

        Returns whether this closes the breaker.
        """
        if not self._failures:  # the usual case takes no lock
            return False
        with self._lock:
            was_open, self._failures = self.is_open, 0
        return was_open
