"""The event loop of this process: one thread on which all attempts are made and all requests are sent."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from worker.http.daemon_threads import DaemonThreads
from worker.per_process import PerProcess
from worker.watch.heartbeat import note_progress

log = logging.getLogger(__name__)

T = TypeVar("T")

BEAT_S = 0.5  # seconds between two notes that the loop runs
TOKEN_THREADS = 4  # few, because there are few logins, and all requests of a login share one look-up
REDIS_THREADS = 4  # for the gates alone
BLOCKING_THREADS = 8  # for `asyncio.to_thread`, because reads of the ledger or a file must not block the loop


class EventLoop:
    """An asyncio loop in a daemon thread, which ends with the process. Safe to use from any thread.

    `token_threads` and `redis_threads` are executors for calls that block. `asyncio.to_thread` has other threads: if
    the ledger does not answer and all of those wait for it, requests still get their tokens before their leases end.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(DaemonThreads(BLOCKING_THREADS, "b2copy-blocking"))
        self.token_threads = DaemonThreads(TOKEN_THREADS, "b2copy-tokens")
        self.redis_threads = DaemonThreads(REDIS_THREADS, "b2copy-redis")
        self._thread = threading.Thread(target=self._run, name="b2copy-loop", daemon=True)
        self._last_beat = time.monotonic()
        self.call(self._beat)
        self._thread.start()

    @property
    def blocked_s(self) -> float:
        """For how many seconds nothing has run on the loop, because something blocks it; about 0 otherwise."""
        return max(0.0, time.monotonic() - self._last_beat - BEAT_S)

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

    def _beat(self) -> None:
        self._last_beat = time.monotonic()
        note_progress("attempts")
        self._loop.call_later(BEAT_S, self._beat)

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
