"""Ten thousand fee runs pending at once: they hold no slot, cost no memory, and are polled in time."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from sqlalchemy import func, select

from tests.faults.ledger.promises import operations_by_key
from tests.faults.ledger.system import DATABASES, System
from tests.faults.load.measure import enqueue_fees, rss
from tests.faults.table import Scenario
from tests.support import until
from worker.ledger.schema import c
from worker.testbed.local_system import Environment

TITLE = "Fee runs pending at once: one worker, a beat, no rate limit"

_pending = c.wait_reason == "pending_at_b2copy"


def pending_at_once(database: str, count: int = 10_000) -> dict[str, Any]:
    """So many runs are pending at B2COPY, another operation is served, then B2COPY ends all runs."""
    with Environment() as environment, System(environment, database, workers=1, latency=0.0, clients=()) as system:
        environment.sandbox.control.switches(logins={"slow": {"until_finished": True}, "none_due": {}})
        idle = rss(system.workers[0])
        enqueue_fees(system, "slow", count)
        until(lambda: system.count(_pending) == count, within=60, every=0.25)
        before = stable_rss(system)
        system.go_on(30.0)
        grown = rss(system.workers[0]) - before
        enqueue_fees(system, "none_due", 1)
        until(lambda: system.count(c.state == "succeeded") == 1, within=30)
        (other,) = (row for row in operations_by_key(system).values() if row.state == "succeeded")
        interval = longest_wait(system)
        with system.fault():
            environment.sandbox.control.finish_fees()
        until(lambda: system.count(c.due_at.is_not(None)) == 0, within=180, every=0.5)
        ended = [row.ended_at / 1000 - system.fault_ended for row in operations_by_key(system).values()]
        return {
            "pending": count,
            "MB idle": idle,
            "MB": before,
            "MB grown": grown,
            "another s": (other.ended_at - other.requested_at) / 1000,
            "interval s": interval,
            "last final s": max(ended),
            "succeeded": system.count(c.state == "succeeded"),
        }


def stable_rss(system: System) -> float:
    """Return the worker's memory, MB, once it has not grown for ten seconds: the first polls need buffers of their own.

    Memory that grows with every poll does not become stable, and is reported as a fault.
    """
    for _ in range(9):
        before = rss(system.workers[0])
        system.go_on(10.0)
        if (now := rss(system.workers[0])) - before < 0.5:
            return now
    raise AssertionError(f"the worker's memory still grows after 90 s: {now:.1f} MB")


def longest_wait(system: System) -> float:
    """Return the longest interval between two polls at present, s."""
    with system.ledger() as ledger, ledger.reading() as connection:
        return int(connection.execute(select(func.max(c.last_wait_ms)).where(_pending)).scalar_one()) / 1000


def in_time(figures: Mapping[str, Any]) -> list[str]:
    problems = []
    if figures["MB grown"] > 5:
        problems.append(f"memory grew by {figures['MB grown']:.1f} MB while they were pending")
    if figures["another s"] > 1:
        problems.append(f"another operation took {figures['another s']:.2f} s")
    if figures["last final s"] > figures["interval s"] + 2:
        problems.append("a final status was seen later than the poll interval + 2 s")
    if figures["succeeded"] != figures["pending"] + 1:
        problems.append(f"{figures['succeeded']} succeeded")
    return problems


SCENARIOS = [
    Scenario(f"10,000 fee runs pending, {database}", partial(pending_at_once, database), in_time)
    for database in DATABASES
]
