"""Fixtures of the ledger's tests. A test that uses `ledger` runs on both databases, and the ledger is empty.

* `database`            "sqlite", then "postgresql"
* `empty_database_url`  a database without tables, for this test alone
* `own_ledger_url`      an empty ledger whose schema this test may change
* `ledger_url`          an empty ledger
* `ledger`              the same, opened; `clock` lets time pass in it
* `open_again`          a function that opens it again, as another process would
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.operations import LedgerClock
from tests.postgres import Postgres
from worker.ledger import Ledger, open_ledger
from worker.ledger.migrations import migrate


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    server = Postgres().start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated_schema(postgres_server: Postgres) -> str:
    url = postgres_server.url()
    migrate(url)
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def empty_database_url(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if database == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return str(request.getfixturevalue("postgres_server").url())


@pytest.fixture
def own_ledger_url(empty_database_url: str) -> str:
    migrate(empty_database_url)
    return empty_database_url


@pytest.fixture
def ledger_url(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    # Copied or emptied, because a migration takes longer than most tests.
    if database == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_file"), tmp_path / "ledger.db")
        return f"sqlite:///{tmp_path}/ledger.db"
    url = str(request.getfixturevalue("migrated_schema"))
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "TRUNCATE b2copy_operations, b2copy_flags, b2copy_audit, b2copy_requests, b2copy_identities,"
                " b2copy_batches, b2copy_approvals, b2copy_reconciliation, b2copy_reconciliation_accounts,"
                " b2copy_reconciliation_differences CASCADE"
            )
        )
        connection.execute(text("UPDATE b2copy_ledger SET dispatched_at = 0, notices_until = 0, b2copy_host = NULL"))
    engine.dispose()
    return url


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    ledger = open_ledger(ledger_url)
    yield ledger
    ledger.close()


@pytest.fixture
def clock(ledger: Ledger) -> LedgerClock:
    return LedgerClock(ledger)


@pytest.fixture
def open_again(ledger_url: str) -> Iterator[Callable[[], Ledger]]:
    opened: list[Ledger] = []

    def open_it() -> Ledger:
        opened.append(open_ledger(ledger_url))
        return opened[-1]

    yield open_it
    for other in opened:
        other.close()
