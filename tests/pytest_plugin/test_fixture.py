"""The fixture `b2copy`, used as a CRM's tests use it: in this process, without Redis and without a worker."""

import os
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from tasks import enqueue
from tests.ledger.conftest import database, empty_database_url, own_ledger_url, postgres_server  # noqa: F401
from tests.operations import record_operation
from tests.support import until
from tests.webhook.conftest import SECRETS
from worker import instances
from worker.crm_testing.b2copy_fixture import Sandbox
from worker.crm_testing.ledger_for_tests import Ledgers
from worker.errors import SettingsError
from worker.ledger import pause, search
from worker.ledger.batches import cancel_batch, pause_batch, resume_batch
from worker.operation import FailureReason, State, WaitReason
from worker.settings import crm_settings
from worker.webhook.signing import Secrets

UPDATE = "/api/admin/clients/v2/client/clientservice/update"


def test_a_fee_run_goes_as_the_test_says(b2copy: Sandbox) -> None:
    b2copy.fees("7", pending_polls=2, ends="ERROR", message="the account is locked")
    b2copy.fees("8")
    for login, withdrawal in (("7", "W1"), ("8", "W2"), ("9", "W3")):
        enqueue.fees(account_login=login, request_id=withdrawal)
    assert [one.state for one in b2copy.operations] == [State.QUEUED] * 3
    assert b2copy.calls == []

    began = time.monotonic()
    b2copy.run_until_idle()

    failed, *others = b2copy.operations
    assert (failed.key, failed.state, failed.failure_reason) == ("fees.process:W1", State.FAILED, "fee_error")
    assert [one.state for one in others] == [State.SUCCEEDED] * 2
    assert [call.status for call in b2copy.calls if '"W1"' in call.body] == [200] * 3
    assert time.monotonic() - began < 2.0  # the polls were not waited for: the first comes after 2 s in a worker


def test_each_test_begins_with_nothing(b2copy: Sandbox) -> None:
    assert (b2copy.operations, b2copy.calls, b2copy.notices) == ([], [], [])
    assert enqueue.fees(account_login="7", request_id="W1").created
    b2copy.run_until_idle()
    assert b2copy.operations[0].state == State.SUCCEEDED


def test_a_rule_that_is_misspelt_is_refused(b2copy: Sandbox) -> None:
    with pytest.raises(ValueError, match="pending_pols"):
        b2copy.fees("7", pending_pols=2)


def test_an_outage_can_be_looked_at_and_ended(b2copy: Sandbox) -> None:
    b2copy.faults({"what": "status", "status": 503})
    enqueue.fees(account_login="7", request_id="W1")
    assert b2copy.run_once()
    waiting = b2copy.operation("fees.process:W1")
    assert waiting is not None
    assert (waiting.state, waiting.wait_reason) == (State.WAITING, WaitReason.BACKOFF)
    assert not b2copy.run_once()
    with pytest.raises(AssertionError, match=r"not idle within 0.3 s\n.*503"):
        b2copy.run_until_idle(within_s=0.3)

    b2copy.faults()
    b2copy.run_until_idle()

    assert b2copy.operations[0].state == State.SUCCEEDED


def test_what_waits_for_others_or_is_paused_is_left(b2copy: Sandbox) -> None:
    b2copy.fees("7", ends="ERROR")
    parent = enqueue.fees(account_login="7", request_id="W1")
    enqueue.call(UPDATE, {}, key="K1", parent=parent.key)
    b2copy.run_until_idle()
    pause(instances.ledger(), "bulk", "ada", "a test")
    enqueue.many("fees.process", [{"account_login": "8", "request_id": "W2"}], lane="bulk")
    b2copy.run_until_idle()

    assert [one.wait_reason or one.state for one in b2copy.operations] == [
        State.FAILED,
        WaitReason.BEHIND_PARENT,
        State.QUEUED,
    ]


def test_every_kind_can_be_requested(b2copy: Sandbox) -> None:
    client = enqueue.register_client(login="77")
    enqueue.open_account(login="77", product_currency_id=1, registration=client.key)
    enqueue.call(UPDATE, {"id": 1}, key="K1")
    b2copy.run_until_idle()

    assert {one.kind: one.state for one in b2copy.operations} == dict.fromkeys(
        ("clients.register", "accounts.create", "call"), State.SUCCEEDED
    )


def test_an_account_is_opened_for_a_registered_client_alone(b2copy: Sandbox) -> None:
    enqueue.open_account(login="77", product_currency_id=1, client_id=5)
    b2copy.run_until_idle()
    b2copy.switches(clients="any")
    enqueue.open_account(login="78", product_currency_id=1, client_id=5)
    b2copy.run_until_idle()

    assert [(one.state, one.failure_reason) for one in b2copy.operations] == [
        (State.FAILED, FailureReason.REJECTED),
        (State.SUCCEEDED, None),
    ]


def test_a_row_of_the_sql_api_is_taken(b2copy: Sandbox) -> None:
    with instances.ledger().writing() as connection:
        connection.execute(text("INSERT INTO b2copy_requests (kind, payload) VALUES ('fees.process', '{}')"))
    b2copy.run_until_idle()

    assert [one.failure_reason for one in b2copy.operations] == [FailureReason.BAD_PAYLOAD]


def test_code_that_waits_itself_gets_its_answer(b2copy: Sandbox) -> None:
    b2copy.fees("7", pending_polls=1)
    recorded = enqueue.fees(account_login="7", request_id="W1")
    with b2copy.running():
        ended = enqueue.wait(recorded.key, 10)

    assert ended is not None
    assert ended.state == State.SUCCEEDED
    assert "b2copy-sandbox" not in {thread.name for thread in threading.enumerate()}


