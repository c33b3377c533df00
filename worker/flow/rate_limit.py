"""What the whole fleet shares about one destination, in Redis: the rate limit, the hold after a 429, the probe.

Redis keys (all expire by themselves):

    b2copy:rate:...                         the limiter's windows (package `limits`)
    b2copy:gate:<destination>:hold    text  nobody sends before it expires
    b2copy:gate:<destination>:probe   text  the process that made the last probe
"""

import time

import redis
from limits import parse
from limits.errors import StorageError
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from worker.flow.circuit_breaker import PROBE_EVERY_S
from worker.redis_connection import connection_pool
from worker.settings import Settings

RESERVED_SHARE = 5  # one permit in five is for urgent calls alone, so that a backfill never uses up a withdrawal's turn
HOLD_CHECK_S = 0.05  # how long a look at the hold is valid
_TIMEOUT_S = 1.0
_RETRY_STORE_S = 0.5  # a store that did not answer is asked again after this time


class RateLimit:
    """Permits for the calls of the whole fleet to one destination. Nothing here sleeps.

    If Redis does not answer and there is a limit, there are no permits: waiting is safe, flooding is not.
    """

    def __init__(self, destination: str, settings: Settings) -> None:
        self._rate = parse(settings.rate_limit) if settings.rate_limit != "0" else None
        self._name = settings.host
        self._pool = connection_pool(settings, _TIMEOUT_S)
        self._limiter: SlidingWindowCounterRateLimiter | None = None
        self._redis: redis.Redis | None = None
        self._hold_key, self._probe_key = f"b2copy:gate:{destination}:hold", f"b2copy:gate:{destination}:probe"
        self._held_until = 0.0  # monotonic seconds
        self._look_again = 0.0  # monotonic seconds
        self._next_permit = 0.0  # monotonic seconds

    @property
    def per_second(self) -> float | None:
        """The rate in calls per second; None without a limit."""
        return self._rate.amount / self._rate.get_expiry() if self._rate else None

    def available(self, wanted: int, urgent: bool) -> int:
        """Return how many of `wanted` permits could be taken now. Takes none."""
        if wanted < 1 or self.held_s() > 0:
            return 0
        if self._rate is None:
            return wanted
        try:
            window = self._connected_limiter().get_window_stats(self._rate, self._name)
        except StorageError:
            self._next_permit = time.monotonic() + _RETRY_STORE_S
            return 0
        reserved = 0 if urgent else self._rate.amount // RESERVED_SHARE
        available = max(0, window.remaining - reserved)
        if available < 1:
            soonest = max(0.02, min(0.25, window.reset_time - time.time()))
            self._next_permit = time.monotonic() + soonest
        return min(wanted, available)

    def take(self, count: int, urgent: bool) -> int:
        """Take up to `count` permits; return how many were taken. Another process may have been faster."""
        if count < 1 or self.held_s() > 0:
            return 0
        if self._rate is None:
            return count
        try:
            limiter = self._connected_limiter()
            while count > 0:
                if limiter.hit(self._rate, self._name, cost=count):
                    return count
                count = min(count - 1, self.available(count, urgent))
        except StorageError:
            self._next_permit = time.monotonic() + _RETRY_STORE_S
        return 0

    def until_permit_s(self) -> float:
        """Return the seconds after which it makes sense to ask for a permit again."""
        return max(0.0, self.held_s(), self._next_permit - time.monotonic())

    def hold(self, seconds: float) -> None:
        """Let nobody of the fleet send for so long: the destination has answered 429."""
        ms = max(1, round(seconds * 1000))
        self._held_until = max(self._held_until, time.monotonic() + ms / 1000)
        try:
            client = self._connected_redis()
            if client.pttl(self._hold_key) < ms:  # two 429s at the same time: the longer hold counts
                client.set(self._hold_key, "429", px=ms)
        except redis.RedisError:
            pass  # this process holds all the same; others will meet a 429 of their own

    def held_s(self) -> float:
        """Return for how many seconds nobody may send; 0 without a hold. Looks at Redis every `HOLD_CHECK_S`."""
        now = time.monotonic()
        if now >= self._look_again:
            self._look_again = now + HOLD_CHECK_S
            try:
                left_ms = self._connected_redis().pttl(self._hold_key)
            except redis.RedisError:
                self._look_again = now + _RETRY_STORE_S
            else:
                if left_ms > 0:
                    self._held_until = max(self._held_until, now + left_ms / 1000)
        return max(0.0, self._held_until - now)

    def may_probe(self) -> bool:
        """Return True for one process of the fleet per `PROBE_EVERY_S`. Without Redis every process may probe."""
        try:
            return bool(self._connected_redis().set(self._probe_key, "1", nx=True, px=round(PROBE_EVERY_S * 900)))
        except redis.RedisError:
            return True

    def _connected_redis(self) -> redis.Redis:
        if self._redis is None:
            self._redis = redis.Redis(connection_pool=self._pool)
        return self._redis

    def _connected_limiter(self) -> SlidingWindowCounterRateLimiter:
        if self._limiter is None:
            storage = RedisStorage("redis://", self._pool, key_prefix="b2copy:rate", wrap_exceptions=True)
            self._limiter = SlidingWindowCounterRateLimiter(storage)
        return self._limiter
