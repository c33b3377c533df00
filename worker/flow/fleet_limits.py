"""What the whole fleet shares about one destination, in Redis: the rate limit, the hold after a 429, the probe.

Redis keys (all expire by themselves):

    b2copy:rate:...                         the limiter's windows (package `limits`)
    b2copy:gate:<destination>:hold    text  nobody sends before it expires
    b2copy:gate:<destination>:probe   text  the process that made the last probe
"""

import contextlib
import time

import redis
from limits import parse
from limits.errors import StorageError
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from worker.flow.circuit_breaker import PROBE_EVERY_S
from worker.queues import CRM
from worker.redis_connection import connection_pool
from worker.settings import Settings
from worker.watch import metrics

RESERVED_SHARE = 5  # one permit in five is for urgent calls alone, so that a backfill never uses up a withdrawal's
HOLD_CHECK_S = 0.05  # how long a look at the hold is valid
_TIMEOUT_S = 1.0
_RETRY_STORE_S = 0.5  # Redis did not answer: it is asked for permits again after this time
_RETRY_HOLD_S = 2.0  # and for the hold after this one; without a rate limit nothing else waits for Redis
_SOONEST_S, _LATEST_S = 0.02, 0.25  # between two questions for a permit that was refused


class FleetLimits:
    """Permits for the calls of the whole fleet to one destination. Nothing here sleeps, but what asks Redis blocks.

    `hold`, `held_s`, `must_look_at_hold` and `until_permit_s` ask nothing: they know what this process knows. If Redis
    does not answer and there is a limit, there are no permits: waiting is safe, flooding is not.
    """

    def __init__(self, destination: str, settings: Settings) -> None:
        # The setting limits B2COPY alone: the CRM answers 429 if notices come too fast for it.
        is_limited = destination != CRM and settings.rate_limit != "0"
        self._rate = parse(settings.rate_limit) if is_limited else None
        self._destination = destination
        self._pool = connection_pool(settings, _TIMEOUT_S)
        self._limiter: SlidingWindowCounterRateLimiter | None = None
        self._redis: redis.Redis | None = None
        self._hold_key, self._probe_key = f"b2copy:gate:{destination}:hold", f"b2copy:gate:{destination}:probe"
        self._held_until = 0.0  # monotonic seconds
        self._look_again = 0.0  # monotonic seconds
        self._next_permit = {True: 0.0, False: 0.0}  # urgent or not -> monotonic seconds before which there is none

    @property
    def per_second(self) -> float | None:
        """The rate in calls per second; None without a limit."""
        return self._rate.amount / self._rate.get_expiry() if self._rate else None

    def available(self, wanted: int, urgent: bool) -> int:
        """Return how many of `wanted` permits could be taken now. Takes none."""
        if wanted < 1 or self._is_held():
            return 0
        if self._rate is None:
            return wanted
        if time.monotonic() < self._next_permit[urgent]:
            return 0
        try:
            window = self._connected_limiter().get_window_stats(self._rate, self._destination)
        except StorageError:
            self._refuse_for(_RETRY_STORE_S, urgent)
            return 0
        reserved = 0 if urgent else self._rate.amount // RESERVED_SHARE
        available = max(0, window.remaining - reserved)
        if available < 1:
            self._refuse_for(max(_SOONEST_S, min(_LATEST_S, window.reset_time - time.time())), urgent)
        return min(wanted, available)

    def take(self, count: int, urgent: bool) -> int:
        """Take up to `count` permits; return how many were taken. Another process may have been faster."""
        if count < 1 or self._is_held():
            return 0
        if self._rate is None:
            return count
        try:
            limiter = self._connected_limiter()
            while count > 0:
                if limiter.hit(self._rate, self._destination, cost=count):
                    return count
                count = min(count - 1, self.available(count, urgent))
        except StorageError:
            self._refuse_for(_RETRY_STORE_S, urgent)
            return 0
        self._refuse_for(_SOONEST_S, urgent)
        return 0

    def until_permit_s(self, urgent: bool) -> float:
        """Return the seconds after which it makes sense to ask for a permit again; 0 if there may be one."""
        return max(0.0, self.held_s(), self._next_permit[urgent] - time.monotonic())

    def _refuse_for(self, seconds: float, urgent: bool) -> None:
        """Ask Redis for no permit for so long, so that a lane waits and does not claim and return in a loop."""
        metrics.PERMITS_REFUSED.labels(self._destination).inc()
        self._next_permit[urgent] = max(self._next_permit[urgent], time.monotonic() + seconds)

    def hold(self, seconds: float) -> None:
        """Let this process send nothing for so long: the destination has answered 429."""
        self._held_until = max(self._held_until, time.monotonic() + seconds)

    def share_hold(self) -> None:
        """Let nobody of the fleet send for as long as this process does not."""
        ms = max(1, round(self.held_s() * 1000))
        try:
            client = self._connected_redis()
            if client.pttl(self._hold_key) < ms:  # two 429s at the same time: the longer hold counts
                client.set(self._hold_key, "429", px=ms)
        except redis.RedisError:
            pass  # this process holds all the same; others will meet a 429 of their own

    def held_s(self) -> float:
        """Return for how many seconds nobody may send, as far as this process knows; 0 without a hold."""
        return max(0.0, self._held_until - time.monotonic())

    def must_look_at_hold(self) -> bool:
        """Return True to one caller if the last look is older than `HOLD_CHECK_S`. The others go on meanwhile."""
        now = time.monotonic()
        if now < self._look_again:
            return False
        self._look_again = now + 2 * _TIMEOUT_S
        return True

    def look_at_hold(self) -> None:
        """Ask Redis whether another process has met a 429."""
        try:
            left_ms = self._connected_redis().pttl(self._hold_key)
        except redis.RedisError:
            self._look_again = time.monotonic() + _RETRY_HOLD_S
        else:
            now = time.monotonic()
            self._look_again = now + HOLD_CHECK_S
            if left_ms > 0:
                self._held_until = max(self._held_until, now + left_ms / 1000)

    def _is_held(self) -> bool:
        if self.must_look_at_hold():
            self.look_at_hold()
        return self.held_s() > 0

    def may_probe(self) -> bool:
        """Return True for one process of the fleet per `PROBE_EVERY_S`. Without Redis every process may probe."""
        try:
            return bool(self._connected_redis().set(self._probe_key, "1", nx=True, px=round(PROBE_EVERY_S * 900)))
        except redis.RedisError:
            return True

    def allow_next_probe(self) -> None:
        """Let the next process probe at once: this one's probe was answered, so theirs should not wait for it."""
        with contextlib.suppress(redis.RedisError):
            self._connected_redis().delete(self._probe_key)

    def _connected_redis(self) -> redis.Redis:
        if self._redis is None:
            self._redis = redis.Redis(connection_pool=self._pool)
        return self._redis

    def _connected_limiter(self) -> SlidingWindowCounterRateLimiter:
        if self._limiter is None:
            storage = RedisStorage("redis://", self._pool, key_prefix="b2copy:rate", wrap_exceptions=True)
            self._limiter = SlidingWindowCounterRateLimiter(storage)
        return self._limiter
