"""Run blocking look-ups of access tokens in threads. Coroutines that need the same look-up share one call."""

import asyncio
from collections.abc import Callable, Hashable
from typing import Any

from worker.http.event_loop_thread import event_loop


class SharedBlockingCalls:
    """Runs blocking functions in threads. Coroutines that need the same look-up at the same time share one call.

    Otherwise every request that waits for an access token would occupy a thread.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Future[Any]] = {}

    async def call(self, key: Hashable, function: Callable[..., Any], *args: Any) -> Any:
        """Return the result of `function(*args)`. Raises what it raises."""
        running = self._running.get(key)
        if running is None:
            running = asyncio.get_running_loop().run_in_executor(event_loop().token_threads, function, *args)
            self._running[key] = running
            running.add_done_callback(lambda _: self._running.pop(key))
        return await asyncio.shield(running)
