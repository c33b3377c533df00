"""Which ledgers have workers on our Redis database. There should be one: two systems would take each other's messages.

b2copy:ledgers    sorted set    the ids of these ledgers, scored by the time of Redis, in seconds; expires
"""

import redis

from worker.redis_connection import odd_answers_end_connections, redis_client
from worker.settings import CrmSettings

SEEN_S = 30  # seconds after its last note during which a ledger counts as one with workers
_TIMEOUT_S = 1.0  # seconds that Redis has for an answer
_KEY = "b2copy:ledgers"


class LedgersInRedis:
    """Every method blocks and raises `redis.RedisError`, also for an answer that cannot be read."""

    def __init__(self, settings: CrmSettings) -> None:
        self._redis: redis.Redis = redis_client(settings, timeout_s=_TIMEOUT_S, connect_timeout_s=_TIMEOUT_S)

    def note(self, ledger_id: str) -> None:
        """Note that a worker of this ledger runs."""
        with odd_answers_end_connections(self._redis.connection_pool):
            seconds, _ = self._redis.time()
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.zadd(_KEY, {ledger_id: int(seconds)})
                pipe.expire(_KEY, SEEN_S)
                pipe.execute()

    def others(self, ledger_id: str) -> list[str]:
        """Return the other ledgers of which a worker has run within `SEEN_S`."""
        with odd_answers_end_connections(self._redis.connection_pool):
            seconds, _ = self._redis.time()
            # The upper limit: after a failover the time of Redis may be an earlier one.
            found = self._redis.zrangebyscore(_KEY, int(seconds) - SEEN_S, int(seconds) + SEEN_S)
            if not isinstance(found, list):
                raise redis.ConnectionError("the answer is no list")
            names = [one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in found]
            return [name for name in names if name != ledger_id]

    def close(self) -> None:
        self._redis.close()


def shared_redis_problem(others: list[str]) -> str:
    """Return what is wrong with a Redis database that workers of other ledgers use."""
    listed = ascii(", ".join(others)[:200])[1:-1]
    return (
        f"B2COPY_REDIS_URL: workers of another ledger ({listed}) use this Redis database, so each system takes the"
        " messages of the other"
    )
