"""What it takes to enqueue, with the worker suspended; and how long an operation takes from there to the peer."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.contestants import Calls, Ours, Rival
from tests.bench.peer import Peer
from tests.bench.races import Field
from tests.bench.results import Results, percentile
from tests.bench.usage import family

SINGLES, ROWS = 1000, 20_000  # operations that are enqueued one by one, and in one call
SECONDS = 4.0  # for which operations are enqueued at half of the capacity
BACKFILL, BESIDE, PER_SECOND = 100_000, 200, 20  # rows; operations of the money lane beside them, a second


def enqueue_alone(contestants: Field, results: Results) -> None:
    """The rate at which the contestants enqueue, one by one and (ours) in one call."""
    contestants.peer.set()
    for one in contestants.ours:
        with suspended(*one.pids()):
            many = one.crm.run("many", batch=one.batch(), count=ROWS)
            results.add(
                "enqueue", who=f"{one.name}, in one call", rate=ROWS / (many["ended"] - many["began"]),
                cpu_ms=many["cpu"] / ROWS * 1000, peak_mb=many["peak_mb"],
            )  # fmt: skip
            _enqueue(results, f"{one.name}, singly", one.crm.run("feed", batch=one.batch(), count=SINGLES))
        one.wait()
    for rival in contestants.rivals:
        if isinstance(rival, Rival):
            with suspended(*rival.pids()):
                _enqueue(results, rival.name, rival.enqueue(SINGLES))
            rival.wait(SINGLES)


def delays(contestants: Field, results: Results) -> None:
    """From the call that enqueues to the peer, at half of the rate that the contestant reaches by single operations."""
    contestants.peer.set()
    queues: list[Ours | Rival] = [one for one in contestants.rivals if isinstance(one, Rival)]
    for one in [*contestants.ours, *queues]:
        name = f"{one.name}, singly" if isinstance(one, Ours) else one.name
        capacity = results.median("race", "rate", who=name, latency_ms=0, at_once=10)
        if capacity is None:
            capacity = (one.singles if isinstance(one, Ours) else one.run)(1000).rate
        contestants.peer.reset()
        calls = one.feed(round(capacity / 2 * SECONDS), capacity / 2)
        _delays(results, "delays", contestants.peer, calls, who=name, per_second=capacity / 2)


def beside_backfill(ours: Ours, peer: Peer, results: Results) -> None:
    """The delay of operations in the money lane: alone, and beside a backfill in the lane `bulk`. 10 ms, 10 at once."""
    peer.set(latency_ms=10)
    peer.reset()
    ours.run(500)
    _delays(results, "backfill", peer, ours.feed(BESIDE, PER_SECOND), who="alone")
    ours.crm.run("many", batch=ours.batch(), count=BACKFILL)
    calls = ours.crm.run("feed", batch=ours.batch(), count=BESIDE, per_second=PER_SECOND)["calls"]
    for _ in range(50):
        if all(name in (effects := peer.effects()) for name, _, _ in calls):
            break
    results.add("backfill", who="rows done meanwhile", count=len(effects))
    _delays(results, "backfill", peer, calls, who=f"beside {BACKFILL:,} rows")


@contextmanager
def suspended(*pids: int) -> Iterator[None]:
    """Suspend processes and their children."""
    all_pids = family(*pids)
    for pid in all_pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in all_pids:
            os.kill(pid, signal.SIGCONT)


def _enqueue(results: Results, name: str, fed: dict[str, float]) -> None:
    results.add(
        "enqueue", who=name, rate=SINGLES / (fed["ended"] - fed["began"]), cpu_ms=fed["cpu"] / SINGLES * 1000,
        peak_mb=fed["peak_mb"],
    )  # fmt: skip


def _delays(results: Results, part: str, peer: Peer, calls: Calls, **more: object) -> None:
    effects = peer.effects()
    seconds = [effects[name].first - began for name, began, _ in calls if name in effects]
    own = [took for _, _, took in calls]
    results.add(
        part, **more, p50_ms=percentile(seconds, 0.5) * 1000, p99_ms=percentile(seconds, 0.99) * 1000,
        enqueue_p50_ms=percentile(own, 0.5) * 1000, enqueue_p99_ms=percentile(own, 0.99) * 1000,
        missing=len(calls) - len(seconds),
    )  # fmt: skip
