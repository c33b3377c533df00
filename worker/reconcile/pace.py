"""How fast B2COPY's accounts are read: a tenth of the rate limit, for the whole fleet together."""

import time

from worker.errors import RateLimited
from worker.flow.fleet_limits import FleetLimits
from worker.queues import B2COPY
from worker.settings import Settings

SHARE = 10  # the reconciliation sends at most one request in so many of the rate limit
_PATIENCE_S = 0.25  # seconds until a permit that was refused is asked for again
_HOLD_S = 1.0  # seconds; nobody sends for so long after a 429 without Retry-After


class Pace:
    """Asks the fleet's limits before each request: its own pace, then a permit as every request needs one.

    The pace is in Redis, so that two reconciliations at once are together no faster than one. Without Redis none goes.
    """

    def __init__(self, settings: Settings) -> None:
        self._limits = FleetLimits(B2COPY, settings)

    def wait(self, until: float = float("inf")) -> bool:
        """Wait until one request may be sent. False if that would take longer than `until` (monotonic seconds)."""
        per_second = self._limits.per_second
        while True:
            wait_s = self._limits.until_paced_s(SHARE / per_second) if per_second else 0.0
            if not wait_s:
                break
            if not _sleep(wait_s, until):
                return False
        while not self._limits.take(1, urgent=False):
            if not _sleep(self._limits.until_permit_s(urgent=False) or _PATIENCE_S, until):
                return False
        return True

    def slow_down(self, error: RateLimited) -> None:
        """Let nobody send until B2COPY permits it: it has answered 429."""
        self._limits.hold(error.retry_after or _HOLD_S)
        self._limits.share_hold()


def _sleep(wait_s: float, until: float) -> bool:
    if time.monotonic() + wait_s > until:
        return False
    time.sleep(wait_s)
    return True
