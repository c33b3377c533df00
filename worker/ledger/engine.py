"""Engines whose transactions are what the ledger needs, on SQLite and PostgreSQL."""

import os
import re
import sqlite3
import ssl
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, InternalError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_random

from worker.certificates import checked_certificates
from worker.database_url import SYSTEM
from worker.errors import SettingsError, without_frames

if TYPE_CHECKING:
    import psycopg

BUSY_TIMEOUT_S = 10.0  # seconds that a writer waits for SQLite's one write lock, longer than any of our transactions

_UNLESS_GIVEN: dict[str, Any] = {
    # With these a dead server is noticed within seconds instead of TCP's two hours.
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # milliseconds; for a statement that was sent and is not acknowledged
}
_ALWAYS: dict[str, Any] = {
    # No named prepared statements: behind a transaction pooler the next transaction may run on another server session.
    "prepare_threshold": None,
    # PGCLIENTENCODING may name one that lacks characters of B2COPY's answers, so that a success could not be written.
    "client_encoding": "utf8",
}

_TLS_VERSIONS = {"", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}
_VALUES = {
    "sslmode": {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"},
    "target_session_attrs": {"any", "read-write", "read-only", "primary", "standby", "prefer-standby"},
    "channel_binding": {"disable", "prefer", "require"},
    "gssencmode": {"disable", "prefer", "require"},
    "load_balance_hosts": {"disable", "random"},
    "sslcertmode": {"disable", "allow", "require"},
    "sslnegotiation": {"postgres", "direct"},
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
}

INSUFFICIENT_PRIVILEGE = "42501"  # https://www.postgresql.org/docs/current/errcodes-appendix.html
_REFUSALS = {INSUFFICIENT_PRIVILEGE, "42P01", "3F000"}  # undefined_table, invalid_schema_name

_SECRET = re.compile(r".*(?:password|secret)|scram_(?:client|server)_key")
_REMEDIES = {
    "password": "write it behind the user's name, or into the file that B2COPY_DATABASE_PASSWORD_FILE names",
    "sslpassword": "use a key file (sslkey) that is not encrypted",
}

_failed_at: weakref.WeakKeyDictionary[Engine, float] = weakref.WeakKeyDictionary()  # seconds of `time.monotonic`


def connect(url: str, **pool: int) -> Engine:
    """Return an engine whose transactions are what the ledger needs. Nothing is connected yet.

    `pool`: SQLAlchemy's `pool_size` and `max_overflow`.

    Raises `SettingsError` if the URL of a PostgreSQL server holds an option that it must not hold. No frame of that
    error holds the URL's password; a caller must clear its own variable.
    """
    try:
        parsed = _parse(url)
    except Exception as error:
        raise without_frames(error) from None
    finally:
        url = ""  # it may hold a password, and error trackers store the variables of frames
    if parsed.get_backend_name() == "sqlite":
        # hide_parameters: payloads belong in no log
        engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S}, hide_parameters=True, **pool)
        event.listen(engine, "do_connect", _open_existing_file)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "checkout", _check_file)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        engine = create_engine(parsed, creator=_Connector(parsed), hide_parameters=True, **pool)
        event.listen(engine, "connect", _prepare_postgresql)
        event.listen(engine, "begin", _begin_postgresql)
        event.listen(engine, "handle_error", remove_row_values)
    event.listen(engine, "handle_error", _handle_error, retval=True)
    _forget_when_forked(engine)
    return engine


class _Connector:
    """Connects to PostgreSQL. The frames of its errors do not hold the password, which error trackers would store."""

    def __init__(self, url: URL) -> None:
        import psycopg

        self._connect: Callable[..., psycopg.Connection] = psycopg.connect
        self._error = psycopg.Error
        self._words, self._options = url.get_dialect()().create_connect_args(url)
        if self._options.get("sslrootcert") == SYSTEM:
            self._options["sslrootcert"] = _system_certificates()

    def __call__(self) -> "psycopg.Connection":
        try:
            return self._connect(*self._words, **{**_UNLESS_GIVEN, **self._options, **_ALWAYS})
        except self._error as error:
            raise without_frames(error) from None


