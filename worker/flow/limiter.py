"""One rate limit for the whole fleet, counted in Redis."""

import time

from limits import parse
from limits.errors import StorageError
from limits.storage import storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from worker.settings import Settings

PATIENCE = 2.0  # seconds


class Limiter:
    """Gives calls to B2COPY their turn. When Redis does not answer it gives none: waiting is safe, flooding is not."""

    def __init__(self, settings: Settings) -> None:
        self._rate = parse(settings.rate_limit) if settings.rate_limit != "0" else None
        self._name = settings.host
        self._limiter: SlidingWindowCounterRateLimiter | None = None
        self._redis_url = settings.redis_url

    @property
    def per_second(self) -> float | None:
        """The rate in calls per second; None without a limit."""
        return self._rate.amount / self._rate.get_expiry() if self._rate else None

    def wait(self, urgent: bool) -> bool:
        """Wait for one call's turn; return False if it did not come within `PATIENCE`.

        The last fifth of each window is for urgent calls alone, so that a backfill never uses up a withdrawal's turn.
        """
        if self._rate is None:
            return True
        kept_free = 0 if urgent else self._rate.amount // 5
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends:
            try:
                limiter = self._connected()
                if limiter.test(self._rate, self._name, cost=1 + kept_free) and limiter.hit(self._rate, self._name):
                    return True
                reset = limiter.get_window_stats(self._rate, self._name).reset_time
            except StorageError:
                time.sleep(0.5)
                return False
            time.sleep(min(0.25, max(0.02, reset - time.time())))
        return False

    def _connected(self) -> SlidingWindowCounterRateLimiter:
        if self._limiter is None:
            storage = storage_from_string(
                self._redis_url,
                wrap_exceptions=True,
                key_prefix="b2copy:rate",
                socket_timeout=1,
                socket_connect_timeout=1,
            )
            self._limiter = SlidingWindowCounterRateLimiter(storage)
        return self._limiter
