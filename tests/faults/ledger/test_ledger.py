"""A selection of the fault runs: one system under load goes through one fault after the other."""

from tests.faults.ledger import scenarios
from tests.faults.ledger.system import System, safe
from worker.testbed.environment import Stage


def test_nothing_is_lost_or_done_twice_when_redis_and_workers_die(stage: Stage) -> None:
    with System(stage, "sqlite", per_second=10.0) as system:
        system.crm_starts()
        system.under_load(finals=5)

        scenarios.worker_killed(system, times=1)
        scenarios.redis_killed(system, seconds=1.0)
        scenarios.redis_flushed(system, times=1)

        system.crm_stops()
        system.drained()
        figures = system.figures()

    assert safe(figures) == []
    assert figures["enqueued"] > 30
    assert figures["starts"] >= 3  # one did die
