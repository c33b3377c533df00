"""One asyncio loop with aiohttp. No queue and nothing kept: the least that calls through aiohttp cost."""

import asyncio
from collections import deque

from tests.bench.rivals.post import AT_ONCE, PAUSE_S, TRIES, aiohttp_session, post_async
from tests.bench.serve import serve


async def _run(batch: str, count: int) -> None:
    left = deque(f"{batch}-{number}" for number in range(count))
    async with aiohttp_session() as session:

        async def work() -> None:
            while left:
                name = left.popleft()
                for _ in range(TRIES):
                    try:
                        await post_async(session, name)
                        break
                    except Exception:
                        await asyncio.sleep(PAUSE_S)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))


def run(batch: str, count: int) -> None:
    asyncio.run(_run(batch, count))


if __name__ == "__main__":
    serve(run=run)
