"""A CRM on Django gives its connection's alias: the operation shares Django's transaction.

The ledger stands in the CRM's own database. A real broker shows which wake-ups were sent, and when.
"""

import subprocess
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import django
import pytest
from django.conf import settings as django_settings
from django.db import connections, transaction
from django.db.utils import IntegrityError
from sqlalchemy import make_url, text
from sqlalchemy.exc import IntegrityError as SQLAlchemyIntegrityError

from tasks import enqueue
from tests.conftest import forget
from tests.ledger.conftest import (  # noqa: F401
    database,
    ledger,
    ledger_url,
    migrated_schema,
    postgres_server,
)
from worker import instances
from worker.errors import BadPayload, PayloadConflict
from worker.ledger import Ledger, find, search
from worker.messages import wake_up
from worker.queues import queue_of
from worker.redis_connection import redis_client
from worker.settings import crm_settings
from worker.testbed.broker import Broker

if not django_settings.configured:
    django_settings.configure(DATABASES={})
    django.setup()


class Crm:
    """A CRM whose withdrawals stand beside the ledger, in the database that Django calls `crm`."""

    def request(self, withdrawal: str, login: str = "7") -> bool:
        """Note that the fees of a withdrawal were requested, and request them. Returns whether that is new."""
        with connections["crm"].cursor() as cursor:
            cursor.execute("INSERT INTO withdrawals (id) VALUES (%s)", [withdrawal])
        return enqueue.fees(account_login=login, request_id=withdrawal, using="crm").created

    def request_all(self, *withdrawals: str) -> None:
        with transaction.atomic("crm"):
            for withdrawal in withdrawals:
                self.request(withdrawal)

    @property
    def withdrawals(self) -> list[str]:
        with connections["crm"].cursor() as cursor:
            cursor.execute("SELECT id FROM withdrawals ORDER BY id")
            return [row[0] for row in cursor.fetchall()]

    @property
    def wake_ups(self) -> int:
        return int(redis_client(crm_settings(), 1.0).llen(queue_of("money")))


def django_database(url: str) -> dict[str, object]:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": parsed.database}
    user = {"NAME": parsed.database, "USER": parsed.username}
    return {"ENGINE": "django.db.backends.postgresql", **user, "OPTIONS": dict(parsed.query)}


@pytest.fixture
def crm(ledger: Ledger, ledger_url: str, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crm]:  # noqa: F811
    monkeypatch.setenv("B2COPY_DATABASE_URL", ledger_url)
    monkeypatch.setenv("B2COPY_REDIS_URL", broker.url)
    monkeypatch.setattr(wake_up, "_sent_at", {})
    forget()
    databases = {"default": {}, "crm": django_database(ledger_url)}
    connections.databases.update(connections.configure_settings(databases))
    with connections["crm"].cursor() as cursor:
        cursor.execute("CREATE TABLE withdrawals (id VARCHAR(20) PRIMARY KEY)")
    yield Crm()
    with connections["crm"].cursor() as cursor:
        cursor.execute("DROP TABLE withdrawals")
    connections["crm"].close()
    del connections["crm"]
    del connections.databases["crm"]
    if instances.ledger.existing:
        instances.ledger.existing.close()
    forget()


def test_an_operation_commits_with_the_crms_rows_and_a_worker_is_woken_after_it(crm: Crm, ledger: Ledger) -> None:  # noqa: F811
    with transaction.atomic("crm"):
        assert crm.request("W1")
        assert find(ledger, "fees.process:W1") is None  # nobody else sees it yet
        assert crm.wake_ups == 0

    found = find(ledger, "fees.process:W1")
    assert found is not None
    assert found.payload == {"account_login": "7", "request_id": "W1"}
    assert (crm.withdrawals, crm.wake_ups) == (["W1"], 1)


