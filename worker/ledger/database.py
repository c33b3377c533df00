"""The ledger's database: connections, transactions, and whether this code may run on its schema."""

import os
import re
import sqlite3
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Engine, ExceptionContext, column, create_engine, event, inspect, select, table
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, InterfaceError, InternalError, OperationalError, TimeoutError
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_random

from worker.errors import SettingsError
from worker.ledger import schema

if TYPE_CHECKING:
    import psycopg

BUSY_TIMEOUT_S = 10.0  # seconds that a writer waits for SQLite's one write lock, longer than any of our transactions

DATABASE_UNAVAILABLE_ERRORS = (OperationalError, InterfaceError, InternalError, TimeoutError)
"""What SQLAlchemy raises while the database cannot be used: gone, full, locked, a standby, out of connections."""

_POSTGRESQL_OPTIONS = {
    # With these a dead server is noticed within seconds instead of TCP's two hours.
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # No named prepared statements: behind a transaction pooler the next transaction may run on another server session.
    "prepare_threshold": None,
}

TRANSACTION_RETRIES = 3  # after a deadlock, a serialization failure or a unique violation
_RETRIED_SQLSTATES = {"23505", "40001", "40P01"}  # unique_violation, serialization_failure, deadlock_detected

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Ledger:
    """An open ledger. `id` identifies it among all ledgers; every wake-up carries it."""

    engine: Engine
    id: str

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction that may write: committed at the end, rolled back by an exception."""
        with self.engine.begin() as connection:
            yield connection

    def write(self, work: Callable[[Connection], Result]) -> Result:
        """Do `work` in one transaction; retry 3 times after a deadlock, serialization failure or unique violation.

        These happen on PostgreSQL only: two claims of one entity (its unique index stops the second), or two
        transactions that lock the same rows in different orders. The retry sees what the other transaction wrote.
        """
        for _ in range(TRANSACTION_RETRIES):
            try:
                with self.writing() as connection:
                    return work(connection)
            except (IntegrityError, OperationalError) as error:
                if getattr(error.orig, "sqlstate", None) not in _RETRIED_SQLSTATES:
                    raise
        with self.writing() as connection:
            return work(connection)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One transaction that only reads. On SQLite it does not wait for a writer, and no writer waits for it."""
        with _reading(self.engine) as connection:
            yield connection

    def close(self) -> None:
        self.engine.dispose()


def open_ledger(url: str, create: bool = False) -> Ledger:
    """Open the ledger at an SQLAlchemy URL. `create`: make its tables if the database holds none of ours.

    Only `migrate` and the start of a worker create a ledger. Anybody else who finds none has most likely mistyped the
    URL, and would record operations that no worker ever sees.

    Raises `SettingsError` if there is no ledger, or if its schema is older or newer than this code, and SQLAlchemy's
    `OperationalError` if the database cannot be reached.
    """
    engine = connect(url)
    try:
        if create:
            create_private_file(engine)
        version = schema_version(engine) if _exists(engine) else None
        if version is None:
            if not create:
                where = engine.url.render_as_string(hide_password=True)
                raise SettingsError(
                    f"B2COPY_DATABASE_URL: there is no ledger at {where}: correct the URL, or run `b2copy-sync migrate`"
                )
            from worker.ledger.migrations import migrate  # Alembic takes long to import and is needed once

            migrate(url)
        elif not _can_run_on(version, engine):
            raise SettingsError(_schema_problem(version))
        # This only reads, because a CRM may enqueue for the first time while it holds SQLite's one write lock.
        with _reading(engine) as connection:
            return Ledger(engine, connection.execute(select(schema.ledger.c.id)).scalar_one())
    except BaseException:
        engine.dispose()
        raise


def _exists(engine: Engine) -> bool:
    """Return False if the database is an SQLite file that is not there: connecting would create an empty one."""
    is_file = engine.dialect.name == "sqlite" and engine.url.database not in (None, "", ":memory:")
    return not is_file or os.path.exists(str(engine.url.database))


