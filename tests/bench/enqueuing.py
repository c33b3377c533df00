"""What it takes to enqueue, without a worker; and how long an operation takes from there to the peer."""

from collections.abc import Sequence
from pathlib import Path

from tests.bench.contestants import WORKERS, Calls, Ours, Rival, rival_feeder
from tests.bench.environments import python_of
from tests.bench.part import Part
from tests.bench.peer import Peer
from tests.bench.races import Field, database, databases, environment, tolerated
from tests.bench.results import Results, percentile
from worker.ledger import open_ledger
from worker.testbed.broker import Broker

SINGLES, ROWS = 1000, 20_000  # operations that are enqueued one by one, and in one call
IDLE, IDLE_PER_SECOND = 400, 100  # operations that are enqueued one by one at a slow rate, a second
SECONDS = 4.0  # for which operations are enqueued at half of the capacity
BACKFILL, BESIDE, PER_SECOND = 100_000, 200, 20  # rows; operations of the money lane beside them, a second


def enqueue_alone(folder: Path, results: Results, only: Sequence[str]) -> None:
    """The rate at which the contestants enqueue without a worker, one by one and (ours) in one call.

    And how long one call of ours takes at a slow rate.
    """
    for name in databases(only):
        with database(name) as url, environment("http://127.0.0.1:1", url) as made:
            open_ledger(made.database_url, create=True).close()
            crm = Part("crm", made.variables, made.folder / "crm.log")
            try:
                crm.run("many", batch="warm", count=100)
                _enqueue(results, f"{name}, in one call", ROWS, crm.run("many", batch="rows", count=ROWS))
                _enqueue(results, f"{name}, singly", SINGLES, crm.run("feed", batch="singles", count=SINGLES))
                calls = crm.run("feed", batch="idle", count=IDLE, per_second=IDLE_PER_SECOND)["calls"]
                own = [took * 1000 for _, _, took in calls]
                results.add("idle", who=name, enqueue_p50_ms=percentile(own, 0.5), enqueue_p99_ms=percentile(own, 0.99))
            finally:
                crm.close()
    for name in (name for name in WORKERS if not only or name in only):
        if python := python_of(name):
            broker = Broker(folder / f"{name}-alone").start()
            feeder = rival_feeder(name, python, "http://127.0.0.1:1", 1, broker, folder)
            try:
                feeder.run("feed", batch="warm", count=100)
                _enqueue(results, name, SINGLES, feeder.run("feed", batch="singles", count=SINGLES))
            finally:
                feeder.close()
                broker.stop()


def delays(contestants: Field, results: Results) -> None:
    """From the call that enqueues to the peer, at half of the rate that the contestant reaches by single operations."""
    contestants.peer.set()
    queues: list[Ours | Rival] = [one for one in contestants.rivals if isinstance(one, Rival)]
    for one in [*contestants.ours, *queues]:
        name = f"{one.name}, singly" if isinstance(one, Ours) else one.name
        capacity = results.median("race", "rate", who=name, latency_ms=0, at_once=10)
        if capacity is None:
            run = one.singles if isinstance(one, Ours) else one.run
            capacity = max(run(300).rate for _ in range(2))  # the first run warms it up
        contestants.peer.reset()
        with tolerated(results, name):
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


def _enqueue(results: Results, name: str, count: int, fed: dict[str, float]) -> None:
    results.add(
        "enqueue", who=name, rate=count / (fed["ended"] - fed["began"]), cpu_ms=fed["cpu"] / count * 1000,
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
