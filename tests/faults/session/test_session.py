"""A selection of the fault runs: one small fleet goes through one fault after the other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.faults.session import scenarios
from tests.faults.session.fleet import Fleet
from worker.testbed.local_system import Environment


@pytest.fixture
def fleet(environment: Environment) -> Callable[..., Any]:
    """Start a fleet of six with tokens that live 3 s, and wait until every process has called."""

    @contextmanager
    def start(switches: dict[str, Any] | None = None, **options: Any) -> Iterator[Fleet]:
        environment.sandbox.control.switches(access_lifetime=scenarios.TOKEN_LIFE_S, **(switches or {}))
        environment.settings["B2COPY_TOKEN_TTL"] = str(scenarios.TOKEN_LIFE_S)
        with Fleet(environment, count=6, pause=0.1, **options) as fleet:
            fleet.all_call()
            yield fleet

    return start


@pytest.mark.failure_mode("F1", "F5", "F6", "F7", "F9", "F16", "F17", "F24", "F31", "F32", "F46")
def test_a_fleet_goes_through_every_fault_and_presents_no_refresh_token_twice(
    fleet: Callable[..., Any], environment: Environment
) -> None:
    with fleet(clocks=(0.0, 3600.0, -3600.0)) as six:
        scenarios.leader_killed(six, environment, after=0.0)
        scenarios.leader_stopped(six, environment, seconds=2.5, after=0.0)
        scenarios.answers_lost(six, environment, times=1, after=0.0)
        scenarios.redis_killed(six, environment, seconds=1.0, after=0.0)
        scenarios.redis_flushed(six, environment, times=1, after=0.0)
        scenarios.revoked(six, environment, times=1, after=0.0)
        scenarios.endpoints_down(six, environment, seconds=1.5, after=0.0)
        figures = six.figures()

    assert scenarios.safe(figures) == []
    assert figures["calls"] > 200
    assert figures["401s visible"] == 0


@pytest.mark.failure_mode("F2", "F58")
def test_a_lease_shorter_than_the_call_costs_logins_and_nothing_else(fleet: Callable[..., Any]) -> None:
    with fleet({"latency": {"token": 0.9}}, timings={"lease": 0.4, "pace": 0.001}) as six:
        six.go_on(3.0)
        figures = six.figures()

    assert scenarios.safe(figures) == []
    assert figures["at once"] > 1  # the leases did lapse
    assert figures["401s visible"] == 0
