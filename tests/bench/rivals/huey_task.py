"""A huey task: taken from the queue before it runs, no result."""

from typing import Any

from huey import RedisHuey

from tests.bench.rivals.post import REDIS, TRIES, post
from tests.bench.serve import paced, serve

huey = RedisHuey("bench", url=REDIS, results=False)


@huey.task(retries=TRIES - 1, retry_delay=0)
def task(name: str) -> None:
    post(name)


def feed(batch: str, count: int, per_second: float = 0.0) -> dict[str, Any]:
    calls: list[tuple[str, float, float]] = []
    for name in paced(batch, count, per_second, calls):
        task(name)
    return {"calls": calls}


if __name__ == "__main__":
    from tests.bench.rivals import huey_task  # so that the task has the name that the consumer knows

    serve(feed=huey_task.feed)
