"""The answer to a read on its way through Redis: a list of one element, which is taken once and expires by itself.

    b2copy:answer:<id of the read>    list      the sealed answer; expires after 5 s, or with the asker's deadline
    b2copy:answer_bytes               string    bytes of the answers of the last 5 s, of all workers together

The asking process waits in a blocking pop. So if an answer is still there after a second, nobody waits for it. Redis
evicts nothing, so answers that nobody takes must not fill it: withdrawals need it too.

Deadlines are in the clock of Redis, because the clocks of the two hosts may differ.
"""

import time
from typing import cast

from worker.queues import ANSWERS
from worker.redis_connection import redis_client
from worker.settings import CrmSettings

DEADLINE_MAX_S = 60.0  # seconds; longest deadline of a read
LIFE_S = 5  # seconds that an answer is stored at most
ANSWER_MAX = 512 * 1024  # bytes of one answer
POSTED_MAX = 32 * 1024 * 1024  # bytes of all answers that begin within `LIFE_S`; so Redis holds twice as many at most
BLOCK_S = 1.0  # seconds of one blocking pop; a Redis that is frozen is noticed one second later
_TIMEOUT_S = 1.0  # seconds that Redis has for any other answer
_POSTED = "b2copy:answer_bytes"


class Answers:
    """The answers in Redis. Every method blocks and raises `redis.RedisError`. Safe to share between threads."""

    def __init__(self, settings: CrmSettings) -> None:
        self._redis = redis_client(settings, timeout_s=BLOCK_S + _TIMEOUT_S, connect_timeout_s=_TIMEOUT_S)

    def clock_ms(self) -> int:
        """Return the time of Redis, in ms since the epoch."""
        seconds, microseconds = self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def deadline(self, ends_at: int) -> float:
        """Return a time of Redis' clock (ms) as monotonic time of this process: `DEADLINE_MAX_S` from now at most."""
        return time.monotonic() + min(DEADLINE_MAX_S, (ends_at - self.clock_ms()) / 1000)

    def reserve(self, size: int) -> bool:
        """Return whether an answer of so many bytes may be posted now: not too many were in the last seconds.

        Taken answers count too, because the asking process has no right to write to this key.
        """
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(_POSTED, 0, ex=LIFE_S, nx=True)
            pipe.incrby(_POSTED, size)
            return int(pipe.execute()[1]) <= POSTED_MAX

    def post(self, read_id: str, sealed: bytes, life_ms: int) -> None:
        """Store the answer for at most `life_ms`, and at most `LIFE_S`."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.rpush(ANSWERS + read_id, sealed)
            pipe.pexpire(ANSWERS + read_id, max(1, min(life_ms, LIFE_S * 1000)))
            pipe.execute()

    def take(self, read_id: str, wait_s: float) -> bytes | None:
        """Take the answer and so remove it. None if there is none within `wait_s`, which is `BLOCK_S` at most."""
        taken = self._redis.blpop([ANSWERS + read_id], timeout=max(0.001, min(wait_s, BLOCK_S)))
        return None if taken is None else cast("tuple[bytes, bytes]", taken)[1]
