"""How fast B2COPY's accounts are read: a tenth of the rate limit, one request at a time in the whole fleet."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from worker.errors import B2CopyError, RateLimited
from worker.flow.fleet_limits import HOLD_WITHOUT_RETRY_AFTER_S, FleetLimits
from worker.queues import B2COPY
from worker.settings import Settings

ONE_IN = 10  # of so many requests that the rate limit lets pass, the reconciliation sends one at most
_PATIENCE_S = 0.25  # seconds until a permit or the pace that was refused is asked for again
RECONCILE = "b2copy.reconcile"  # the name of its hold


class Pace:
    """Asks the fleet's limits before each request: for the pace, then for a permit as every request needs one.

    The pace is a key in Redis that one process reserves, so that two reconciliations are together no faster than one,
    and never ask B2COPY for the same at the same time. Without Redis none sends. If a process dies, its
    reservation ends with the deadline of its call.
    """

    def __init__(self, settings: Settings) -> None:
        self._limits = FleetLimits(B2COPY, settings, holds=[RECONCILE, B2COPY])
        self._every_s = ONE_IN / self._limits.per_second if self._limits.per_second else 0.0
        self._reserved_s = max(self._every_s, settings.call_deadline)

    @contextmanager
    def one_request(self, until: float = float("inf")) -> Iterator[bool]:
        """Wait until one request may be sent, which the block sends. No other reconciliation sends one meanwhile.

        False if the wait would take longer than `until` (monotonic seconds): then the block must send nothing.
        """
        while wait_s := self._limits.reserve_pace(self._reserved_s):
            if not _sleep(wait_s, until):
                yield False
                return
        next_at = time.monotonic() + self._every_s
        try:
            yield self._wait_for_permit(until)
        finally:
            self._limits.release_pace(next_at - time.monotonic())

    def _wait_for_permit(self, until: float) -> bool:
        while not self._limits.take(1, urgent=False):
            if not _sleep(self._limits.until_permit_s(urgent=False) or _PATIENCE_S, until):
                return False
        return True

    def slow_down(self, error: B2CopyError) -> None:
        """Wait until B2COPY permits a request, if it has answered 429. Operations wait for a minute at most."""
        if isinstance(error, RateLimited):
            self._limits.hold(error.retry_after or HOLD_WITHOUT_RETRY_AFTER_S)
            self._limits.share_hold()


def _sleep(wait_s: float, until: float) -> bool:
    """Sleep, not longer than until it makes sense to ask again: another process may release the pace early."""
    if time.monotonic() + wait_s > until:
        return False
    time.sleep(min(wait_s, _PATIENCE_S))
    return True
