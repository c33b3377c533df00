"""Races: each round runs all contestants one after the other, and each round begins with another one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bench.contestants import Loop, Ours, Rival, Run, rivals
from tests.bench.peer import Peer
from tests.bench.results import Results
from tests.postgres import Postgres
from worker.testbed.local_system import Environment

RUN_S = 1.2  # seconds that a run is meant to take
COUNT_MIN, COUNT_MAX = 200, 6000  # operations in a run
LATENCIES_MS, AT_ONCE = (0, 10, 50), (10, 50)


class Field(NamedTuple):
    """All contestants, started. `runs` are their ways to run, by name."""

    peer: Peer
    ours: Sequence[Ours]
    rivals: Sequence[Rival | Loop]

    @property
    def runs(self) -> Mapping[str, Callable[[int], Run]]:
        found: dict[str, Callable[[int], Run]] = {}
        for one in self.ours:
            found |= {f"{one.name}, bulk": one.run, f"{one.name}, singly": one.singles}
        return found | {rival.name: rival.run for rival in self.rivals}


@contextmanager
def environment(url: str, database: str | None = None) -> Iterator[Environment]:
    """What our worker needs, with the peer in place of the sandbox."""
    with Environment() as made:
        made.settings["B2COPY_HOST"] = url
        if database:
            made.settings["B2COPY_DATABASE_URL"] = database
        yield made


@contextmanager
def ours_on_both(stack: ExitStack, peer: Peer, at_once: int, only: Sequence[str]) -> Iterator[list[Ours]]:
    """Ours on SQLite and on PostgreSQL."""
    found = []
    for name in ("ours", "ours PostgreSQL"):
        if only and name not in only:
            continue
        database = None
        if name != "ours":
            server = Postgres(fsync=True).start()
            stack.callback(server.stop)
            database = server.url()
        made = stack.enter_context(environment(peer.url, database))
        ours = Ours(made, at_once, name=name)
        stack.callback(ours.close)
        found.append(ours)
    yield found


@contextmanager
def field(folder: Path, at_once: int, only: Sequence[str] = ()) -> Iterator[Field]:
    """Start all contestants. `only`: names, or nothing for all."""
    with ExitStack() as stack:
        peer = stack.enter_context(Peer(folder))
        ours = stack.enter_context(ours_on_both(stack, peer, at_once, only))
        against = rivals(peer, at_once, folder, list(only))
        for rival in against:
            stack.callback(rival.close)
        yield Field(peer, ours, against)


def race(contestants: Field, results: Results, latency_ms: int, at_once: int, rounds: int) -> None:
    """Measure rate, CPU and Redis traffic of every contestant."""
    where = {"latency_ms": latency_ms, "at_once": at_once}
    print(f"\n{latency_ms} ms, {at_once} at once", flush=True)
    contestants.peer.set(latency_ms)
    contestants.peer.reset()
    runs = contestants.runs
    counts = {name: _count(run) for name, run in runs.items()}
    for number, order in enumerate(rotations(list(runs), rounds)):
        if results.of("race", round=number, **where):
            continue
        for name in order:
            run = runs[name](counts[name])
            results.add(
                "race", **where, round=number, who=name, rate=run.rate, cpu_ms=run.cpu_ms, count=run.count,
                redis_bytes=run.redis_bytes / run.count,
            )  # fmt: skip
    for one in [*contestants.ours, *contestants.rivals]:
        results.add("memory", **where, who=one.name, peak_mb=one.peak_mb())


def rotations(names: list[str], rounds: int) -> list[list[str]]:
    """Return the order of each round."""
    return [names[number % len(names) :] + names[: number % len(names)] for number in range(rounds)]


def _count(run: Callable[[int], Run]) -> int:
    """Warm a contestant up, and return how many operations it does in `RUN_S`."""
    run(100)
    return max(COUNT_MIN, min(COUNT_MAX, round(run(300).rate * RUN_S)))
