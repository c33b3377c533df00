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
from worker.testbed.processes import ProcessFailed

RUN_S = 1.2  # seconds that a run is meant to take
COUNT_MIN, COUNT_MAX = 200, 6000  # operations in a run
LATENCIES_MS, AT_ONCE = (0, 10, 50), (10, 50)
DATABASES = ("ours", "ours PostgreSQL")
"""The names of ours, by the database of the ledger; the first is SQLite."""


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
def environment(url: str, ledger_url: str | None = None) -> Iterator[Environment]:
    """What our worker needs, with the peer in place of the sandbox."""
    with Environment() as made:
        made.settings["B2COPY_HOST"] = url
        if ledger_url:
            made.settings["B2COPY_DATABASE_URL"] = ledger_url
        yield made


@contextmanager
def database(name: str) -> Iterator[str | None]:
    """The URL of a new ledger for ours: None for the environment's own on SQLite."""
    if name == "ours":
        yield None
        return
    server = Postgres(fsync=True).start()
    try:
        yield server.url()
    finally:
        server.stop()


def databases(only: Sequence[str]) -> list[str]:
    """Return which of ours to measure. `only`: names of contestants, or nothing for all."""
    return [name for name in DATABASES if not only or name in only]


@contextmanager
def tolerated(results: Results, who: str) -> Iterator[None]:
    """Go on if a contestant does not finish, and say so in the results."""
    try:
        yield
    except ProcessFailed as error:
        print(f"FAILED: {who}: {error}", flush=True)
        results.add("failed", who=who, error=str(error).strip().splitlines()[-1])


@contextmanager
def field(folder: Path, at_once: int, only: Sequence[str] = ()) -> Iterator[Field]:
    """Start all contestants. `only`: names, or nothing for all."""
    with ExitStack() as stack:
        peer = stack.enter_context(Peer(folder))
        ours = []
        for name in databases(only):
            made = stack.enter_context(environment(peer.url, stack.enter_context(database(name))))
            ours.append(Ours(made, at_once, name=name))
            stack.callback(ours[-1].close)
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
    counts: dict[str, int] = {}
    for name, run in runs.items():
        with tolerated(results, name):
            counts[name] = _count(run)
    for number, order in enumerate(rotations(list(counts), rounds)):
        if results.of("race", round=number, **where):
            continue
        for name in order:
            with tolerated(results, name):
                done = runs[name](counts[name])
                results.add(
                    "race", **where, round=number, who=name, rate=done.rate, cpu_ms=done.cpu_ms, count=done.count,
                    redis_bytes=done.redis_bytes / done.count,
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
