"""The CRM's own transaction: it must lead to the ledger, and a refused request leaves nothing in it."""

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

import django
import pytest
from django.conf import settings as django_settings
from django.db import connections as django_connections
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import Session

from tasks import enqueue
from tests.ledger.databases import is_waiting_for_a_lock, on_postgresql
from tests.operations import new_operation, record_operation
from tests.support import until
from worker.errors import BadPayload, NotAllowed, PayloadConflict
from worker.ledger import Ledger, find, record, search
from worker.ledger.migrations import migrate
from worker.ledger.restore import distrust_restored
from worker.operation import State

if not django_settings.configured:
    django_settings.configure(DATABASES={})
    django.setup()

ROWS = [{"account_login": login, "request_id": name} for login, name in (("7", "W1"), ("8", "K"), ("7", "W2"))]


@pytest.fixture
def crm(ledger_url: str) -> Iterator[Engine]:
    engine = create_engine(ledger_url)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("holds", ["another ledger", "no ledger"])
def test_a_connection_that_does_not_lead_to_the_ledger_is_refused(
    ledger: Ledger, database: str, request: pytest.FixtureRequest, tmp_path: Path, holds: str
) -> None:
    url = f"sqlite:///{tmp_path}/tenant.db"
    if database == "postgresql":
        url = request.getfixturevalue("postgres_server").url()
    if holds == "another ledger":
        migrate(url)
    tenant = create_engine(url)
    with Session(tenant) as session:
        session.execute(text("CREATE TABLE withdrawals (id VARCHAR(20))"))
        with pytest.raises(BadPayload, match="does not hold the ledger"):
            enqueue.fees(account_login="7", request_id="W1", connection=session)
        session.execute(text("INSERT INTO withdrawals VALUES ('W1')"))  # the CRM may catch the error and go on
        session.commit()
    tenant.dispose()


def test_the_ledger_is_found_where_the_schema_map_of_the_crms_connection_puts_it(
    ledger: Ledger, database: str, crm: Engine
) -> None:
    with crm.begin() as connection:
        schema = "main"
        if database == "postgresql":
            schema = connection.execute(text("SELECT current_schema()")).scalar_one()
            connection.execute(text("SET LOCAL search_path TO pg_catalog"))
        mapped = connection.execution_options(schema_translate_map={None: schema})
        enqueue.fees(account_login="7", request_id="W1", connection=mapped)

    assert [one.key for one in search(ledger)] == ["fees.process:W1"]