def create_private_file(engine: Engine) -> None:
    """Create the file of an SQLite ledger, if it is absent, with mode 0600 under any umask.

    SQLite gives the files beside it (-wal, -shm) the same mode.
    """
    if _exists(engine):
        return
    with suppress(OSError):  # another process was faster; or nobody can, which SQLite says when it opens the file
        file = os.open(str(engine.url.database), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            os.fchmod(file, 0o600)
        finally:
            os.close(file)


def _reading(engine: Engine) -> Connection:
    return engine.connect().execution_options(b2copy_reading=True)


def connect(url: str) -> Engine:
    """Return an engine whose transactions are what the ledger needs. Nothing is connected yet."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        # hide_parameters: payloads belong in no log
        engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S}, hide_parameters=True)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        engine = create_engine(parsed, connect_args=_POSTGRESQL_OPTIONS, hide_parameters=True)
        event.listen(engine, "connect", _prepare_postgresql)
        event.listen(engine, "begin", _begin_postgresql)
        event.listen(engine, "handle_error", _remove_row_values)
    _forget_when_forked(engine)
    return engine


def _forget_when_forked(engine: Engine) -> None:
    """Drop the inherited connections in a forked child. A CRM may enqueue first and fork its server processes then."""
    known = weakref.ref(engine)

    def forget() -> None:
        if inherited := known():
            inherited.dispose(close=False)

    os.register_at_fork(after_in_child=forget)


def schema_version(engine: Engine) -> str | None:
    """Return the database's schema revision, or None if it holds no table of ours."""
    with _reading(engine) as connection:
        ours = [name for name in inspect(connection).get_table_names() if name.startswith("b2copy_")]
        if not ours:
            return None
        if schema.VERSION_TABLE not in ours:
            return "unknown"
        version = connection.execute(select(column("version_num")).select_from(table(schema.VERSION_TABLE))).scalar()
        return str(version) if version is not None else "unknown"


def _can_run_on(version: str, engine: Engine) -> bool:
    """Return whether this code may run on a schema: its own, or a newer one that older code can still read."""
    if version == schema.HEAD:
        return True
    if not version.isdigit() or version < schema.HEAD:
        return False
    with _reading(engine) as connection:
        oldest = connection.execute(select(column("oldest_reader")).select_from(table(schema.VERSION_TABLE))).scalar()
    return oldest is not None and str(oldest) <= schema.HEAD


def _schema_problem(version: str) -> str:
    if version.isdigit() and version > schema.HEAD:
        remedy = "install the b2copy-sync that made it, or a newer one"
    else:
        remedy = "run `b2copy-sync migrate`"
    return f"B2COPY_DATABASE_URL: the ledger's schema is {version}, this version needs {schema.HEAD}: {remedy}"


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver would begin each transaction as a reader. A reader that then writes fails at once if another process
    # has written meanwhile, so we begin transactions ourselves.
    connection.isolation_level = None
    _use_wal(connection)
    connection.execute("PRAGMA synchronous=FULL")  # an accepted operation survives a power cut
    connection.execute("PRAGMA foreign_keys=ON")


# WAL is stored in the file: only the first call changes it. SQLite does not wait for other processes then, it fails.
@retry(
    retry=retry_if_exception_type(sqlite3.OperationalError),
    wait=wait_random(0.01, 0.05),
    stop=stop_after_delay(BUSY_TIMEOUT_S),
    reraise=True,
)
def _use_wal(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode=WAL")


def _prepare_postgresql(connection: "psycopg.Connection", _record: Any) -> None:
    connection.autocommit = True  # so that psycopg sends no BEGIN of its own


def _begin_postgresql(connection: Connection) -> None:
    # One round trip, as for a plain BEGIN. Nothing is set for the session, because a transaction pooler gives the
    # session to other clients. READ COMMITTED is what our locks are made for, whatever the database's default.
    # The timeout: a process that is suspended inside a transaction must not hold its locks for ever.
    connection.exec_driver_sql(
        "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '30s'"
    )


def _remove_row_values(context: ExceptionContext) -> None:
    """Remove PostgreSQL's DETAIL and CONTEXT from errors: they quote the row, and payloads belong in no log."""
    for error in (context.original_exception, context.sqlalchemy_exception):
        if error is not None and error.args and isinstance(error.args[0], str):
            error.args = (re.split(r"\n(?:DETAIL|CONTEXT):", error.args[0], maxsplit=1)[0], *error.args[1:])


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get("b2copy_reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
