"""An arq job with aiohttp: taken from the queue after it has run, no result."""

import asyncio
import logging
from typing import Any

from arq import Retry, create_pool
from arq.connections import RedisSettings

from tests.bench.rivals.post import AT_ONCE, PAUSE_S, REDIS, TRIES, aiohttp_session, post_async
from tests.bench.serve import paced, serve

logging.getLogger("arq.worker").setLevel(logging.WARNING)  # its two lines per job cost throughput


async def task(context: dict[str, Any], name: str) -> None:
    try:
        await post_async(context["session"], name)
    except Exception as error:
        raise Retry(defer=PAUSE_S) from error


async def startup(context: dict[str, Any]) -> None:
    context["session"] = aiohttp_session()


async def shutdown(context: dict[str, Any]) -> None:
    await context["session"].close()


class WorkerSettings:
    """What `arq` reads."""

    functions = (task,)
    on_startup, on_shutdown = startup, shutdown
    redis_settings = RedisSettings.from_dsn(REDIS)
    max_jobs, max_tries, keep_result = AT_ONCE, TRIES, 0
    poll_delay = 0.01  # half a second by default, which alone would decide its delays


async def _feed(batch: str, count: int, per_second: float) -> dict[str, Any]:
    calls: list[tuple[str, float, float]] = []
    pool = await create_pool(RedisSettings.from_dsn(REDIS))
    for name in paced(batch, count, per_second, calls):
        await pool.enqueue_job("task", name)
    await pool.aclose()
    return {"calls": calls}


def feed(batch: str, count: int, per_second: float = 0.0) -> dict[str, Any]:
    return asyncio.run(_feed(batch, count, per_second))


if __name__ == "__main__":
    serve(feed=feed)
