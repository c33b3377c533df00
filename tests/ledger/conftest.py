"""Each test that asks for a ledger runs on both databases, and finds it empty."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.ledger.actors import Clock
from tests.postgres import Postgres
from worker.ledger import Ledger, open_ledger
from worker.ledger.migrations import migrate


@pytest.fixture(scope="session")
def one_postgres() -> Iterator[Postgres]:
    server = Postgres().start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "ledger.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_schema(one_postgres: Postgres) -> str:
    url = one_postgres.url()
    migrate(url)
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def empty_url(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables, for this test alone."""
    if database == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return str(request.getfixturevalue("one_postgres").url())


@pytest.fixture
def own_url(empty_url: str) -> str:
    """A ledger whose schema this test may change."""
    migrate(empty_url)
    return empty_url


@pytest.fixture
def url(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A ledger without operations: copied or emptied, since migrating takes longer than most tests."""
    if database == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_file"), tmp_path / "ledger.db")
        return f"sqlite:///{tmp_path}/ledger.db"
    url = str(request.getfixturevalue("migrated_schema"))
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE b2copy_operations, b2copy_flags, b2copy_decisions CASCADE"))
        connection.execute(text("UPDATE b2copy_ledger SET dispatched_at = 0"))
    engine.dispose()
    return url


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    ledger = open_ledger(url)
    yield ledger
    ledger.close()


@pytest.fixture
def clock(ledger: Ledger) -> Clock:
    return Clock(ledger)


@pytest.fixture
def reopen(url: str) -> Iterator[Callable[[], Ledger]]:
    """Opens the same ledger as another process would."""
    opened: list[Ledger] = []

    def again() -> Ledger:
        opened.append(open_ledger(url))
        return opened[-1]

    yield again
    for other in opened:
        other.close()
