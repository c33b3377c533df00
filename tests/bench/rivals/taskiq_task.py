"""A taskiq task with aiohttp: taken from the queue before it runs, no result."""

import asyncio
from typing import Any

from taskiq import SimpleRetryMiddleware, TaskiqEvents, TaskiqState
from taskiq_redis import ListQueueBroker

from tests.bench.rivals.post import REDIS, TRIES, aiohttp_session, post_async
from tests.bench.serve import paced, serve

broker = ListQueueBroker(REDIS).with_middlewares(SimpleRetryMiddleware(default_retry_count=TRIES))


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def startup(state: TaskiqState) -> None:
    state.session = aiohttp_session()


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def shutdown(state: TaskiqState) -> None:
    await state.session.close()


@broker.task(task_name="bench.task", retry_on_error=True)
async def task(name: str) -> None:
    await post_async(broker.state.session, name)


async def _feed(batch: str, count: int, per_second: float) -> dict[str, Any]:
    calls: list[tuple[str, float, float]] = []
    await broker.startup()
    for name in paced(batch, count, per_second, calls):
        await task.kiq(name)
    await broker.shutdown()
    return {"calls": calls}


def feed(batch: str, count: int, per_second: float = 0.0) -> dict[str, Any]:
    return asyncio.run(_feed(batch, count, per_second))


if __name__ == "__main__":
    serve(feed=feed)
