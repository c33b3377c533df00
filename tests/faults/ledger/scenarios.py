"""The ledger and the engine under every fault we know of: two workers, a beat, a CRM that asks by both doors."""

import os
import resource
import signal
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.ledger.system import DATABASES, Fault, System, lossless, played, postgres, safe
from tests.faults.table import Scenario
from tests.support import until

TITLE = "The ledger: two workers, a beat, 10 operations/s through enqueue and 10/s through foreign messages"


def worker_killed(system: System, times: int = 3) -> None:
    """SIGKILL workers in turn, amid their calls."""
    system.stage.sandbox.control.switches(latency={"api": 0.3})
    for number in range(times):
        with system.fault():
            system.go_on(1.5)
            system.workers[number % len(system.workers)].kill()
    system.stage.sandbox.control.switches(latency={})


def redis_killed(system: System, seconds: float = 5.0) -> None:
    """Redis dies, and comes back with what its AOF holds."""
    with system.fault():
        system.stage.broker.kill()
        system.go_on(seconds)
        system.stage.broker.start()


def redis_flushed(system: System, times: int = 3) -> None:
    """Redis loses everything."""
    for _ in range(times):
        with system.fault():
            system.go_on(1.0)
            system.stage.broker.flush()


def database_gone(system: System, seconds: float = 20.0) -> None:
    """PostgreSQL dies and comes back; of SQLite somebody else holds the write lock."""
    with system.fault():
        if system.database == "postgresql":
            postgres().kill()
            system.go_on(seconds)
            postgres().start()
        else:
            with closing(sqlite3.connect(system.stage.folder / "ledger.sqlite", timeout=30)) as somebody:
                somebody.execute("BEGIN IMMEDIATE")
                system.go_on(seconds)


def no_beat(system: System, seconds: float = 5.0) -> None:
    """Every beat dies; none comes back."""
    with system.fault():
        for beat in system.beats:
            beat.stop()
        system.go_on(seconds)


def terminated(system: System) -> None:
    """SIGTERM to a worker with fifty calls in flight: it finishes them or hands them back."""
    system.stage.sandbox.control.switches(latency={"api": 1.0})
    system.go_on(3.0)
    with system.fault():
        for worker in system.workers:
            before = worker.started
            worker.send(signal.SIGTERM)
            until(lambda worker=worker, before=before: worker.started > before, within=20)
            if worker.returncode:
                raise AssertionError(f"{worker.name} ended with {worker.returncode}:\n{worker.tail()}")
    system.stage.sandbox.control.switches(latency={})


def b2copy_away(system: System, seconds: float = 60.0) -> None:
    """B2COPY cuts every connection and refuses new ones."""
    with system.fault():
        system.stage.sandbox.control.go_away(seconds)
        system.go_on(seconds)


def stopped(system: System, seconds: float = 15.0) -> None:
    """A worker is frozen for longer than its lease, and goes on with what it had in hand."""
    system.stage.sandbox.control.switches(latency={"api": 0.3})
    with system.fault():
        system.workers[0].send(signal.SIGSTOP)
        system.go_on(seconds)
        system.workers[0].send(signal.SIGCONT)
    system.stage.sandbox.control.switches(latency={})


def scenario(
    name: str, fault: Fault, holds: Callable[[Mapping[str, Any]], Sequence[str]] = lossless, **options: Any
) -> list[Scenario]:
    """The same on either database."""
    return [
        Scenario(f"{name}, {database}", partial(played, fault, database, **options), holds) for database in DATABASES
    ]


SCENARIOS = [
    *scenario("worker killed x3", worker_killed, safe),
    *scenario("Redis killed 5 s", redis_killed, safe),
    *scenario("Redis flushed x3", redis_flushed, safe),
    *scenario("database gone 20 s", database_gone),
    *scenario("three beats, then none", no_beat, beats=3),
    *scenario("no beat at all", no_beat, beats=0),
    *scenario("SIGTERM amid calls", terminated, B2COPY_CONCURRENCY="50", per_second=30.0),
    *scenario("worker stopped 15 s", stopped),
    *scenario("B2COPY away 60 s", b2copy_away),
]
