"""The event loop of this process: one thread on which all attempts are made and all requests are sent."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from worker.per_process import PerProcess

log = logging.getLogger(__name__)

T = TypeVar("T")

BLOCKING_THREADS = 8  # for `asyncio.to_thread`, because reads of Redis, the ledger or a file must not block the loop


class EventLoop:
    """An asyncio loop in a daemon thread, which ends with the process. Safe to use from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(BLOCKING_THREADS, "b2copy-blocking"))
        self._thread = threading.Thread(target=self._run, name="b2copy-loop", daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function on the loop, soon."""
        self._loop.call_soon_threadsafe(function, *args)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        """Start a coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, and block this thread until it has ended."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("this thread runs the event loop: it must not wait for it")
        return self.submit(coroutine).result()

    def _run(self) -> None:
        """Run the loop for ever: a task that raises SystemExit, or stops the loop, must not end all others."""
        while True:
            try:
                self._loop.run_forever()
                log.error("something stopped the event loop: it runs again")
            except BaseException:
                log.exception("the event loop was interrupted: it runs again")


event_loop = PerProcess(EventLoop)
"""This process's loop. A forked child makes its own."""