def test_an_operation_is_rolled_back_with_the_crms_rows_and_nobody_is_woken(crm: Crm, ledger: Ledger) -> None:  # noqa: F811
    with transaction.atomic("crm"):
        crm.request("W1")
        transaction.set_rollback(True, "crm")

    assert (find(ledger, "fees.process:W1"), crm.withdrawals, crm.wake_ups) == (None, [], 0)


def test_a_refused_request_leaves_the_crms_transaction_usable(crm: Crm, ledger: Ledger) -> None:  # noqa: F811
    crm.request("W1")
    with transaction.atomic("crm"):
        with pytest.raises(PayloadConflict):
            enqueue.many(
                "fees.process",
                [{"account_login": "7", "request_id": "W9"}, {"account_login": "8", "request_id": "W1"}],
                using="crm",
            )
        assert crm.request("W2")

    assert crm.withdrawals == ["W1", "W2"]
    assert {one.key for one in search(ledger)} == {"fees.process:W1", "fees.process:W2"}


def test_outside_a_transaction_it_is_recorded_and_woken_at_once(crm: Crm, ledger: Ledger) -> None:  # noqa: F811
    assert enqueue.fees(account_login="7", request_id="W1", using="crm").created
    assert not enqueue.fees(account_login="7", request_id="W1", using="crm").created

    assert find(ledger, "fees.process:W1") is not None
    assert crm.wake_ups == 1


def test_a_crm_that_commits_by_itself_is_not_told_an_error_about_what_is_recorded(crm: Crm, ledger: Ledger) -> None:  # noqa: F811
    """`AUTOCOMMIT: False`: Django has no hook for such a commit, and dispatch wakes the lane."""
    transaction.set_autocommit(False, using="crm")
    try:
        assert crm.request("W1")
        transaction.commit(using="crm")
    finally:
        transaction.rollback(using="crm")
        transaction.set_autocommit(True, using="crm")

    assert (crm.withdrawals, [one.key for one in search(ledger)]) == (["W1"], ["fees.process:W1"])


