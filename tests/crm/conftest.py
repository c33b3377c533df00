"""The ledger's fixtures (both databases), and the settings of a CRM host that uses such a ledger."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text

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
from worker.ledger import Ledger

Insert = Callable[..., int]
"""Inserts a row into `b2copy_requests` as a CRM does, in a transaction of its own; returns the row's id."""


@pytest.fixture(autouse=True)
def crm_host(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:  # noqa: F811
    """This process is a CRM host: its settings name the ledger, and a Redis that no test here uses."""
    monkeypatch.setenv("B2COPY_DATABASE_URL", ledger_url)
    monkeypatch.setenv("B2COPY_REDIS_URL", "redis://127.0.0.1:1/0")
    forget()
    yield
    forget()


@pytest.fixture
def insert(ledger: Ledger) -> Insert:  # noqa: F811
    def insert_row(**columns: Any) -> int:
        names = ", ".join(columns)
        values = ", ".join(f":{name}" for name in columns)
        statement = text(f"INSERT INTO b2copy_requests ({names}) VALUES ({values}) RETURNING id")
        with ledger.writing() as connection:
            return int(connection.execute(statement, columns).scalar_one())

    return insert_row
