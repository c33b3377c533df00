"""Ledgers for tests: a file of our own, or tables in the CRM's test database that we have made ourselves.

They are opened once and emptied before each test, because that is faster than to make and open another one.
"""

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import delete, event, update

from worker.ledger import Ledger, active_flags, open_ledger, raise_flag, schema
from worker.ledger.migrations import migrate
from worker.ledger.schema_version import version_of

MARK = "pytest"  # the flag of a ledger that this plugin has made, and may empty
_MADE_BY = "the pytest plugin of b2copy-sync"


class Ledgers:
    """The ledgers of one test process, by URL."""

    def __init__(self, folder: Path) -> None:
        self._own_url = f"sqlite:///{folder / 'ledger.sqlite'}"
        self._open: dict[str, Ledger] = {}

    def empty(self, url: str | None) -> tuple[str, Ledger]:
        """Return an empty ledger with its URL: in a file of our own, or at the URL of the CRM's test database.

        Raises `ValueError` if the database holds a ledger that this plugin has not made. So a mistyped URL never
        empties a real one.
        """
        url = url or self._own_url
        if url not in self._open:
            self._open[url] = _open(url)
        _delete_everything(self._open[url])
        return url, self._open[url]

    def close(self) -> None:
        for ledger in self._open.values():
            ledger.close()


def _open(url: str) -> Ledger:
    if is_new := version_of(url) is None:
        migrate(url)
    ledger = open_ledger(url)
    if is_new:
        raise_flag(ledger, MARK, _MADE_BY, "everything in this ledger is deleted before each test")
    if MARK not in active_flags(ledger):
        ledger.close()
        raise ValueError(
            "b2copy_database_url names a database with a ledger that this plugin has not made: it would be emptied"
            " before each test. Name a database for tests alone, without tables of b2copy-sync"
        )
    if ledger.engine.dialect.name == "sqlite":
        event.listen(ledger.engine, "connect", _do_not_sync)
        ledger.engine.dispose()  # so that it connects again
    return ledger


def _do_not_sync(connection: sqlite3.Connection, _record: Any) -> None:
    connection.execute("PRAGMA synchronous=OFF")  # no transaction waits for the disk: no test cuts the power


def _delete_everything(ledger: Ledger) -> None:
    with ledger.writing() as connection:
        for table in reversed(schema.metadata.sorted_tables):
            if table is schema.ledger:
                connection.execute(update(table).values(dispatched_at=0, notices_until=0, b2copy_host=None))
            elif table is schema.flags:
                connection.execute(delete(table).where(table.c.name != MARK))
            else:
                connection.execute(delete(table))
