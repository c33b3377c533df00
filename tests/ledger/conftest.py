"""Each test that asks for a ledger runs on both databases, each time on a fresh one."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "ledger.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return request.getfixturevalue("one_postgres").url()


@pytest.fixture
def url(empty_url: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if empty_url.startswith("sqlite"):
        shutil.copy(request.getfixturevalue("migrated"), tmp_path / "ledger.db")
    else:
        migrate(empty_url)
    return empty_url


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
