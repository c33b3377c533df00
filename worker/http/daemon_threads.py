"""Threads for blocking calls, started beforehand, which do not delay the end of the process."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(ThreadPoolExecutor):
    """`count` daemon threads. A subclass only because asyncio accepts no other class as its default executor.

    `ThreadPoolExecutor` starts each thread when it is first needed: then the system may permit no further one. While
    the interpreter ends, it refuses calls and waits for those that run. Attempts would fail for both reasons.
    """

    def __init__(self, count: int, name: str) -> None:
        super().__init__(count)
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._work, name=f"{name}_{number}", daemon=True).start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Call `fn` in one of the threads, when one is free."""
        future: Future[T] = Future()
        self._calls.put((future, lambda: fn(*args, **kwargs)))
        return future

    def _work(self) -> None:
        while True:
            future, call = self._calls.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            del future, call  # or they would stay in memory until the next call
