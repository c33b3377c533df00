"""What limits ours as it grows: the ledger, the calls at once, the workers, the operations that are pending.

Each line says which of the four grew. Everything else stays: an empty ledger, 10 calls at once, one worker, 10 ms.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import text

from tests.bench.console_pages import fill
from tests.bench.contestants import Ours
from tests.bench.enqueuing import SECONDS
from tests.bench.peer import Peer
from tests.bench.races import database, environment
from tests.bench.results import Results, percentile
from tests.bench.two_workers import active
from tests.bench.usage import cpu_seconds, peak_rss
from worker.ledger import open_ledger

LEDGERS, AT_ONCE, WORKERS, PENDING = (1_000, 10_000, 100_000, 1_000_000), (10, 50, 100, 200), (1, 2, 3, 4), 10_000
LATENCY_MS, PER_SECOND, PENDING_S = 10, 20, 40.0
_ALL_DONE = """
UPDATE b2copy_operations SET state = 'succeeded', wait_reason = NULL, failure_reason = NULL, phase = 'submit',
    due_at = NULL, ended_at = state_since WHERE state <> 'succeeded'
"""


def growth(folder: Path, results: Results, largest: int, databases: Sequence[str]) -> None:
    """`largest`: no ledger of more operations than this."""
    for name in databases:
        for size in (size for size in LEDGERS if size <= largest):
            _measure(folder, results, name, grows="operations in the ledger", size=size, filled=size)
        for at_once in AT_ONCE:
            _measure(folder, results, name, grows="calls at once", size=at_once, at_once=at_once)
        for workers in WORKERS:
            _measure(folder, results, name, grows="workers", size=workers, workers=workers)
        _measure(folder, results, name, grows="pending operations", size=min(PENDING, largest), pending=True)


def _measure(
    folder: Path, results: Results, name: str, *, grows: str, size: int, filled: int = 0, at_once: int = 10,
    workers: int = 1, pending: bool = False,
) -> None:  # fmt: skip
    if results.of("growth", who=name, grows=grows, size=size):
        return
    with ExitStack() as stack:
        peer = stack.enter_context(Peer(folder))
        made = stack.enter_context(environment(peer.url, stack.enter_context(database(name))))
        if filled:
            ledger = open_ledger(made.database_url, create=True)
            fill(ledger, filled)
            with ledger.writing() as connection:
                connection.execute(text(_ALL_DONE))
            ledger.close()
        peer.set(LATENCY_MS)
        ours = Ours(made, at_once)
        stack.callback(ours.close)
        for _ in range(workers - 1):
            ours.add_worker()
        ours.run(500)
        found = _pending(ours, peer, size) if pending else _run(ours, peer, at_once, workers)
        results.add("growth", who=name, grows=grows, size=size, **found)


def _run(ours: Ours, peer: Peer, at_once: int, workers: int) -> dict[str, Any]:
    ours.run(500 * workers)
    count = min(12_000, at_once * workers * 250)
    rate, cpu_ms, cores = active(ours, count, workers)
    peer.reset()
    calls = ours.feed(round(PER_SECOND * SECONDS), PER_SECOND)
    effects = peer.effects()
    delays = [effects[name].first - began for name, began, _ in calls]
    return {
        "rate": rate, "cpu_ms": cpu_ms, "cores": cores, "p50_ms": percentile(delays, 0.5) * 1000,
        "p99_ms": percentile(delays, 0.99) * 1000, "peak_mb": ours.peak_mb(),
    }  # fmt: skip


def _pending(ours: Ours, peer: Peer, size: int) -> dict[str, Any]:
    """So many operations that B2COPY has begun and not finished: the rate of polls, cores of the worker, memory."""
    peer.set(LATENCY_MS, pending=True)
    ours.crm.run("many", batch=ours.batch(), count=size)
    peer.reset()
    until = time.monotonic() + 60
    while peer.ids() < size and time.monotonic() < until:
        time.sleep(0.2)
    began, cpu, requests = time.monotonic(), cpu_seconds(ours.worker.pid), peer.requests()
    time.sleep(PENDING_S)
    seconds = time.monotonic() - began
    return {
        "rate": (peer.requests() - requests) / seconds, "cores": (cpu_seconds(ours.worker.pid) - cpu) / seconds,
        "peak_mb": peak_rss(ours.worker.pid),
    }  # fmt: skip
