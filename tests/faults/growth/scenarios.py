"""The cost of an operation does not grow with the ledger."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from sqlalchemy import text

from tests.faults.ledger.system import DATABASES, System
from tests.faults.load.measure import cpu_seconds, enqueue_fees
from tests.faults.table import Scenario
from tests.support import until
from worker.ledger.schema import c, operations
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process

TITLE = "A worker's cost per operation in a small ledger and in a large one"


def grown_ledger(database: str, small: int = 1_000, large: int = 100_000, count: int = 3_000) -> dict[str, Any]:
    """Serve the same operations in a small and in a large ledger, twice each, and take the lower cost of the two."""
    costs: dict[int, list[tuple[float, float]]] = {small: [], large: []}
    for size in (small, large, small, large):
        costs[size].append(cost(database, size, count))
    cpu = {size: min(ms for ms, _ in found) for size, found in costs.items()}
    statements = {size: min(number for _, number in found) for size, found in costs.items()}
    return {
        "operations": count,
        f"ms CPU at {small}": cpu[small],
        f"at {large}": cpu[large],
        "ratio": cpu[large] / cpu[small],
        "statements": statements[small],
        "statements at large": statements[large],
    }


def cost(database: str, size: int, count: int) -> tuple[float, float]:
    """Return ms of a worker's CPU, and SQL statements, per operation in a ledger that holds `size` final ones."""
    with Environment() as environment:
        environment.settings["STATEMENTS_FOLDER"] = str(environment.folder)
        options = ("--include", "tests.faults.growth.counting")
        with System(environment, database, workers=1, beats=0, latency=0.0, clients=(), options=options) as system:
            environment.sandbox.control.switches(logins={"none_due": {}})
            enqueue_fees(system, "none_due", 200)  # so that caches and connections exist
            until(lambda: system.count(c.state == "succeeded") == 200, within=30)
            fill(system, size)
            worker = system.workers[0]
            cpu, statements = cpu_seconds(worker), statements_of(environment, worker)
            enqueue_fees(system, "none_due", count)
            until(lambda: system.count(c.state == "succeeded") == 200 + size + count, within=60, every=0.25)
            time.sleep(0.2)
            return (
                (cpu_seconds(worker) - cpu) * 1000 / count,
                (statements_of(environment, worker) - statements) / count,
            )


def not_dearer(figures: Mapping[str, Any]) -> list[str]:
    problems = []
    if figures["ratio"] > 1.3:
        problems.append(f"an operation costs {figures['ratio']:.2f} times as much in a large ledger")
    # The limit is not 1, because the number of operations per transaction varies a little.
    if figures["statements at large"] > 1.3 * figures["statements"]:
        problems.append("an operation takes more statements in a large ledger")
    return problems


def fill(system: System, count: int) -> None:
    """Insert `count` copies of a final operation and of its attempt, each with a key of its own."""
    names = [column.name for column in operations.columns if column.name not in {"id", "key"}]
    listed = ", ".join(names)
    with system.ledger() as ledger, ledger.writing() as connection:
        series = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)"
        connection.execute(
            text(
                f"INSERT INTO b2copy_operations (key, {listed}) {series} SELECT 'fees.process:old-' || i, {listed}"
                " FROM n, (SELECT * FROM b2copy_operations WHERE state = 'succeeded' LIMIT 1) AS pattern"
            ),
            {"count": count},
        )
        copied = "started_at, last_at, times, duration_ms, outcome, counted, worker, version, late"
        connection.execute(
            text(
                f"INSERT INTO b2copy_attempts (operation_id, fence, {copied}) SELECT o.id, 1, {copied}"
                " FROM b2copy_operations o, (SELECT * FROM b2copy_attempts LIMIT 1) AS pattern"
                " WHERE o.key LIKE 'fees.process:old-%'"
            )
        )


def statements_of(environment: Environment, process: Process) -> int:
    return int((environment.folder / f"{process.pid}.statements").read_text())


SCENARIOS = [
    Scenario(f"1,000 and 100,000 operations, {database}", partial(grown_ledger, database), not_dearer)
    for database in DATABASES
]
