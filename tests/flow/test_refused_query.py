"""A query that the ledger refuses, for a right or a search_path that somebody changed, fails no operation."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine as Connections
from sqlalchemy import text

from tasks.fees import Fees
from tests.flow.conftest import CALL, Engine, LocalDestination, drain_until_final, fees_kind
from tests.operations import find_operation, record_operation
from tests.postgres import Postgres
from worker.ledger import Ledger
from worker.ledger.engine import connect
from worker.operation import Done, Outcome, State, WaitReason
from worker.operation_kind import Attempt


@pytest.fixture(scope="module")
def postgres() -> Iterator[Connections]:
    server = Postgres().start()
    engine = connect(server.url())
    yield engine
    engine.dispose()
    server.stop()


@pytest.mark.parametrize("query", ["SELECT 1 FROM absent_table", "SET SESSION AUTHORIZATION limited; TABLE closed"])
def test_the_operation_waits_and_succeeds_when_the_query_is_permitted(
    ledger: Ledger, engine: Engine, postgres: Connections, query: str
) -> None:
    with postgres.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS closed; DROP ROLE IF EXISTS limited"))
        connection.execute(text("CREATE ROLE limited; CREATE TABLE closed ()"))
    queries = [query, "SELECT 1"]

    async def read_then_call(attempt: Attempt, fees: Fees) -> Outcome:
        with postgres.connect() as connection:
            connection.execute(text(queries.pop(0)))
        await attempt.call(CALL, {"request_id": fees.request_id})
        return Done()

    destination = LocalDestination(lambda request_id: {})
    pusher = engine(destination, fees_kind(read_then_call))
    record_operation(ledger)
    pusher.drain("money")

    waiting = find_operation(ledger)
    assert (waiting.state, waiting.wait_reason) == (State.WAITING, WaitReason.NEXT_STEP)
    assert destination.calls == []
    drain_until_final(ledger, pusher)
    assert find_operation(ledger).state == State.SUCCEEDED
    assert destination.calls == ["W1"]
