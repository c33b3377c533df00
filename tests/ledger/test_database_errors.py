"""What the databases raise when they cannot be used, and that no error text holds a payload."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from tests.ledger.databases import is_waiting_for_a_lock, on_postgresql, on_sqlite
from tests.operations import claim_one, find_operation, new_operation, record_operations, succeed
from tests.postgres import Postgres
from tests.support import until
from worker.ledger import DATABASE_UNAVAILABLE_ERRORS, Ledger, open_ledger, record, search
from worker.ledger.engine import seconds_since_outage
from worker.operation import State


@pytest.fixture
def postgres_user(postgres_server: Postgres) -> Iterator[Callable[[str], None]]:
    """A function that changes a setting of the role which the ledgers use."""

    def change(setting: str) -> None:
        with postgres_server.connect() as session:
            session.execute(f"ALTER ROLE postgres {setting}")

    yield change
    with postgres_server.connect() as session:
        session.execute("SET default_transaction_read_only = off")
        session.execute("ALTER ROLE postgres RESET ALL")


@on_postgresql
def test_a_session_that_the_server_ended_is_an_unavailable_database(ledger: Ledger, postgres_server: Postgres) -> None:
    with pytest.raises(DATABASE_UNAVAILABLE_ERRORS):
        use_ended_session(ledger, postgres_server)

    record_operations(ledger, "W1")


def use_ended_session(ledger: Ledger, postgres_server: Postgres) -> None:
    with ledger.writing() as connection:
        connection.execute(text("SELECT 1"))
        with postgres_server.connect() as other:
            other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        connection.execute(text("SELECT 1"))


@on_postgresql
@pytest.mark.parametrize(
    "setting",
    ["SET statement_timeout = '50ms'", "SET lock_timeout = '50ms'"],
)
def test_a_statement_that_takes_too_long_is_an_unavailable_database(
    ledger_url: str, ledger: Ledger, postgres_user: Callable[[str], None], setting: str
) -> None:
    record_operations(ledger, "W1")
    claimed = claim_one(ledger)
    postgres_user(setting)
    impatient = open_ledger(ledger_url)

    with ledger.writing() as connection:
        connection.execute(text("SELECT 1 FROM b2copy_operations FOR UPDATE"))
        with pytest.raises(DATABASE_UNAVAILABLE_ERRORS):
            succeed(impatient, claimed)

    assert succeed(impatient, claimed) == []
    impatient.close()


@on_sqlite
@pytest.mark.parametrize("damage", ["a page", "all of it"])
def test_a_damaged_file_is_an_unavailable_database(ledger_url: str, ledger: Ledger, damage: str) -> None:
    record_operations(ledger, "W1")
    claimed = claim_one(ledger)
    record_operations(ledger, *(f"W{number}" for number in range(2, 50)))
    ledger.close()
    file = Path(ledger_url.removeprefix("sqlite:///"))
    whole = file.read_bytes()
    file.write_bytes(b"x" * len(whole) if damage == "all of it" else whole[:4096] + b"x" * (len(whole) - 4096))
    began = time.monotonic()

    with pytest.raises(DATABASE_UNAVAILABLE_ERRORS):
        succeed(ledger, claimed)
    with pytest.raises(DATABASE_UNAVAILABLE_ERRORS):
        record_operations(ledger, "W50")

    assert seconds_since_outage(ledger.engine) <= time.monotonic() - began
    ledger.close()
    file.write_bytes(whole)
    assert succeed(ledger, claimed) == []


@on_sqlite
def test_a_file_that_was_removed_or_replaced_records_nothing(ledger_url: str, ledger: Ledger, tmp_path: Path) -> None:
    record_operations(ledger, "W1")
    backup = sqlite3.connect(tmp_path / "backup.db")
    with sqlite3.connect(tmp_path / "ledger.db") as source:
        source.backup(backup)
    backup.close()
    source.close()
    for file in tmp_path.glob("ledger.db*"):
        file.unlink()

    with pytest.raises(DATABASE_UNAVAILABLE_ERRORS):
        record_operations(ledger, "W2")
    assert not (tmp_path / "ledger.db").exists()

    (tmp_path / "backup.db").rename(tmp_path / "ledger.db")
    record_operations(ledger, "W3")
    other = open_ledger(ledger_url)
    assert [one.key for one in search(other)] == ["fees.process:W3", "fees.process:W1"]
    other.close()


@on_postgresql
def test_a_read_only_server_is_an_unavailable_database(ledger_url: str, postgres_user: Callable[[str], None]) -> None:
    """As after a failover to a standby that is not promoted yet."""
    postgres_user("SET default_transaction_read_only = on")
    ledger = open_ledger(ledger_url)

    with pytest.raises(DATABASE_UNAVAILABLE_ERRORS):
        record_operations(ledger, "W1")
    ledger.close()


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.AdminShutdown,
        psycopg.errors.CannotConnectNow,
        psycopg.errors.ConnectionFailure,
        psycopg.errors.DeadlockDetected,
        psycopg.errors.DiskFull,
        psycopg.errors.IdleInTransactionSessionTimeout,
        psycopg.errors.IoError,
        psycopg.errors.LockNotAvailable,
        psycopg.errors.OutOfMemory,
        psycopg.errors.QueryCanceled,
        psycopg.errors.ReadOnlySqlTransaction,
        psycopg.errors.SerializationFailure,
        psycopg.errors.TooManyConnections,
    ],
)
def test_an_error_of_the_server_counts_as_unavailable(error: type[psycopg.Error]) -> None:
    raised = DBAPIError.instance("SELECT 1", None, error("no"), psycopg.Error)

    assert isinstance(raised, DATABASE_UNAVAILABLE_ERRORS)


@on_postgresql
def test_a_serialization_failure_is_retried(ledger: Ledger) -> None:
    record_operations(ledger, "W1")
    claimed = claim_one(ledger)
    begun: list[str] = []

    def be_strict_once(connection: Connection) -> None:
        """Read the row before the other transaction commits, in a transaction that must not see its change later."""
        begun.append("strictly" if not begun else "as ever")
        if begun == ["strictly"]:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            connection.exec_driver_sql("SELECT 1 FROM b2copy_operations")

    with ledger.engine.connect() as other, ThreadPoolExecutor(1) as threads:
        other.execute(text("UPDATE b2copy_operations SET kind = kind"))
        event.listen(ledger.engine, "begin", be_strict_once)
        settling = threads.submit(succeed, ledger, claimed)
        until(lambda: begun)  # removing the listener now would break the thread that is inside it
        until(lambda: is_waiting_for_a_lock(ledger))
        other.commit()
        assert settling.result(10) == []

    assert find_operation(ledger, "W1").state == State.SUCCEEDED


@pytest.mark.parametrize("broken", ["state = 'nonsense'", "due_at = NULL"])
def test_no_error_text_holds_a_payload(ledger: Ledger, broken: str) -> None:
    record(ledger, [new_operation("W1", payload={"account_login": "hunter2", "request_id": "W1"})], by="a test")

    with pytest.raises(IntegrityError) as refused, ledger.writing() as connection:
        connection.execute(text(f"UPDATE b2copy_operations SET {broken}"))

    assert "b2copy_" in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in str(refused.value.orig)


def test_no_error_text_holds_a_parameter(ledger: Ledger) -> None:
    payload = "hunter2"

    with pytest.raises(DBAPIError) as refused, ledger.writing() as connection:
        connection.execute(text("INSERT INTO b2copy_operations (payload) VALUES (:payload)"), {"payload": payload})

    assert payload not in str(refused.value)
    assert payload not in str(refused.value.orig)
