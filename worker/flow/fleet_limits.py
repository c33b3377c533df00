"""What the whole fleet shares about one destination, in Redis: the rate limit, the hold after a 429, the circuit probe.

Redis keys (all expire by themselves):

    b2copy:rate:...                         the limiter's windows (package `limits`)
    b2copy:gate:<destination>:hold    text  nobody sends before it expires; reads have one of their own besides, named
                                            `b2copy.reads`, and the reconciliation has `b2copy.reconcile`
    b2copy:gate:<destination>:hold:by_others  text  the hold was set by a 429 to a read or to the reconciliation, and is
                                            not set again so before this key expires
    b2copy:gate:<destination>:probe   text  no circuit probe before it expires; reads have `b2copy.reads`
                                            (two ways of notices have `crm.task` and `crm.webhook` for both keys)
    b2copy:gate:<destination>:pace    text  the reconciliation sends no request before it expires

The value of each `b2copy:gate:...` is for how many ms the key was set. A key that lasts longer does not count, because
Redis' clock was set back, or because the key is not ours.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import redis
from limits import RateLimitItem, parse
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from worker.flow.circuit_breaker import PROBE_EVERY_S, RESERVED
from worker.http.answer import RETRY_AFTER_MAX
from worker.queues import CRM
from worker.redis_connection import Client, connection_pool
from worker.settings import Settings
from worker.watch import metrics

log = logging.getLogger(__name__)

# One permit in so many is for the money lane alone, so that a backfill does not delay withdrawals. Rounded down: a
# limit below 5 per interval reserves nothing.
RESERVE_ONE_IN = 5
HOLD_WITHOUT_RETRY_AFTER_S = 1.0  # seconds for which nobody sends after a 429 without Retry-After
OPERATIONS_HOLD_MAX_S = 60.0  # seconds for which a 429 to a read holds operations at most
HOLD_CHECK_S = 0.05  # seconds for which the hold that was read from Redis is used
_PREFIX = "b2copy:rate"  # of the keys that the limiter's windows have
_DIGITS = 15  # a count with more of them is none: the limiter could not compute with it
_TIMEOUT_S = 1.0  # seconds that Redis has for an answer
_RETRY_STORE_S = 0.5  # seconds; if Redis did not answer, it is asked for permits again after this time
# Seconds; if Redis did not answer, the hold is read again after this time. It may be longer than the one above: without
# a rate limit, only the hold is read from Redis, and each read delays the sender that makes it.
_RETRY_HOLD_S = 2.0
_SOONEST_S, _LATEST_S = 0.02, 0.25  # seconds; least and most between two requests for a permit that was refused
_LONGEST_HOLD_MS = round(RETRY_AFTER_MAX * 1000)
_OPERATIONS_HOLD_MAX_MS = round(OPERATIONS_HOLD_MAX_S * 1000)
_ABSENT, _ODD = -2, -1  # instead of the ms that are left of a key; as PTTL says it
# Two 429s at the same time: the longer hold counts.
_SHARE_HOLD = """
local left, length = redis.call('PTTL', KEYS[1]), tonumber(redis.pcall('GET', KEYS[1]) or '')
if left < tonumber(ARGV[1]) or left > (length or 0) then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[1]) end
"""


class _Hold:
    """A hold, as far as this process knows. Thread-safe."""

    def __init__(self, name: str) -> None:
        self.key = f"b2copy:gate:{name}:hold"
        self._lock = threading.Lock()
        self.until = 0.0  # monotonic seconds
        self.until_in_redis = 0.0  # until when Redis has had a hold, as far as this process knows

    def extend(self, until: float) -> None:
        with self._lock:
            self.until = max(self.until, until)

    def note_shared(self, until: float) -> None:
        """Note that Redis has a hold until then, or a longer one."""
        with self._lock:
            self.until = max(self.until, until)
            self.until_in_redis = max(self.until_in_redis, until)

    def end(self, until_in_redis: float) -> None:
        """End it, because it is in Redis no more. `until_in_redis`: what it was before Redis was asked.

        What Redis did not have then, or has since, does not end.
        """
        with self._lock:
            if self.until <= until_in_redis:
                self.until = self.until_in_redis = 0.0


class FleetLimits:
    """Rate limit, hold and circuit probe of one destination, shared by the fleet. Nothing here sleeps.

    `hold`, `hold_left_s`, `must_read_hold` and `until_permit_s` use what this process knows. All other methods block,
    because they ask Redis. If there is a rate limit and Redis does not answer, there are no permits, because operations
    that wait do no harm and a flood of calls does.
    """

    def __init__(
        self, destination: str, settings: Settings, circuit: str | None = None, holds: Sequence[str] = ()
    ) -> None:
        """`circuit` names whose circuit probes these are, if they are not those of the destination's operations.

        `holds`: the names of the holds that it obeys, if that is not the destination's alone. The first one is its own:
        a 429 sets that one in full, and the others as `share_hold` says.
        """
        # The setting limits B2COPY alone: the CRM answers 429 if notices come too fast for it.
        is_limited = destination != CRM and settings.rate_limit != "0"
        self._rate = parse(settings.rate_limit) if is_limited else None
        self._destination = destination
        self._pool = connection_pool(settings, _TIMEOUT_S)
        self._limiter: SlidingWindowCounterRateLimiter | None = None
        self._redis: redis.Redis | None = None
        self._holds = [_Hold(name) for name in holds or (destination,)]
        self._probe_key = f"b2copy:gate:{circuit or destination}:probe"
        self._pace_key = f"b2copy:gate:{destination}:pace"
        self._look_again = 0.0  # monotonic seconds
        self._next_permit = {True: 0.0, False: 0.0}  # urgent or not -> monotonic seconds before which there is none

    @property
    def per_second(self) -> float | None:
        """The rate in calls per second; None without a limit."""
        return self._rate.amount / self._rate.get_expiry() if self._rate else None

    def available(self, wanted: int, urgent: bool) -> int:
        """Return how many of `wanted` permits could be taken now. Takes none."""
        if wanted < 1 or self._is_on_hold():
            return 0
        if self._rate is None:
            return wanted
        if time.monotonic() < self._next_permit[urgent]:
            return 0
        with self._limiter_or_no_permit(self._rate, urgent) as limiter:
            window = limiter.get_window_stats(self._rate, self._destination)
            if window.remaining < 1:
                self._clear_odd_windows(self._rate)
            reserved = 0 if urgent else self._rate.amount // RESERVE_ONE_IN
            available = max(0, window.remaining - reserved)
            if available < 1:
                self._refuse_for(max(_SOONEST_S, min(_LATEST_S, window.reset_time - time.time())), urgent)
            return min(wanted, available)
        return 0

    @contextlib.contextmanager
    def _limiter_or_no_permit(self, rate: RateLimitItem, urgent: bool) -> Iterator[SlidingWindowCounterRateLimiter]:
        """Give the limiter. If it gets no answer from Redis, or one that it cannot use, refuse permits for a while."""
        try:
            yield self._connected_limiter()
            return
        except (redis.ConnectionError, redis.TimeoutError, OSError):
            pass
        except redis.RedisError:
            self._remove_what_is_no_count(rate)
        except Exception:  # see `odd_answers_end_connections`, or the limiter cannot compute with a window's value
            log.warning(
                "the rate limit gives no permit for %.1f s: Redis' answer cannot be read, or its count cannot be used",
                _RETRY_STORE_S,
                exc_info=True,
            )
            self._pool.disconnect()
            self._remove_what_is_no_count(rate)
        self._refuse_for(_RETRY_STORE_S, urgent)

    def _remove_what_is_no_count(self, rate: RateLimitItem) -> None:
        """Remove windows in which the limiter cannot count: it would fail at each question until they expire."""
        window = f"{_PREFIX}:{{{rate.key_for(self._destination)}}}"
        with contextlib.suppress(redis.RedisError, OSError):
            for key in (window, f"{window}/-1"):
                if not self._is_count(key) and self._connected_redis().delete(key) == 1:
                    log.error("what stood under %s in Redis is no count of the rate limit: removed", key)

    def _is_count(self, key: str) -> bool:
        """Return whether the limiter can count with what stands under the key. An absent key counts as zero."""
        try:
            count: Any = self._connected_redis().get(key)
        except redis.ResponseError as error:
            if "WRONGTYPE" in str(error):
                return False
            raise
        if count is not None and not isinstance(count, bytes):
            raise redis.InvalidResponse(f"GET gave {count!r}")
        return count is None or (count.isdigit() and len(count) <= _DIGITS)

    def _clear_odd_windows(self, rate: RateLimitItem) -> None:
        """Clear windows that never end, or end later than the limiter lets any end: Redis' clock was set back.

        They would refuse every permit until then. After that the limiter counts from zero.
        """
        expiry_s, storage = rate.get_expiry(), cast(RedisStorage, self._connected_limiter().storage)
        _, earlier_ends_s, count, ends_s = storage.get_sliding_window(rate.key_for(self._destination), expiry_s)
        if earlier_ends_s > expiry_s or (count and not 0 < ends_s <= 2 * expiry_s):
            self._connected_limiter().clear(rate, self._destination)

    def take(self, count: int, urgent: bool) -> int:
        """Take up to `count` permits; return how many were taken. Another process may have been faster."""
        if count < 1 or self._is_on_hold():
            return 0
        if self._rate is None:
            return count
        if not urgent:  # the limiter knows no reserve
            count = self.available(count, urgent)
        with self._limiter_or_no_permit(self._rate, urgent) as limiter:
            while count > 0:
                if limiter.hit(self._rate, self._destination, cost=count):
                    return count
                count = min(count - 1, self.available(count, urgent))
            self._refuse_for(_SOONEST_S, urgent)
        return 0

    def until_permit_s(self, urgent: bool) -> float:
        """Return the seconds after which it makes sense to ask for a permit again; 0 if there may be one."""
        return max(0.0, self.hold_left_s(), self._next_permit[urgent] - time.monotonic())

    def _refuse_for(self, seconds: float, urgent: bool) -> None:
        """Ask Redis for no permit for this time, so that a lane waits and does not claim and return in a loop."""
        metrics.PERMITS_REFUSED.labels(self._destination).inc()
        self._next_permit[urgent] = max(self._next_permit[urgent], time.monotonic() + seconds)

    def hold(self, seconds: float) -> None:
        """Let this process send nothing for this time: the destination has answered 429."""
        self._holds[0].extend(time.monotonic() + seconds)

    def share_hold(self) -> None:
        """Store this process's hold in Redis, so that no process of the fleet sends until it ends.

        It also holds those whose hold this one obeys, for `OPERATIONS_HOLD_MAX_S` at most, and then not again for that
        time. If the destination counts all requests together, they get a 429 of their own.
        """
        own, *others = self._holds
        until = own.until
        ms = max(1, round((until - time.monotonic()) * 1000))
        short_ms = min(ms, _OPERATIONS_HOLD_MAX_MS)
        with contextlib.suppress(redis.RedisError):  # then the others get a 429 of their own
            self._connected_redis().eval(_SHARE_HOLD, 1, own.key, ms)
            own.note_shared(until)
            for other in others:
                spared_ms = short_ms + _OPERATIONS_HOLD_MAX_MS
                if self._connected_redis().set(f"{other.key}:by_others", str(spared_ms), nx=True, px=spared_ms):
                    self._connected_redis().eval(_SHARE_HOLD, 1, other.key, short_ms)

    def hold_left_s(self) -> float:
        """Return for how many seconds nobody may send, as far as this process knows; 0 without a hold."""
        return max(0.0, max([hold.until for hold in self._holds]) - time.monotonic())

    def must_read_hold(self) -> bool:
        """Return True to one caller if the hold was read longer than `HOLD_CHECK_S` ago, and False to all others."""
        now = time.monotonic()
        if now < self._look_again:
            return False
        self._look_again = now + 2 * _TIMEOUT_S
        return True

    def read_hold(self) -> None:
        """Read from Redis whether another process got a 429, and whether a hold has gone: a person has deleted it.

        A flush of Redis ends it too. Then the next 429 sets it again.
        """
        try:
            for hold in self._holds:
                until_in_redis, left_ms = hold.until_in_redis, self._left_ms(hold.key)
                if 0 < left_ms <= _LONGEST_HOLD_MS:
                    hold.note_shared(time.monotonic() + left_ms / 1000)
                elif left_ms == _ABSENT:
                    hold.end(until_in_redis)
        except redis.RedisError:
            self._look_again = time.monotonic() + _RETRY_HOLD_S
        else:
            self._look_again = time.monotonic() + HOLD_CHECK_S

    def _is_on_hold(self) -> bool:
        if self.must_read_hold():
            self.read_hold()
        return self.hold_left_s() > 0

    def reserve_probe(self) -> float:
        """Return 0 to one process of the fleet at a time, and to others the seconds after which to ask again.

        Without Redis every process may probe.
        """
        try:
            return self._reserve(self._probe_key, round(RESERVED * PROBE_EVERY_S * 1000)) / 1000
        except redis.RedisError:
            return 0.0

    def allow_next_probe(self) -> None:
        """Let any process probe at once: this process's circuit probe was answered."""
        with contextlib.suppress(redis.RedisError):
            self._connected_redis().delete(self._probe_key)

    def reserve_pace(self, at_most_s: float) -> float:
        """Reserve the pace. Return 0 to the caller that has it, and to all others the seconds after which to ask again.

        That caller alone may send for `at_most_s` seconds, or until it calls `release_pace`.
        """
        ms = max(1, round(at_most_s * 1000))
        try:
            return self._reserve(self._pace_key, ms) / 1000
        except redis.RedisError:
            return _RETRY_HOLD_S

    def release_pace(self, left_s: float) -> None:
        """Let the next caller send after `left_s` seconds."""
        with contextlib.suppress(redis.RedisError):  # then the reservation expires
            self._connected_redis().pexpire(self._pace_key, max(0, round(left_s * 1000)))

    def _reserve(self, key: str, ms: int) -> int:
        """Reserve `key` for `ms`. Return 0 if this caller has it now, otherwise the milliseconds until it expires.

        A key that never expires, or later than it should, would stop every caller. So it is replaced.
        """
        if self._connected_redis().set(key, str(ms), nx=True, px=ms):
            return 0
        left_ms = self._left_ms(key)
        if left_ms == _ODD:
            self._connected_redis().set(key, str(ms), px=ms)
            return 0
        return max(1, left_ms)

    def _left_ms(self, key: str) -> int:
        """Return the milliseconds until a key expires; `_ABSENT`, or `_ODD` if it lasts longer than it was set for."""
        left_ms = self._connected_redis().pttl(key)
        if not isinstance(left_ms, int):
            raise redis.InvalidResponse(f"PTTL gave {left_ms!r}")
        if left_ms < 0:
            return left_ms
        try:
            length: Any = self._connected_redis().get(key)
        except redis.ResponseError as error:
            if "WRONGTYPE" in str(error):
                return _ODD
            raise
        if length is None:
            return _ABSENT
        is_ours = isinstance(length, bytes) and length.isdigit() and len(length) <= _DIGITS
        return left_ms if is_ours and left_ms <= int(length) else _ODD

    def _connected_redis(self) -> redis.Redis:
        if self._redis is None:
            self._redis = Client(connection_pool=self._pool)
        return self._redis

    def _connected_limiter(self) -> SlidingWindowCounterRateLimiter:
        if self._limiter is None:
            storage = RedisStorage("redis://", self._pool, key_prefix=_PREFIX)
            self._limiter = SlidingWindowCounterRateLimiter(storage)
        return self._limiter
