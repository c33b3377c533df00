"""How far apart the polls of pending fee runs must be so that first submits keep half of the capacity."""

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

log = logging.getLogger(__name__)

COUNTED_FOR = 1.0  # seconds for which a count of the pending runs is good enough
QUICKEST = 0.001  # seconds: what a poll takes at least, so that the clock's grain is no endless capacity
# times the average that a poll counts for at most: those of a process that was frozen meanwhile say nothing of B2COPY
OUTLIER = 1.5


class Polls:
    """`pending` counts the runs that are polled, in the whole ledger; `per_second` is the fleet's rate limit, if any.

    Without one the capacity is what this process's `concurrency` calls at once can do at the speed they were measured
    with, so that a fleet of many polls more rarely than it must. Thread-safe.
    """

    def __init__(self, pending: Callable[[], int], concurrency: int, per_second: float | None) -> None:
        self._pending, self._concurrency, self._per_second = pending, concurrency, per_second
        self._lock = threading.Lock()
        self._count = 0
        self._count_again = 0.0  # monotonic seconds
        self._poll_seconds: float | None = None  # a moving average

    def apart(self, took: float) -> float:
        """Return the seconds between two polls of one run, after a poll that took `took` seconds."""
        took = max(took, QUICKEST)
        average = took if self._poll_seconds is None else self._poll_seconds
        took = min(took, OUTLIER * average)
        self._poll_seconds = average = average + (took - average) * 0.1
        capacity = self._per_second or self._concurrency / average
        return self._pending_now() / (capacity / 2)

    def _pending_now(self) -> int:
        with self._lock:
            if time.monotonic() < self._count_again:
                return self._count
            self._count_again = time.monotonic() + COUNTED_FOR
        try:
            self._count = self._pending()
        except SQLAlchemyError as error:
            log.warning("pending runs not counted, the ledger is away: %s", error)
        return self._count
