"""Look-ups that block, made in threads beside the event loop."""

import asyncio
from collections.abc import Callable, Hashable
from typing import Any


class LookUps:
    """Runs blocking functions in threads. Coroutines that need the same look-up at the same time share one call.

    Otherwise every request that waits for an access token would hold a thread of its own.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Future[Any]] = {}

    async def call(self, key: Hashable, function: Callable[..., Any], *args: Any) -> Any:
        """Return the result of `function(*args)`. Raises what it raises."""
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = asyncio.ensure_future(asyncio.to_thread(function, *args))
            running.add_done_callback(lambda _: self._running.pop(key))
        return await asyncio.shield(running)
