"""The event loop of this process: one thread on which all requests are sent."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from worker.process import PerProcess

T = TypeVar("T")

BLOCKING_THREADS = 8  # for `asyncio.to_thread`: what reads Redis, the ledger or a file must not hold up the loop


class EventLoop:
    """An asyncio loop in a daemon thread, which ends with the process. Safe to use from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(BLOCKING_THREADS, "b2copy-blocking"))
        self._thread = threading.Thread(target=self._loop.run_forever, name="b2copy-loop", daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        """Start a coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, and block this thread until it has ended."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("this thread runs the event loop: it must not wait for it")
        return self.submit(coroutine).result()

    async def join(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, called from wherever.

        On the loop itself, and on another running loop, this awaits. In a thread without a running loop it blocks the
        thread instead and never suspends, so that a caller may step it with a single `send(None)`.
        """
        running = asyncio._get_running_loop()  # `get_running_loop` raises, which costs more than the rest
        if running is self._loop:
            return await coroutine
        if running is None:
            return self.run(coroutine)
        return await asyncio.wrap_future(self.submit(coroutine))


event_loop = PerProcess(EventLoop)
"""This process's loop. A forked child makes its own."""
