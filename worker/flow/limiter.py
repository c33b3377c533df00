"""One rate limit for the whole fleet, counted in Redis."""

import time

from limits import parse
from limits.errors import StorageError
from limits.storage import storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from worker.settings import Settings


class Limiter:
    """Grants calls to B2COPY. When Redis does not answer it grants none: waiting is safe, flooding is not."""

    def __init__(self, settings: Settings) -> None:
        self._rate = parse(settings.rate_limit) if settings.rate_limit != "0" else None
        self._name = settings.host
        self._limiter: SlidingWindowCounterRateLimiter | None = None
        self._redis_url = settings.redis_url

    @property
    def per_second(self) -> float | None:
        """The rate in calls per second; None without a limit."""
        return self._rate.amount / self._rate.get_expiry() if self._rate else None

    def grant(self, wanted: int) -> int:
        """Take up to `wanted` calls out of the current window and return how many were granted."""
        if self._rate is None or wanted < 1:
            return wanted
        try:
            limiter = self._connected()
            granted = min(wanted, limiter.get_window_stats(self._rate, self._name).remaining)
            return granted if granted > 0 and limiter.hit(self._rate, self._name, cost=granted) else 0
        except StorageError:
            return 0

    def until_next(self) -> float:
        """Return the seconds after which asking again makes sense, at most one second."""
        if self._rate is None:
            return 0.0
        try:
            reset = self._connected().get_window_stats(self._rate, self._name).reset_time
        except StorageError:
            return 1.0
        return min(1.0, max(0.02, reset - time.time()))

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
