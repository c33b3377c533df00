"""A process that serves people: short queries, and no write if it only reads."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from tests.operations import record_operation
from worker.ledger import Ledger, find, query_limits
from worker.ledger.query_limits import is_timeout, limit_queries

SLOW = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 99999999) SELECT max(i) FROM n",
    "postgresql": "SELECT pg_sleep(20)",
}


def test_a_query_that_takes_too_long_is_ended(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_limits, "QUERY_S", 0.1)
    limit_queries(ledger.engine)

    with pytest.raises(OperationalError) as caught, ledger.reading() as connection:
        connection.execute(text(SLOW[ledger.engine.dialect.name]))

    assert is_timeout(caught.value)
    assert find(ledger, "fees.process:W1") is None  # the connection is still usable
    record_operation(ledger, "W1")


def test_a_ledger_that_is_only_read_refuses_every_write(ledger: Ledger) -> None:
    record_operation(ledger, "W1")
    limit_queries(ledger.engine, read_only=True)

    assert find(ledger, "fees.process:W1") is not None
    with pytest.raises(DBAPIError, match=r"readonly|read-only"):
        record_operation(ledger, "W2")

    assert find(ledger, "fees.process:W2") is None
