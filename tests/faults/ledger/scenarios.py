"""The ledger and the engine under every fault we know of: two workers, a beat, a CRM with two clients."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tests.faults.ledger import b2copy_faults, process_faults, store_faults
from tests.faults.ledger.promises import figures, lossless, nearly_lossless, none_unresolved, safe
from tests.faults.ledger.system import DATABASES, System
from tests.faults.table import Scenario
from worker.testbed.local_system import Environment

TITLE = "The ledger: two workers, a beat, 15 operations/s through enqueue and 15/s through foreign messages"

STARTS = 2  # of the two workers, if none is restarted
RESTARTS_MAX = 4  # while Redis refuses writes


def run_fault(
    fault: Callable[[System], None],
    database: str,
    after: float = 2.0,
    broker: Any = None,
    sandbox: Any = None,
    **options: Any,
) -> dict[str, Any]:
    """Put a new system under load, run the fault, wait until everything is final, and return the figures."""
    with Environment(broker, sandbox) as environment, System(environment, database, **options) as system:
        system.start_crm()
        system.wait_for_load()
        fault(system)
        system.go_on(after)
        system.stop_crm()
        system.drain()
        row = figures(system)
        if safe(row):
            system.save_logs()
        return row


def seldom_restarted(row: Mapping[str, Any]) -> list[str]:
    """As `lossless`, and the workers were restarted at most `RESTARTS_MAX` times."""
    restarts = row["starts"] - STARTS
    return [*lossless(row), *([f"{restarts} restarts"] if restarts > RESTARTS_MAX else [])]


def scenario(
    name: str,
    fault: Callable[[System], None],
    holds: Callable[[Mapping[str, Any]], Sequence[str]] = lossless,
    databases: Sequence[str] = DATABASES,
    **options: Any,
) -> list[Scenario]:
    """Return the scenario on each database."""
    return [
        Scenario(f"{name}, {database}", partial(run_fault, fault, database, **options), holds) for database in databases
    ]


MANY_ENTITIES = 20  # where the lines of a few would need longer than DRAINED_S after the fault
CALLS_IN_FLIGHT: dict[str, Any] = {
    "B2COPY_CONCURRENCY": "50", "per_second": 30.0, "latency": 1.0, "entities": MANY_ENTITIES,
}  # fmt: skip

SCENARIOS = [
    *scenario("worker killed x3", process_faults.worker_killed, nearly_lossless),
    *scenario("SQL API, worker killed x3", process_faults.worker_killed, clients=("sql",), per_second=60.0, after=8.0),
    *scenario("Redis killed 5 s", store_faults.redis_killed, safe),
    *scenario("Redis flushed x3", store_faults.redis_flushed, safe),
    *scenario("Redis full 20 s", store_faults.redis_full, seldom_restarted),
    *scenario("Redis read-only 20 s", store_faults.redis_read_only, seldom_restarted),
    *scenario("database unavailable 20 s", store_faults.database_unavailable),
    *scenario(
        "database unavailable 20 s with calls in flight",
        store_faults.database_unavailable,
        none_unresolved,
        mix=("call", "call", "ordered"),
        entities=MANY_ENTITIES,
        B2COPY_CONCURRENCY="50",
        latency=1.0,  # so that thirty calls are in flight when the database goes
    ),
    *scenario("three beats, then none", process_faults.beats_stopped, none_unresolved, beats=3),
    *scenario("no beat at all", process_faults.beats_stopped, none_unresolved, beats=0),
    *scenario("SIGTERM during calls", process_faults.workers_terminated, none_unresolved, **CALLS_IN_FLIGHT),
    *scenario("worker frozen 15 s", process_faults.worker_frozen),
    *scenario(
        "pool processes killed x3", process_faults.pool_killed, options=("--pool", "processes", "--concurrency", "6")
    ),
    *scenario("disk full 12 s", store_faults.disk_full, databases=("sqlite",)),
    *scenario("unusable messages", store_faults.unusable_messages, none_unresolved),
    *scenario("503 for a day", b2copy_faults.unavailable_for_a_day, B2COPY_MAX_ATTEMPTS="2"),
    *scenario(
        "B2COPY unreachable 60 s",
        b2copy_faults.unreachable,
        B2COPY_CONCURRENCY="50",  # enough to catch up
        entities=MANY_ENTITIES,
    ),
    *scenario("403 to all for 20 s", b2copy_faults.access_refused, none_unresolved),
    *scenario(
        "403 for one login", b2copy_faults.access_refused_for_one_login, none_unresolved, B2COPY_MAX_ATTEMPTS="3"
    ),
    *scenario(
        "429 with Retry-After 5", b2copy_faults.rate_limited, none_unresolved, latency=0.15, B2COPY_CONCURRENCY="20"
    ),
    *scenario("409 after a lost answer", b2copy_faults.conflict_after_lost_answer),
    *scenario("interim responses", b2copy_faults.interim_responses, none_unresolved),
]
