"""The ledger and the engine under every fault we know of: two workers, a beat, a CRM that asks by both doors."""

import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tests.faults.ledger.poison import send_all
from tests.faults.ledger.system import DATABASES, Fault, System, lossless, nearly_lossless, played, postgres, safe
from tests.faults.table import Scenario
from tests.support import until
from worker.ledger.schema import operations
from worker.testbed.processes import Process

TITLE = "The ledger: two workers, a beat, 15 operations/s through enqueue and 15/s through foreign messages"


def worker_killed(system: System, times: int = 3) -> None:
    """SIGKILL workers in turn, amid their calls and with messages in hand."""
    for number in range(times):
        with system.fault():
            system.go_on(1.5)
            with system.ledger_held():  # so that they have some
                system.go_on(0.5)
                system.workers[number % len(system.workers)].kill()


def children_killed(system: System, times: int = 3) -> None:
    """SIGKILL all pool processes, amid their calls and with messages in hand."""
    for _ in range(times):
        with system.fault():
            system.go_on(1.5)
            with system.ledger_held():  # so that they have some
                system.go_on(0.5)
                for pid in until(system.children):
                    os.kill(pid, signal.SIGKILL)


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
            with system.ledger_held():
                system.go_on(seconds)


def no_beat(system: System, seconds: float = 5.0) -> None:
    """Every beat dies; none comes back."""
    with system.fault():
        for beat in system.beats:
            beat.stop()
        system.go_on(seconds)


def terminated(system: System) -> None:
    """SIGTERM to a worker with fifty calls in flight: it finishes them or hands them back."""
    system.go_on(3.0)
    with system.fault():
        for worker in system.workers:
            worker.send(signal.SIGTERM)
            until(partial(_restarted, worker, worker.started), within=20)
            if worker.returncode:
                raise AssertionError(f"{worker.name} ended with {worker.returncode}:\n{worker.tail()}")


def _restarted(worker: Process, before: int) -> bool:
    return worker.started > before


def disk_full(system: System, seconds: float = 12.0) -> None:
    """No worker can write a byte to any file: neither ledger nor log."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    with system.fault():
        for worker in system.workers:
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
        system.go_on(seconds)
        for worker in system.workers:
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, unlimited)


def poisoned(system: System) -> None:
    """Messages that no worker can take: each is found in the ledger, and all others go on."""
    refused = (operations.c.kind == "message", operations.c.failure_reason == "bad_payload")
    with system.fault():
        sent = send_all(system.stage.broker.url)
    until(lambda: system.count(*refused) == sent, within=20)


def days_outage(system: System, hours: int = 24) -> None:
    """B2COPY answers 503 for a day, half of it to everything and half to two operations alone."""
    away = {"what": "status", "status": 503, "route": "api"}
    with system.fault():
        for hour in range(hours):
            if hour in {0, hours // 2}:
                system.stage.sandbox.control.faults(away | ({} if hour == 0 else {"match": '-77"'}))
            system.hour_passes()
            system.go_on(1.25)
        system.stage.sandbox.control.faults()
    if system.most_tried() < hours // 3:
        raise AssertionError(f"the outage was no test: no operation was tried more than {system.most_tried()} times")


def b2copy_away(system: System, seconds: float = 60.0) -> None:
    """B2COPY cuts every connection and refuses new ones."""
    with system.fault():
        system.stage.sandbox.control.go_away(seconds)
        system.go_on(seconds)


def stopped(system: System, seconds: float = 15.0) -> None:
    """A worker is frozen for longer than its lease, and goes on with what it had in hand."""
    with system.fault():
        system.workers[0].send(signal.SIGSTOP)
        system.go_on(seconds)
        system.workers[0].send(signal.SIGCONT)


def scenario(
    name: str,
    fault: Fault,
    holds: Callable[[Mapping[str, Any]], Sequence[str]] = lossless,
    databases: Sequence[str] = DATABASES,
    **options: Any,
) -> list[Scenario]:
    """The same on either database."""
    return [
        Scenario(f"{name}, {database}", partial(played, fault, database, **options), holds) for database in databases
    ]


SCENARIOS = [
    *scenario("worker killed x3", worker_killed, nearly_lossless),
    *scenario("Redis killed 5 s", redis_killed, safe),
    *scenario("Redis flushed x3", redis_flushed, safe),
    *scenario("database gone 20 s", database_gone),
    *scenario("three beats, then none", no_beat, beats=3),
    *scenario("no beat at all", no_beat, beats=0),
    *scenario("SIGTERM amid calls", terminated, B2COPY_CONCURRENCY="50", per_second=30.0, latency=1.0),
    *scenario("worker stopped 15 s", stopped),
    *scenario("pool processes killed x3", children_killed, options=("--pool", "processes", "--concurrency", "4")),
    *scenario("disk full 12 s", disk_full, databases=("sqlite",)),
    *scenario("poison messages", poisoned),
    *scenario("503 for a day", days_outage, B2COPY_MAX_ATTEMPTS="2"),
    *scenario("B2COPY away 60 s", b2copy_away, B2COPY_CONCURRENCY="50"),  # enough to catch up
]
