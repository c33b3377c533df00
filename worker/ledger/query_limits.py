"""Limits for the console's queries: statements end after some seconds, and with `read_only` every write is refused."""

import time
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

QUERY_S = 2.0  # seconds that a statement of a reading transaction may take
WRITE_S = 30.0  # seconds for a statement that writes; the end of a long pause updates all operations of a lane
_STEPS = 20_000  # instructions of SQLite's virtual machine between two checks of the time; some ms


def limit_queries(engine: Engine, read_only: bool = False) -> None:
    """End statements that take too long: `OperationalError`. With `read_only` the database refuses every write."""
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _SqliteDeadline(read_only).watch)
        event.listen(engine, "begin", _start_sqlite_deadline)
    else:
        event.listen(engine, "begin", _limit_read_only if read_only else _limit_postgresql)
        engine.update_execution_options(b2copy_limited=True)
    engine.dispose()  # a connection that was opened before has no limits


def is_timeout(error: OperationalError) -> bool:
    """Return whether a statement was ended because it took too long."""
    return getattr(error.orig, "sqlstate", None) == "57014" or "interrupted" in str(error.orig)


class _SqliteDeadline:
    def __init__(self, read_only: bool) -> None:
        self._read_only = read_only

    def watch(self, connection: Any, record: Any) -> None:
        """Let a new connection check its deadline while a statement runs."""

        def is_late() -> bool:
            return bool(time.monotonic() > record.info.get("deadline", float("inf")))

        connection.set_progress_handler(is_late, _STEPS)
        if self._read_only:
            connection.execute("PRAGMA query_only=ON")


def _start_sqlite_deadline(connection: Connection) -> None:
    connection.info["deadline"] = time.monotonic() + _seconds(connection)


def _limit_postgresql(connection: Connection) -> None:
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {round(_seconds(connection) * 1000)}")


def _limit_read_only(connection: Connection) -> None:
    connection.exec_driver_sql(f"SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = {round(QUERY_S * 1000)}")


def _seconds(connection: Connection) -> float:
    return QUERY_S if connection.get_execution_options().get("b2copy_reading") else WRITE_S
