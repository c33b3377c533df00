"""A ledger that has grown makes no operation dearer."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from sqlalchemy import text

from tests.faults.ledger.system import DATABASES, System
from tests.faults.load.measure import ask, cpu_seconds
from tests.faults.table import Scenario
from tests.support import until
from worker.ledger.schema import operations
from worker.testbed.environment import Stage
from worker.testbed.processes import Process

TITLE = "A worker's cost per operation in a small ledger and in a large one"

_row = operations.c


def grown_ledger(database: str, small: int = 1_000, large: int = 100_000, count: int = 3_000) -> dict[str, Any]:
    """The same operations in a small ledger and in a large one, in turn, twice: the cheaper time of each counts."""
    found: dict[int, list[tuple[float, float]]] = {small: [], large: []}
    for size in (small, large, small, large):
        found[size].append(cost(database, size, count))
    cpu = {size: min(cost for cost, _ in costs) for size, costs in found.items()}
    statements = {size: min(count for _, count in costs) for size, costs in found.items()}
    return {
        "operations": count,
        f"ms CPU at {small}": cpu[small],
        f"at {large}": cpu[large],
        "ratio": cpu[large] / cpu[small],
        "statements": statements[small],
        "statements at large": statements[large],
    }


def cost(database: str, size: int, count: int) -> tuple[float, float]:
    """Return ms of a worker's CPU and SQL statements for each operation, in a ledger of `size` final ones."""
    with Stage() as stage:
        stage.settings["STATEMENTS_FOLDER"] = str(stage.folder)
        options = ("--include", "tests.faults.growth.counting")
        with System(stage, database, workers=1, beats=0, latency=0.0, doors=(), options=options) as system:
            stage.sandbox.control.switches(logins={"none_due": {}})
            ask(stage, "none_due", 200)  # what the first operations make once
            until(lambda: system.count(_row.state == "succeeded") == 200, within=30)
            fill(system, size)
            worker = system.workers[0]
            cpu, statements = cpu_seconds(worker), statements_of(stage, worker)
            ask(stage, "none_due", count)
            until(lambda: system.count(_row.state == "succeeded") == 200 + size + count, within=60, every=0.25)
            time.sleep(0.2)
            return (
                (cpu_seconds(worker) - cpu) * 1000 / count,
                (statements_of(stage, worker) - statements) / count,
            )


def lean(figures: Mapping[str, Any]) -> list[str]:
    problems = []
    if figures["ratio"] > 1.3:
        problems.append(f"an operation costs {figures['ratio']:.2f} times as much in a large ledger")
    if figures["statements at large"] > 1.3 * figures["statements"]:  # how many share a transaction varies a little
        problems.append("an operation takes more statements in a large ledger")
    return problems


def fill(system: System, count: int) -> None:
    """Copy a final operation and its attempt that often, with keys of their own."""
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
        kept = "started_at, last_at, times, duration, outcome, counted, worker, version, late"
        connection.execute(
            text(
                f"INSERT INTO b2copy_attempts (operation, fence, {kept}) SELECT o.id, 1, {kept}"
                " FROM b2copy_operations o, (SELECT * FROM b2copy_attempts LIMIT 1) AS pattern"
                " WHERE o.key LIKE 'fees.process:old-%'"
            )
        )


def statements_of(stage: Stage, process: Process) -> int:
    return int((stage.folder / f"{process.pid}.statements").read_text())


SCENARIOS = [
    Scenario(f"1,000 and 100,000 operations, {database}", partial(grown_ledger, database), lean)
    for database in DATABASES
]