def test_a_dead_broker_reaches_no_caller(crm: Crm, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(enqueue, "_wake", lambda lane, count: 1 / 0)
    with transaction.atomic("crm"):
        crm.request("W1")

    assert find(ledger, "fees.process:W1") is not None


def test_every_request_of_the_api_can_use_it(crm: Crm, ledger: Ledger) -> None:  # noqa: F811
    with transaction.atomic("crm"):
        enqueue.call("/api/admin/clients/v2/x/y/z", {}, key="K1", using="crm")
        client = enqueue.register_client(login="77", using="crm")
        enqueue.open_account(login="77", product_currency_id=1, registration=client.key, using="crm")
        enqueue.many("fees.process", [{"account_login": "7", "request_id": f"W{n}"} for n in range(3)], using="crm")
        assert search(ledger) == []

    assert len(search(ledger)) == 6


def test_the_crms_own_error_in_the_same_transaction_takes_the_operation_back(crm: Crm, ledger: Ledger) -> None:  # noqa: F811
    crm.request("W1")
    with pytest.raises(IntegrityError):
        crm.request_all("W2", "W1")

    assert find(ledger, "fees.process:W2") is None


def test_what_the_crm_does_with_its_connection_afterwards_is_djangos_affair(crm: Crm) -> None:
    with transaction.atomic("crm"):
        crm.request("W1")
        assert connections["crm"].in_atomic_block
    with connections["crm"].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM withdrawals WHERE id LIKE %s", ["W%"])
        assert cursor.fetchone()[0] == 1
    if connections["crm"].vendor == "sqlite":
        with connections["crm"].cursor() as cursor:  # Django's own function, which returns NULL for NULL
            cursor.execute("SELECT NULL REGEXP 'x', 'wx' REGEXP 'x'")
            assert cursor.fetchone() == (None, 1)


def test_an_alias_that_is_not_the_ledgers_is_refused(crm: Crm, ledger: Ledger) -> None:  # noqa: F811
    connections.databases.update(
        connections.configure_settings(
            {"default": {}, "elsewhere": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
        )
    )
    with pytest.raises(BadPayload, match="'elsewhere' does not hold the ledger of B2COPY_DATABASE_URL"):
        enqueue.fees(account_login="7", request_id="W1", using="elsewhere")
    with pytest.raises(BadPayload, match=r"has no 'nowhere': there are .*crm"):
        enqueue.fees(account_login="7", request_id="W1", using="nowhere")
    with ledger.writing() as connection, pytest.raises(BadPayload, match="connection, using: give one"):
        enqueue.fees(account_login="7", request_id="W1", using="crm", connection=connection)
    connections["elsewhere"].close()
    assert search(ledger) == []


def test_a_request_waits_for_a_writer_although_djangos_begin_is_deferred(crm: Crm, ledger: Ledger) -> None:  # noqa: F811
    """Without Django's `transaction_mode: IMMEDIATE`, a transaction that has only read cannot wait for a writer."""
    with ThreadPoolExecutor() as threads:
        with ledger.writing() as writer:
            writer.execute(text("UPDATE b2copy_ledger SET dispatched_at = dispatched_at"))

            def request() -> None:
                try:
                    with transaction.atomic("crm"):
                        enqueue.fees(account_login="7", request_id="W1", using="crm")
                finally:
                    connections["crm"].close()

            requested = threads.submit(request)
            wait([requested], timeout=0.5)  # it is not done, unless it has failed
        requested.result()

    assert [one.key for one in search(ledger)] == ["fees.process:W1"]


def test_an_alias_that_leads_elsewhere_later_is_refused(crm: Crm, ledger: Ledger, tmp_path: Path) -> None:  # noqa: F811
    crm.request("W1")
    connections["crm"].close()
    del connections["crm"]
    elsewhere = {"crm": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "elsewhere.sqlite")}}
    ours = connections.databases["crm"]
    connections.databases.update(connections.configure_settings({"default": {}, **elsewhere}))
    try:
        with pytest.raises(BadPayload, match="'crm' does not hold the ledger"):
            enqueue.fees(account_login="7", request_id="W2", using="crm")
    finally:
        connections["crm"].close()
        del connections["crm"]
        connections.databases["crm"] = ours


def test_no_error_of_the_database_quotes_the_row(crm: Crm, ledger: Ledger) -> None:  # noqa: F811
    if connections["crm"].vendor != "postgresql":
        pytest.skip("SQLite's errors quote no row")
    with connections["crm"].cursor() as cursor:
        cursor.execute("ALTER TABLE b2copy_operations ADD CONSTRAINT refused CHECK (lane <> 'money') NOT VALID")

    with pytest.raises(SQLAlchemyIntegrityError) as caught:
        crm.request("W1", login="-".join(("secret", "login")))  # a traceback quotes this line, too

    shown = "".join(traceback.format_exception(caught.value))
    assert 'violates check constraint "refused"' in shown
    assert "secret-login" not in shown


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "not connected yet"])
def test_a_django_on_psycopg2_is_refused_by_name(crm: Crm, monkeypatch: pytest.MonkeyPatch, connected: bool) -> None:
    django_database = connections["crm"]
    if django_database.vendor != "postgresql":
        pytest.skip("only PostgreSQL has two drivers")
    django_database.close()
    foreign = type("connection", (), {"__module__": "psycopg2.extensions"})()
    with monkeypatch.context() as patched:
        patched.setattr(django_database, "connection", foreign if connected else None)
        patched.setattr(django_database, "connect", lambda: patched.setattr(django_database, "connection", foreign))
        with pytest.raises(BadPayload, match="'crm' by psycopg2, and the ledger needs psycopg"):
            enqueue.fees(account_login="7", request_id="W1", using="crm")


def test_without_an_alias_django_is_not_imported() -> None:
    code = "import sys, tasks.enqueue; print('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
