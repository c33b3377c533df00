"""The answer to a read on its way through Redis: a list of one element, which is taken once and expires by itself.

    b2copy:answer:<id of the read>    list    the sealed answer; expires with the deadline of who asked

Deadlines are in the clock of Redis, because the clocks of the two hosts may differ.
"""

from typing import cast

from worker.queues import ANSWERS
from worker.redis_connection import redis_client
from worker.settings import CrmSettings

LIFE_MAX_S = 60.0  # seconds; longest deadline of a read, so no answer is stored for longer
BLOCK_S = 1.0  # seconds of one blocking pop; a Redis that is frozen is noticed one second later
_TIMEOUT_S = 1.0  # seconds that Redis has for any other answer


class Answers:
    """The answers in Redis. Every method blocks and raises `redis.RedisError`. Safe to share between threads."""

    def __init__(self, settings: CrmSettings) -> None:
        self._redis = redis_client(settings, timeout_s=BLOCK_S + _TIMEOUT_S, connect_timeout_s=_TIMEOUT_S)

    def clock_ms(self) -> int:
        """Return the time of Redis, in ms since the epoch."""
        seconds, microseconds = self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def post(self, read_id: str, sealed: bytes, life_ms: int) -> None:
        """Store the answer for at most `life_ms`."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.rpush(ANSWERS + read_id, sealed)
            pipe.pexpire(ANSWERS + read_id, max(1, min(life_ms, round(LIFE_MAX_S * 1000))))
            pipe.execute()

    def take(self, read_id: str, wait_s: float) -> bytes | None:
        """Take the answer and so remove it. None if there is none within `wait_s`, which is `BLOCK_S` at most."""
        taken = self._redis.blpop([ANSWERS + read_id], timeout=max(0.001, min(wait_s, BLOCK_S)))
        return None if taken is None else cast("tuple[bytes, bytes]", taken)[1]
