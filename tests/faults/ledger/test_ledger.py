"""A selection of the fault runs: one system under load goes through one fault after the other."""

from tests.faults.ledger.process_faults import worker_killed
from tests.faults.ledger.promises import figures, safe
from tests.faults.ledger.store_faults import redis_flushed, redis_killed
from tests.faults.ledger.system import System
from worker.testbed.local_system import Environment


def test_nothing_is_lost_or_done_twice_when_redis_and_workers_die(environment: Environment) -> None:
    with System(environment, "sqlite", per_second=10.0) as system:
        system.start_crm()
        system.wait_for_load(finals=5)

        worker_killed(system, times=1)
        redis_killed(system, seconds=1.0)
        redis_flushed(system, times=1)

        system.stop_crm()
        system.drain()
        row = figures(system)

    assert safe(row) == []
    assert row["enqueued"] > 30
    assert row["recorded"] > row["sent"] / 2  # Redis loses what no worker has recorded yet, and that is little
    assert row["starts"] >= 3  # a killed worker was started again
