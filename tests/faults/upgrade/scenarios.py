"""An upgrade and the way back under load: two versions of the code on one ledger and one broker.

The next version is a copy with a migration more (tests/next_version.py). The way is that of deploy/README.md: migrate,
then restart the workers one after the other. On the way back one worker of the next version is killed during its calls.
"""

import sys
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

from tests.faults.ledger.promises import figures as promised
from tests.faults.ledger.promises import nearly_lossless, operations_by_key
from tests.faults.ledger.system import DATABASES, RULES, System
from tests.faults.table import Scenario
from tests.next_version import VERSION as NEXT
from tests.next_version import NextVersion
from tests.support import until
from worker.ledger.overview import overview
from worker.ledger.schema import c
from worker.operation import VERSION
from worker.testbed.local_system import Environment, wait_for_worker
from worker.testbed.processes import Process

TITLE = "An upgrade and a rollback: two workers, a beat, 100 operations/s through enqueue and 100/s through messages"

GAP_MAX_S = 2.0  # between two operations that end
PENDING = 100  # operations that the next version has recorded and begun, and the version before must finish
MIX = (*["none_due"] * 8, "call", "pending")
_REQUEST = f"""
from tasks import enqueue
enqueue.many("fees.process", [{{"account_login": "slow", "request_id": f"next-{{n}}"}} for n in range({PENDING})])
"""


def upgrade_and_roll_back(database: str, per_second: float = 200.0) -> dict[str, Any]:
    with (
        Environment() as environment,
        System(
            environment, database, per_second=per_second / 2, latency=0.05, mix=MIX, B2COPY_CONCURRENCY="50"
        ) as system,
    ):  # fmt: skip
        environment.sandbox.control.switches(logins={**RULES, "slow": {"until_finished": True}})
        following = NextVersion(environment.folder / "next")
        system.start_crm()
        system.wait_for_load(200)
        system.go_on(3.0)
        began_ms = newest_end_ms(system)

        finish(run_next(system, following, "migrate", "-m", "worker.cli", "migrate"))
        system.go_on(2.0)
        for number, worker in enumerate(list(system.workers)):
            stop(worker)
            started = next_worker(system, following, f"next{number}")
            system.workers[number] = started
        until(lambda: versions(system) == {NEXT})
        finish(run_next(system, following, "requests", "-c", _REQUEST))
        pending = c.key.like("fees.process:next-%") & (c.wait_reason == "pending_at_b2copy")
        until(lambda: system.count(pending) == PENDING)

        with system.fault():
            for number, worker in enumerate(list(system.workers)):
                if number:
                    worker.terminate()  # so that the supervisor does not restart it
                    worker.kill()
                stop(worker)
                system.workers[number] = environment.worker(name=f"back{number}")
                wait_for_worker(system.workers[number], within=60)
        environment.sandbox.control.finish_fees()
        until(lambda: VERSION in versions(system))
        system.go_on(3.0)
        system.stop_crm()
        ended_ms = newest_end_ms(system)
        system.drain(within=90)
        row = promised(system)
        gap_s = longest_gap_s(system, began_ms, ended_ms)
        found = {
            "requested": row["enqueued"] + row["sent"],
            "ended/s": system.count(c.ended_at.between(began_ms, ended_ms)) / (ended_ms - began_ms) * 1000,
            "longest gap s": gap_s,
            "unresolved": row["unresolved"],
            "finished by the version before": system.count(c.key.like("%process:next-%"), c.state == "succeeded"),
            **{name: row[name] for name in ("sent", "recorded", "never", "twice", "wrong", "no evidence", "drained s")},
        }
        if without_a_pause(found):
            system.save_logs()
        return found


def run_next(system: System, following: NextVersion, name: str, *arguments: str, restarts: bool = False) -> Process:
    """Start a process that runs the next version's code."""
    environment = following.environment(system.environment.variables)
    return system.environment.run(name, *following.python(*arguments), restarts=restarts, **environment)


def next_worker(system: System, following: NextVersion, name: str) -> Process:
    """Start a worker of the next version, and wait until it takes messages."""
    celery = ("-m", "celery", "--workdir", str(following.folder), "-A", "worker.app")
    options = ("worker", "--hostname", f"{name}@%h", "--loglevel", "INFO")
    worker = run_next(system, following, name, *celery, *options, restarts=True)
    wait_for_worker(worker, within=60)
    return worker


def stop(worker: Process) -> None:
    """End a worker as a supervisor does: SIGTERM, and it finishes its calls."""
    worker.stop(grace=60)


def finish(process: Process) -> None:
    if process.wait(60.0) != 0:
        raise AssertionError(f"{process.name} failed:\n{process.tail()}")


def versions(system: System) -> set[str]:
    """Return the versions of the workers that note themselves."""
    with system.ledger() as ledger:
        return {worker.version for worker in overview(ledger).workers}


def ends_ms(system: System) -> list[int]:
    rows = operations_by_key(system).values()
    return sorted(row.ended_at for row in rows if row.ended_at is not None)


def newest_end_ms(system: System) -> int:
    return ends_ms(system)[-1]


def longest_gap_s(system: System, began_ms: int, ended_ms: int) -> float:
    """Return the longest time in which no operation ended, between two instants."""
    within = [at for at in ends_ms(system) if began_ms <= at <= ended_ms]
    gap_ms, at_ms = max((later - earlier, earlier) for earlier, later in pairwise(within))
    print(f"    the longest gap began {(at_ms - began_ms) / 1000:.1f} s after the upgrade began", file=sys.stderr)
    return gap_ms / 1000


def without_a_pause(row: Mapping[str, Any]) -> list[str]:
    problems = nearly_lossless(row, kills=1)
    if row["longest gap s"] > GAP_MAX_S:
        problems.append(f"no operation ended for {row['longest gap s']:.1f} s")
    if row["finished by the version before"] != PENDING:
        problems.append(f"only {row['finished by the version before']} of {PENDING} were finished after the rollback")
    return problems


SCENARIOS = [
    Scenario(f"upgrade and rollback, {database}", partial(upgrade_and_roll_back, database), without_a_pause)
    for database in DATABASES
]
