"""How far apart the polls of pending operations must be so that first submits keep half of the capacity.

Polls keep their part too, although submits may fill each claim: see `_choose_first_phase` of `flow/lane.py`.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

log = logging.getLogger(__name__)

COUNT_VALID_S = 1.0  # seconds for which a count of the pending operations is used
QUICKEST_S = 0.001  # seconds; a shorter poll counts as this long, because a measured 0 would mean infinite capacity
OUTLIER = 1.5  # cap one sample at so many times the average, because the process may have been suspended


class PollSpacing:
    """`count_pending` counts the operations that are polled, in the whole ledger; `per_second` is the rate limit.

    Without a limit the capacity is what `concurrency` parallel calls of this process can do at their measured speed, so
    a fleet of many processes polls more rarely than it must. Used on the event loop alone.
    """

    def __init__(self, count_pending: Callable[[], int], concurrency: int, per_second: float | None) -> None:
        self._count_pending, self._concurrency, self._per_second = count_pending, concurrency, per_second
        self._count = 0
        self._count_again_at = 0.0  # monotonic seconds
        self._poll_s: float | None = None  # a moving average
        self._task: asyncio.Task[None] | None = None  # asyncio itself holds only a weak reference

    def between_polls_s(self, duration_s: float) -> float:
        """Return the seconds between two polls of one operation, after a poll that took `duration_s`."""
        duration_s = max(duration_s, QUICKEST_S)
        average = duration_s if self._poll_s is None else self._poll_s
        sample = min(duration_s, OUTLIER * average)
        self._poll_s = average = average + (sample - average) * 0.1
        capacity = self._per_second or self._concurrency / average
        return self._count / (capacity / 2)

    def recount_soon(self) -> None:
        """Start `recount`. The result of the attempt that calls this need not wait for the count."""
        if time.monotonic() >= self._count_again_at:
            self._task = asyncio.get_running_loop().create_task(self.recount())

    async def recount(self) -> None:
        """Count the pending operations again, if the last count is too old and no other attempt is counting them."""
        if time.monotonic() < self._count_again_at:
            return
        self._count_again_at = math.inf
        try:
            self._count = await asyncio.to_thread(self._count_pending)
        except SQLAlchemyError as error:
            log.warning("pending operations not counted, the ledger is unavailable: %s", error)
        except Exception:  # an attempt must not fail because of it
            log.exception("pending operations not counted")
        finally:
            self._count_again_at = time.monotonic() + COUNT_VALID_S
