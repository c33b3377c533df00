"""Threads for what blocks or computes in a read: not those of operations, which withdrawals need."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from worker.http.daemon_threads import DaemonThreads
from worker.per_process import PerProcess

T = TypeVar("T")

THREADS = 4

threads = PerProcess(lambda: DaemonThreads(THREADS, "b2copy-reads"))


async def in_read_thread(blocks: Callable[..., T], *arguments: Any) -> T:
    """Call something that blocks in a thread of the reads. Context variables, as those of traces, are not passed on."""
    return await asyncio.get_running_loop().run_in_executor(threads(), blocks, *arguments)
