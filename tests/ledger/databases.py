"""Which database a test runs on, and what it can see of others that use it."""

import pytest
from sqlalchemy import text

from worker.ledger import Ledger

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For what only SQLite has: its file, its locks, its steps."""

on_postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
"""For what needs two writers at once."""


def is_waiting_for_a_lock(ledger: Ledger) -> bool:
    """Return whether some transaction of this PostgreSQL server waits for a lock of another."""
    with ledger.reading() as connection:
        return bool(connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar())
