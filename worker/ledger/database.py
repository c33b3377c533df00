"""The ledger's database: connections and transactions."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection, Engine, Select, false, func, select, update
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
    TimeoutError,
)

from worker.errors import SettingsError
from worker.ledger import schema
from worker.ledger.engine import INSUFFICIENT_PRIVILEGE, connect, create_private_file, exists, one_statement, reading
from worker.ledger.four_eyes import Rule, rule_of
from worker.ledger.schema_version import UNKNOWN_VERSION, may_run, schema_problem, schema_version

DATABASE_UNAVAILABLE_ERRORS = (OperationalError, InterfaceError, InternalError, TimeoutError)
"""What SQLAlchemy raises while the database cannot be used: gone, full, locked, a standby, out of connections."""

TRANSACTION_RETRIES = 3  # most retries after a deadlock, a serialization failure or a unique violation
_RETRIED_SQLSTATES = {"23505", "40001", "40P01"}  # unique_violation, serialization_failure, deadlock_detected

Result = TypeVar("Result")


NeedsApproval = Callable[[str, str], bool]
"""Whether what a person decides about an operation needs a second person, from the operation's kind and lane."""


def no_approval(kind: str, lane: str) -> bool:
    """One person decides."""
    return False


def always_approval(kind: str, lane: str) -> bool:
    """A second person must agree."""
    return True


def is_retried(error: DBAPIError) -> bool:
    """Return whether `Ledger.write` does its work again after this error."""
    return getattr(error.orig, "sqlstate", None) in _RETRIED_SQLSTATES


@dataclass(frozen=True, slots=True)
class Ledger:
    """An open ledger. `id` identifies it among all ledgers; every wake-up carries it.

    `needs_approval` says which decisions of people need a second person, `four_eyes` is the rule that the database
    holds about it. With such a rule an opened ledger asks for a second person in any case, until its opener, who knows
    the kinds, gives `needs_approval` (`worker.report.four_eyes`).
    """

    engine: Engine
    id: str
    needs_approval: NeedsApproval = no_approval
    four_eyes: Rule = "off"

    def writing(self) -> AbstractContextManager[Connection]:
        """One transaction that may write: committed at the end, rolled back by an exception."""
        return self.engine.begin()

    @contextmanager
    def writing_one_statement(self) -> Iterator[Connection]:
        """Like `writing`, for a single statement that writes.

        On PostgreSQL it is committed when it returns: an exception after it undoes nothing.
        """
        with one_statement(self.engine) as connection, connection.begin():
            yield connection

    def write(self, work: Callable[[Connection], Result], one_statement: bool = False) -> Result:
        """Do `work` in one transaction; retry 3 times after a deadlock, serialization failure or unique violation.

        `one_statement`: only one statement of it writes (`writing_one_statement`).

        The errors that are retried happen on PostgreSQL only: two claims of one entity (its unique index stops the
        second), or two transactions that lock the same rows in different orders. The retry sees what the other
        transaction wrote.
        """
        transaction = self.writing_one_statement if one_statement else self.writing
        for _ in range(TRANSACTION_RETRIES):
            try:
                with transaction() as connection:
                    return work(connection)
            except (IntegrityError, OperationalError) as error:
                if not is_retried(error):
                    raise
        with transaction() as connection:
            return work(connection)

    def reading(self) -> AbstractContextManager[Connection]:
        """One transaction that only reads. On SQLite it does not wait for a writer, and no writer waits for it."""
        return reading(self.engine)

    def close(self) -> None:
        self.engine.dispose()


def leads_to(connection: Connection, ledger: Ledger) -> bool:
    """Return whether a CRM's own connection is one to this ledger: no worker would find what another one holds."""
    try:
        if connection.dialect.name == "sqlite":
            # It changes nothing and waits for the write lock. A transaction that has only read could not wait for it.
            connection.execute(update(schema.ledger).where(false()).values(id=schema.ledger.c.id))
        if connection.dialect.name == "postgresql" and not connection.scalar(_has_table(connection)):
            return False  # without the error of a SELECT, after which the CRM could only roll back
        found = connection.execute(_LEDGER_ID).scalar()
    except ProgrammingError as error:
        if INSUFFICIENT_PRIVILEGE in (getattr(error.orig, "sqlstate", None), getattr(error.orig, "pgcode", None)):
            raise
        return False  # another database system: there is no such table
    except OperationalError as error:
        if "no such table" in str(error.orig):  # SQLite
            return False
        raise
    if found == ledger.id:
        return True
    with ledger.reading() as own:  # the tables may have been made again since this process opened the ledger
        return bool(own.execute(_LEDGER_ID).scalar() == found)


def _has_table(connection: Connection) -> Select[bool]:
    """Return a query whether PostgreSQL finds our table, where the schema map of the connection puts it."""
    in_schema = (connection.get_execution_options().get("schema_translate_map") or {}).get(None)
    names = [name for name in (in_schema, schema.ledger.name) if name]
    quoted = ".".join(map(connection.dialect.identifier_preparer.quote, names))
    return select(func.to_regclass(quoted).is_not(None))


_LEDGER_ID = select(schema.ledger.c.id)


def open_ledger(url: str, create: bool = False, **pool: int) -> Ledger:
    """Open the ledger at an SQLAlchemy URL. `create`: make its tables if the database holds none of ours.

    `pool`: SQLAlchemy's `pool_size` and `max_overflow`.

    Only `migrate` and the demo create a ledger. If any other process finds none, the URL is most likely mistyped: a CRM
    would record operations that no worker ever sees, and a worker would wait for operations that no CRM ever records.

    Raises `SettingsError` if there is no ledger, or if its schema is older or newer than this code, and SQLAlchemy's
    `OperationalError` if the database cannot be reached.
    """
    try:
        engine = connect(url, **pool)
    finally:
        url = ""  # it may hold a password, and error trackers store the variables of frames
    try:
        if create:
            create_private_file(engine)
        version = schema_version(engine) if exists(engine) else None
        if version is None:
            if not create:
                raise SettingsError(
                    f"B2COPY_DATABASE_URL: there is no ledger at {engine.url}: correct the URL, or run"
                    " `b2copy-sync migrate`"
                )
            from worker.ledger.migrations import migrate  # Alembic takes long to import and is needed once

            migrate(engine.url.render_as_string(hide_password=False))
        # This only reads, because a CRM may enqueue for the first time while it holds SQLite's one write lock.
        with reading(engine) as connection:
            if version == UNKNOWN_VERSION or not may_run(connection):
                raise SettingsError(schema_problem(version or schema.HEAD))
            rule = rule_of(connection)
            needs_approval = no_approval if rule == "off" else always_approval
            id_ = connection.execute(_LEDGER_ID).scalar_one()
        return Ledger(engine, id_, needs_approval, rule)
    except BaseException:
        engine.dispose()
        raise