def test_a_request_waits_for_a_writer_although_the_crms_begin_is_deferred(ledger: Ledger, crm: Engine) -> None:
    """A CRM that lets SQLAlchemy begin its SQLite transactions: one that has read cannot wait for the write lock."""
    if crm.dialect.name == "sqlite":
        event.listen(crm, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        event.listen(crm, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with ThreadPoolExecutor() as threads:
        with ledger.writing() as writer:
            writer.execute(text("UPDATE b2copy_ledger SET dispatched_at = dispatched_at"))

            def request() -> None:
                with crm.begin() as transaction:
                    enqueue.fees(account_login="7", request_id="W1", connection=transaction)

            requested = threads.submit(request)
            wait([requested], timeout=0.5)  # it is not done, unless it has failed
        requested.result()

    assert [one.key for one in search(ledger)] == ["fees.process:W1"]


def test_an_asynchronous_transaction_is_told_how_to_pass_it(ledger: Ledger) -> None:
    # As in SQLAlchemy, whose own class needs greenlet, which nothing here uses.
    session: Any = type("AsyncSession", (), {"__module__": "sqlalchemy.ext.asyncio.session"})()
    with pytest.raises(BadPayload, match=r"await session.run_sync\("):
        enqueue.fees(account_login="7", request_id="W1", connection=session)


def test_what_is_no_connection_of_sqlalchemy_is_told_what_to_pass(ledger: Ledger, crm: Engine) -> None:
    wrong: list[Any] = [crm, Session, django_connections["default"], "default", 5]
    with closing(sqlite3.connect(":memory:")) as connection:
        for one in (*wrong, connection, connection.cursor()):
            with pytest.raises(BadPayload, match=r"^connection: \S+ is neither a Connection nor a Session"):
                enqueue.fees(account_login="7", request_id="W1", connection=one)

    assert search(ledger) == []


@pytest.mark.parametrize("timeout_s", [float("nan"), None, "5", True], ids=repr)
def test_a_time_to_wait_is_a_number(ledger: Ledger, timeout_s: Any) -> None:
    with pytest.raises(BadPayload, match=r"^timeout_s: .* must be a number of seconds"):
        enqueue.wait("fees.process:W1", timeout_s)


@pytest.mark.parametrize("timeout_s", [0, -1.5, float("-inf")])
def test_without_time_to_wait_it_is_looked_once(ledger: Ledger, timeout_s: float) -> None:
    record_operation(ledger)
    found = enqueue.wait("fees.process:W1", timeout_s)

    assert found is not None
    assert found.state == State.QUEUED


def test_rows_of_any_mapping_are_taken(ledger: Ledger) -> None:
    recorded = enqueue.many("fees.process", [MappingProxyType(row) for row in ROWS])

    assert len([*recorded]) == 3


@pytest.mark.parametrize("autocommit", [False, True])
def test_of_a_batch_with_a_conflict_nothing_is_left_in_the_crms_transaction(
    ledger: Ledger, crm: Engine, autocommit: bool
) -> None:
    record_operation(ledger, "K")
    connected = crm.execution_options(isolation_level="AUTOCOMMIT") if autocommit else crm
    with connected.begin() as transaction:
        with pytest.raises(PayloadConflict):
            enqueue.many("fees.process", ROWS, connection=transaction)
        enqueue.fees(account_login="7", request_id="W3", connection=transaction)

    assert {one.key for one in search(ledger)} == {"fees.process:K", "fees.process:W3"}


@on_postgresql
def test_of_a_batch_with_a_conflict_that_another_transaction_commits_meanwhile_nothing_is_left(
    ledger: Ledger, crm: Engine
) -> None:
    """The INSERT waits for the other transaction, and then finds another payload. (On SQLite the CRM waits earlier.)"""

    def request() -> None:
        with crm.begin() as transaction:
            with pytest.raises(PayloadConflict):
                enqueue.many("fees.process", ROWS, connection=transaction)
            enqueue.fees(account_login="7", request_id="W3", connection=transaction)

    with ledger.writing() as other, ThreadPoolExecutor(1) as threads:
        record(ledger, [new_operation("K")], by="a test", connection=other)
        requested = threads.submit(request)
        until(lambda: is_waiting_for_a_lock(ledger))
        other.commit()
        requested.result(10)

    assert {one.key for one in search(ledger)} == {"fees.process:K", "fees.process:W3"}


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]])
def test_a_batch_commits_and_is_rolled_back_with_the_crms_transaction(
    ledger: Ledger, crm: Engine, autocommit: bool, rows: list[dict[str, str]]
) -> None:
    connected = crm.execution_options(isolation_level="AUTOCOMMIT") if autocommit else crm
    with connected.connect() as connection:
        enqueue.many("fees.process", rows, connection=connection)
        connection.rollback()
    assert len(search(ledger)) == (len(rows) if autocommit else 0)

    with connected.begin() as connection:
        enqueue.many("fees.process", rows, connection=connection)
    assert len(search(ledger)) == len(rows)


def test_a_single_request_takes_no_savepoint(ledger: Ledger, crm: Engine) -> None:
    statements: list[str] = []
    event.listen(crm, "savepoint", lambda _connection, name: statements.append(name))
    with crm.begin() as connection:
        enqueue.fees(account_login="7", request_id="W1", connection=connection)

    assert statements == []


def test_what_may_have_been_done_since_a_backup_is_not_cancelled_by_the_crm(ledger: Ledger) -> None:
    key = record_operation(ledger).key
    distrust_restored(ledger, {}, "ann", "from a backup")

    with pytest.raises(NotAllowed, match="backup"):
        enqueue.cancel(key, why="the client changed his mind")

    found = find(ledger, key)
    assert found is not None
    assert found.state == State.QUEUED
