"""A failover cuts the connection after a commit was carried out: what it claimed is sent all the same."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.flow.conftest import Engine, LocalDestination, states
from tests.operations import lose_answer_to_next_commit, record_operations
from tests.postgres import Postgres
from worker.flow import lane as lane_module
from worker.instances import ledger as open_this_ledger
from worker.ledger import Ledger, open_ledger
from worker.operation import OnUnknown
from worker.testbed.local_system import Environment
from worker.watch import metrics


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    server = Postgres().start()
    yield server.url()
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, active_environment: Environment) -> Iterator[Ledger]:
    if request.param == "sqlite":
        yield open_this_ledger()
        return
    ledger = open_ledger(request.getfixturevalue("postgres_url"), create=True)
    yield ledger
    ledger.close()


@pytest.mark.parametrize("lost", ["first_claim", "claim_beside_a_result"])
def test_what_was_claimed_by_a_commit_without_an_answer_is_sent(
    ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setattr(lane_module, "DATABASE_PAUSE_S", 0.02)

    def answer(request_id: str) -> Any:
        if lost == "claim_beside_a_result" and request_id == names[0]:
            lose_answer_to_next_commit(ledger)
        return {}

    names = [f"{lost}_{number}" for number in range(3)]
    record_operations(ledger, *names, on_unknown=OnUnknown.STOP)
    destination = LocalDestination(answer)
    pusher = engine(destination, concurrency=1)
    if lost == "first_claim":
        lose_answer_to_next_commit(ledger)

    pusher.drain("money")

    assert {states(ledger)[name] for name in names} == {"succeeded"}
    assert sorted(destination.calls) == names
    assert metrics.CLAIMS_HELD._value.get() == 0
