"""The ledger's fixtures (both databases) and this process's settings, which name that ledger and the sandbox."""

from collections.abc import Iterator

import pytest

from tests.conftest import forget
from tests.ledger.conftest import (  # noqa: F401
    clock,
    database,
    empty_database_url,
    ledger,
    ledger_url,
    migrated_schema,
    open_again,
    postgres_server,
)
from worker import instances
from worker.testbed.local_system import Environment


@pytest.fixture
def fleet(environment: Environment, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:  # noqa: F811
    environment.settings["B2COPY_DATABASE_URL"] = ledger_url
    for name, value in environment.settings.items():
        monkeypatch.setenv(name, value)
    forget()
    yield environment
    if made := instances.ledger.existing:
        made.close()
    forget()