def _system_certificates() -> str:
    """Return the file with the authorities that this machine trusts, or certifi's if it has none.

    The OpenSSL in psycopg's wheel would look for them in a folder that is on no machine.
    """
    import certifi

    return ssl.get_default_verify_paths().cafile or certifi.where()


def _parse(url: str) -> URL:
    """Parse a URL, and refuse options that it must not hold.

    A worker would take options of other drivers and mistyped values for an outage. A secret among the options would
    be shown wherever the URL is shown without its password.

    Documentation: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        _check_options(parsed)
    return parsed


def _check_options(url: URL) -> None:
    from psycopg.pq import Conninfo

    known = {option.keyword.decode() for option in Conninfo.get_defaults()} - {"replication"}
    for name, value in url.query.items():
        if _SECRET.fullmatch(name):
            remedy = _REMEDIES.get(name, "it is a secret, remove it")
            raise SettingsError(f"B2COPY_DATABASE_URL must not hold the option {name!r}: {remedy}")
        if name not in known:
            raise SettingsError(
                f"B2COPY_DATABASE_URL must not hold the option {name!r}: libpq does not know it, remove it"
            )
        if (values := _VALUES.get(name)) and value not in values:
            raise SettingsError(f"B2COPY_DATABASE_URL: {name} must be {', '.join(sorted(values - {''}))}")
        if name == "sslrootcert" and value != SYSTEM:
            _check_certificates(Path(str(value)))


def _check_certificates(path: Path) -> None:
    try:
        checked_certificates(path)
    except ValueError as error:
        raise SettingsError(f"B2COPY_DATABASE_CA_FILE, or sslrootcert in B2COPY_DATABASE_URL, {error}") from None


def _forget_when_forked(engine: Engine) -> None:
    """Drop the inherited connections in a forked child. A CRM may enqueue first and fork its server processes then."""
    known = weakref.ref(engine)

    def forget() -> None:
        if inherited := known():
            inherited.dispose(close=False)

    os.register_at_fork(after_in_child=forget)


def reading(engine: Engine) -> Connection:
    """Return a new connection whose transactions only read: on SQLite they take no write lock."""
    return engine.connect().execution_options(b2copy_reading=True)


def one_statement(engine: Engine) -> Connection:
    """Return a new connection for a single statement that writes, and others that read.

    PostgreSQL commits that statement with its answer, so it takes one round trip instead of three. Where queries have
    limits (`limit_queries`) it is a transaction as any other, because the limits are set for transactions.
    """
    is_limited = engine.get_execution_options().get("b2copy_limited", False)
    return engine.connect().execution_options(b2copy_one_statement=not is_limited)


def limit_lock_waits(connection: Connection, ms: int) -> None:
    """Let this transaction wait at most `ms` for a lock. Then a statement fails with an error that `is_lock_timeout`.

    On PostgreSQL only: SQLite has one writer, and `BUSY_TIMEOUT_S` is its limit.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{ms}ms'")