def test_a_refused_token_is_replaced(b2copy: Sandbox) -> None:
    b2copy.faults({"what": "status", "status": 401, "next": 1})
    enqueue.fees(account_login="7", request_id="W1")
    b2copy.run_until_idle()

    assert [call.status for call in b2copy.calls] == [401, 200]
    assert b2copy.operations[0].state == State.SUCCEEDED


def test_a_notice_is_what_the_crm_would_get(b2copy: Sandbox) -> None:
    enqueue.fees(account_login="7", request_id="W1")
    b2copy.run_until_idle()

    [notice] = b2copy.notices
    assert (notice.data["key"], notice.data["state"]) == ("fees.process:W1", "succeeded")
    headers = notice.headers(SECRETS[0])
    assert headers["webhook-id"] == notice.id
    assert Secrets(SECRETS[:1]).problem(notice.body.encode(), headers) is None


def test_the_call_log_tells_the_story(b2copy: Sandbox) -> None:
    assert b2copy.call_log().startswith("no call reached B2COPY")
    b2copy.fees("7", ends="ERROR", message="the account is locked")
    b2copy.faults({"what": "drop", "next": 1})
    enqueue.fees(account_login="7", request_id="W1")
    b2copy.run_until_idle()

    first, second, _, operation = b2copy.call_log().splitlines()
    assert first.endswith('processext {"account_login":"7","request_id":"W1"} -> no answer')
    assert '-> 200 {"account_login":"7","request_id":"W1","status":3,"error":"the account is locked"}' in second
    assert operation == "fees.process:W1  failed  (fee_error)  the account is locked"


def test_the_process_has_its_environment_back_afterwards(request: pytest.FixtureRequest) -> None:
    assert not [name for name in os.environ if name.startswith("B2COPY_")]
    with pytest.raises(SettingsError, match="B2COPY_DATABASE_URL is not set"):
        crm_settings()


def test_no_thread_is_left_of_each_use(request: pytest.FixtureRequest, b2copy: Sandbox) -> None:
    def renewing() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "b2copy-leases"]

    until(lambda: len(renewing()) == 1, within=1.0)  # this test's own


def test_a_ledger_that_the_plugin_has_not_made_is_never_emptied(
    own_ledger_url: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    real = own_ledger_url
    ledgers = Ledgers(tmp_path)

    with pytest.raises(ValueError, match="a ledger that this plugin has not made"):
        ledgers.empty(real)


def test_a_ledger_in_the_crms_database_is_empty_for_each_test_and_each_process(
    empty_database_url: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    for _ in range(2):  # two test processes, one after the other
        ledgers = Ledgers(tmp_path)
        for _ in range(2):
            url, ledger = ledgers.empty(empty_database_url)
            assert (url, search(ledger)) == (empty_database_url, [])
            record_operation(ledger)
            pause(ledger, "bulk", "ada", "a test")
        ledgers.close()


def test_an_import_is_paused_resumed_and_cancelled_as_by_a_worker(b2copy: Sandbox) -> None:
    rows = [{"account_login": "7", "request_id": f"W{number}"} for number in range(3)]
    enqueue.many("fees.process", rows, batch="book")
    ledger = instances.ledger()
    pause_batch(ledger, "book", "ada", "wrong file?")

    b2copy.run_until_idle()
    assert b2copy.calls == []
    resume_batch(ledger, "book", "ada", "right file")
    b2copy.run_until_idle()
    assert [one.state for one in b2copy.operations] == [State.SUCCEEDED] * 3

    enqueue.many("fees.process", [{"account_login": "7", "request_id": "W9"}], batch="next")
    pause_batch(ledger, "next", "ada", "wrong file?")
    b2copy.run_until_idle()
    cancel_batch(ledger, "next", "ada", "wrong file")
    b2copy.run_until_idle()
    assert b2copy.operations[-1].state == State.CANCELLED


@pytest.mark.parametrize(
    "fault",
    [
        {"what": "status", "status": 429, "next": 1, "retry_after": 60},
        {"what": "status", "status": 503, "next": 15},
    ],
)
def test_no_hold_and_no_circuit_is_waited_out(b2copy: Sandbox, fault: dict[str, object]) -> None:
    b2copy.faults(fault)
    enqueue.fees(account_login="7", request_id="W1")

    b2copy.run_until_idle()  # fails after ten seconds

    assert b2copy.operations[0].state == State.SUCCEEDED


def test_an_id_alone_names_an_operation(b2copy: Sandbox) -> None:
    enqueue.fees(account_login="7", request_id="W1")
    enqueue.fees(account_login="7", request_id="same")
    enqueue.call(UPDATE, {}, key="same")

    named = b2copy.operation("W1")

    assert named is not None
    assert named.key == "fees.process:W1"
    assert b2copy.operation("W2") is None
    with pytest.raises(LookupError, match=r"several operations: call:same, fees\.process:same"):
        b2copy.operation("same")


def test_the_report_of_many_calls_shows_the_first_and_the_last(b2copy: Sandbox) -> None:
    for number in range(50):
        enqueue.fees(account_login=str(number), request_id=f"W{number}")
    b2copy.run_until_idle()

    calls, operations = b2copy.call_log().split("\n\n")

    assert len(b2copy.calls) == 50
    assert calls.splitlines()[20] == "... 10 calls more ..."
    assert len(calls.splitlines()) == 41
    assert operations.splitlines()[20] == "... 10 operations more ..."
    assert operations.splitlines()[-1].startswith("fees.process:W49  succeeded")
