"""A dramatiq actor, acknowledged after it has run, as dramatiq always does."""

from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from tests.bench.rivals.post import PAUSE_S, REDIS, TRIES, post
from tests.bench.serve import paced, serve

dramatiq.set_broker(RedisBroker(url=REDIS))


@dramatiq.actor(max_retries=TRIES - 1, min_backoff=round(PAUSE_S * 1000), max_backoff=round(PAUSE_S * 2000))
def task(name: str) -> None:
    post(name)


def feed(batch: str, count: int, per_second: float = 0.0) -> dict[str, Any]:
    calls: list[tuple[str, float, float]] = []
    for name in paced(batch, count, per_second, calls):
        task.send(name)
    return {"calls": calls}


if __name__ == "__main__":
    serve(feed=feed)