def is_lock_timeout(error: Exception) -> bool:
    """Return whether another transaction held a lock for longer than `limit_lock_waits` allows."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == "55P03"


def exists(engine: Engine) -> bool:
    """Return False if the database is an SQLite file that is not there: connecting would create an empty one."""
    is_file = engine.dialect.name == "sqlite" and engine.url.database not in (None, "", ":memory:")
    return not is_file or os.path.exists(str(engine.url.database))


def create_private_file(engine: Engine) -> None:
    """Create the file of an SQLite ledger, if it is absent, with mode 0600 under any umask.

    SQLite gives the files beside it (-wal, -shm) the same mode. Raises `OperationalError` if nobody can create it.
    """
    if exists(engine):
        return
    path = str(engine.url.database)
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:  # another process was faster
        return
    except OSError as error:
        folder = os.path.dirname(path) or "."
        is_absent = isinstance(error, FileNotFoundError)
        problem = "is not there" if is_absent else f"cannot be written: {error.strerror}"
        cause = sqlite3.OperationalError(f"its file cannot be made: the folder {folder} {problem}")
        raise OperationalError(None, None, cause) from None
    try:
        os.fchmod(file, 0o600)
    finally:
        os.close(file)


def seconds_since_outage(engine: Engine) -> float:
    """Return for how long no statement of this process has failed because the database was unavailable."""
    return time.monotonic() - _failed_at.get(engine, float("-inf"))


def note_outage(engine: Engine) -> None:
    """Note that the database has just been unavailable to this process."""
    _failed_at[engine] = time.monotonic()


@contextmanager
def noting_refusals(engine: Engine) -> Iterator[None]:
    """Note an outage if the database refuses a statement of this block, for a right or a table.

    For what a process does with leases: while it is refused, others cannot renew theirs either. Other refusals are no
    outage. One that comes again and again would keep this process from taking over any lapsed lease.
    """
    try:
        yield
    except OperationalError as error:
        if _is_refusal(error.orig):
            note_outage(engine)
        raise


def _handle_error(context: ExceptionContext) -> OperationalError | None:
    """Note an outage, unless a statement was refused (see `noting_refusals`) or another transaction was in the way.

    Return the error to raise instead for two kinds that drivers do not call operational.

    SQLite: a damaged page, or a file of another kind, which is the base class of all errors. PostgreSQL: a right, a
    search_path or a table that somebody has changed, which is the class of mistakes in a query.
    """
    error, instead = context.original_exception, None
    if type(error) is sqlite3.DatabaseError or _is_refusal(error):
        instead = OperationalError(context.statement, None, error, hide_parameters=True)
    raised = instead or context.sqlalchemy_exception
    is_unavailable = isinstance(raised, OperationalError | InterfaceError | InternalError)
    if context.engine is not None and is_unavailable and not (_is_conflict(error) or _is_refusal(error)):
        note_outage(context.engine)
    return instead


def _is_refusal(error: BaseException | None) -> bool:
    """Return whether PostgreSQL refused the statement: a right, or a table that it does not find."""
    return getattr(error, "sqlstate", None) in _REFUSALS


def _is_conflict(error: BaseException) -> bool:
    """Return whether another transaction was in the way: deadlock, serialization failure, or a lock held too long."""
    return str(getattr(error, "sqlstate", None)).startswith(("40", "55P03"))


def _file_of(path: str) -> tuple[int, int] | None:
    """Return what identifies the file that is at `path` now, None if there is none."""
    with suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


def _open_existing_file(dialect: Any, record: ConnectionPoolEntry, arguments: Any, options: Any) -> None:
    """Refuse to connect to a file that is not there: the driver would make an empty one."""
    path = str(arguments[0])
    if path == ":memory:":
        return
    if (file := _file_of(path)) is None:
        raise sqlite3.OperationalError("the ledger's file is not there")
    record.info["file"] = path, file


def _check_file(connection: Any, record: ConnectionPoolEntry, proxy: Any) -> None:
    """Use no connection whose file was removed or replaced, as by a restore: what it records would be lost."""
    path, file = record.info.get("file", (None, None))
    if path is not None and _file_of(path) != file:
        raise DisconnectionError("the ledger's file was removed or replaced")


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver would begin each transaction as a reader. A reader that then writes fails at once if another process
    # has written since, so we begin transactions ourselves.
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
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in (None, "UTF8"):
        raise SettingsError(
            f"B2COPY_DATABASE_URL: the database's encoding is {encoding}, which cannot store every text of an answer:"
            " make one with CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0"
        )
    connection.autocommit = True  # so that psycopg sends no BEGIN of its own


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get("b2copy_one_statement", False):
        return
    # One round trip, as for a plain BEGIN. Nothing is set for the session, because a transaction pooler gives the
    # session to other clients. READ COMMITTED is what our locks are made for, whatever the database's default.
    # The timeout: a process that is suspended inside a transaction must not hold its locks for ever.
    connection.exec_driver_sql(
        "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '30s'"
    )


def remove_row_values(context: ExceptionContext) -> None:
    """Remove PostgreSQL's DETAIL and CONTEXT from errors: they quote the row, and payloads belong in no log."""
    for error in (context.original_exception, context.sqlalchemy_exception):
        if error is not None and error.args and isinstance(error.args[0], str):
            error.args = (re.split(r"\n(?:DETAIL|CONTEXT):", error.args[0], maxsplit=1)[0], *error.args[1:])


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get("b2copy_reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
