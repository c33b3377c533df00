"""The work list: it says that nothing is to be done only if nothing is."""

import html
import re
from collections.abc import Callable

import pytest

from tests.console.conftest import client_of
from tests.console.forms import fill_and_send
from tests.operations import (
    LedgerClock,
    claim_named,
    fail_operation,
    hold_operation,
    make_wait,
    record_operations,
)
from worker.console.process_state import Console
from worker.ledger import Ledger, audit_of, fail_message, find, operation_lists, sweep
from worker.ledger.batches import cancel_batch
from worker.ledger.restore import distrust_restored
from worker.operation import FailureReason, OnUnknown, State, WaitReason
from worker.report.thresholds import DUE_LATE_S, MONEY_LATE_S

OpenConsole = Callable[..., Console]
NOTHING = "Nothing to do here"


def test_what_failed_is_shown_behind_many_that_are_unresolved(open_console: OpenConsole, ledger: Ledger) -> None:
    for number in range(operation_lists.PAGE):
        fail_operation(ledger, f"U{number}", failure_reason=FailureReason.UNRESOLVED)
    fail_operation(ledger, "refused")

    page = client_of(open_console()).get("/todo").text

    assert "fees.process:refused" in page
    assert page.count(NOTHING) == 2  # nothing is unusable, and no money waits


def test_money_that_waits_for_us_is_shown_behind_many_that_wait_for_b2copy(
    open_console: OpenConsole, ledger: Ledger
) -> None:
    for number in range(operation_lists.PAGE):
        make_wait(ledger, hold_operation(ledger, f"P{number}"), wait_reason=WaitReason.PENDING_AT_B2COPY)
    record_operations(ledger, "forgotten")
    LedgerClock(ledger).advance(600)

    page = client_of(open_console()).get("/todo").text

    assert "fees.process:forgotten" in page
    assert page.count(NOTHING) == 3


def test_money_that_is_retried_every_few_seconds_is_shown(open_console: OpenConsole, ledger: Ledger) -> None:
    record_operations(ledger, "retried")
    LedgerClock(ledger).advance(600)
    make_wait(ledger, claim_named(ledger, "retried"), wait_reason=WaitReason.BACKOFF, due_in_s=5.0)
    client = client_of(open_console())

    page = client.get("/todo").text

    assert "fees.process:retried" in page
    assert page.count(NOTHING) == 3
    address = html.unescape(re.findall(r'href="(/operations[^"]*lane=money[^"]*)"', page)[0])
    assert "fees.process:retried" in client.get(address).text
    assert "fees.process:retried" in client.get("/operations?lane=money&age=5m").text
    assert "fees.process:retried" not in client.get("/operations?lane=money&age=15m").text


def test_the_console_calls_late_what_commands_and_alerts_call_late(open_console: OpenConsole, ledger: Ledger) -> None:
    record_operations(ledger, "forgotten")
    client = client_of(open_console())
    LedgerClock(ledger).advance(DUE_LATE_S - 12)
    assert "no worker has worked on the lane" not in client.get("/").text
    LedgerClock(ledger).advance(13)
    assert "no worker has worked on the lane" in client.get("/").text
    assert "fees.process:forgotten" not in client.get("/todo").text

    LedgerClock(ledger).advance(MONEY_LATE_S - DUE_LATE_S)

    page = client.get("/todo").text
    assert "fees.process:forgotten" in page
    assert "fees.process:forgotten" in client.get("/operations?state=open&lane=money&age=120s").text
    assert "age=120s" in page


def test_the_title_of_what_is_unresolved_refers_to_the_step_of_each(open_console: OpenConsole, ledger: Ledger) -> None:
    fail_operation(ledger, "W1", failure_reason=FailureReason.UNRESOLVED)
    client = client_of(open_console())

    page = client.get("/todo").text
    bulk = client.get("/bulk/replay?state=failed").text

    assert "Outcome not known: follow the next step of each" in page
    assert "A replay does no harm" in page
    assert "unresolved: decide each one by itself, as its page says" in bulk


def test_a_window_that_was_cut_is_no_proof_that_nothing_is_to_be_done(
    open_console: OpenConsole, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operation_lists, "WINDOW", 5)
    for number in range(6):
        fail_operation(ledger, f"F{number}")
    fail_operation(ledger, "lost", failure_reason=FailureReason.UNRESOLVED)

    page = client_of(open_console()).get("/todo").text

    assert page.count("and there are more") == 2
    assert page.count(NOTHING) == 1


def test_the_next_step_names_buttons_and_no_command(open_console: OpenConsole, ledger: Ledger) -> None:
    fail_operation(ledger, "W1", failure_reason=FailureReason.EXPIRED)
    fail_operation(ledger, "W2", kind="call", failure_reason=FailureReason.UNRESOLVED, on_unknown=OnUnknown.STOP)

    page = client_of(open_console()).get("/todo").text

    assert "If it is still wanted: replay it" in page
    assert "press “It was done”" in page
    assert "b2copy-sync failed" not in page


def test_the_next_step_of_an_import_that_was_cancelled_after_a_restore_says_so(
    open_console: OpenConsole, ledger: Ledger
) -> None:
    key = record_operations(ledger, "B1", lane="bulk", batch="book")[0].key
    distrust_restored(ledger, {}, "ada", "restored")
    cancel_batch(ledger, "book", "ada", "wrong file")
    sweep(ledger, 5.0)
    client = client_of(open_console())

    pages = [client.get(path).text for path in ("/todo", f"/operation?key={key}")]

    assert ["Its import was cancelled after a restore" in page for page in pages] == [True, True]


def test_what_cannot_be_used_is_not_said_to_be_replayed_and_shows_why(
    open_console: OpenConsole, ledger: Ledger
) -> None:
    fail_message(ledger, "request-2", "fees.process", "request_id is missing", "sql", '{"account_login": "700200"}')
    fail_operation(ledger, "W1", message="no such account")

    page = client_of(open_console()).get("/todo").text

    replay, unusable = (re.sub("<[^>]*>", "", html.unescape(section)) for section in page.split("<section>")[2:4])
    assert "Failed: remove the cause, then replay 1" in replay
    assert "fees.process:W1" in replay
    assert "no such account" in replay
    assert "Could not be used: request again, or correct the payload 1" in unusable
    assert "message:request-2" in unusable
    assert "request_id is missing" in unusable
    assert "700200" in unusable


def test_what_cannot_be_used_leaves_the_list_when_a_person_closes_it(open_console: OpenConsole, ledger: Ledger) -> None:
    key = fail_message(ledger, "request-2", "fees.process", "request_id is missing", "sql", "{}").key
    client = client_of(open_console())
    listed = client.get("/todo").text
    assert "close this one: press “Close”" in listed
    [address] = re.findall(r'href="(/operation/close-message[^"]*)"', html.unescape(listed))

    assert fill_and_send(client, address, note="the CRM has requested it again").status_code == 303

    assert client.get("/todo").text.count(NOTHING) == 4
    assert ">Close<" not in client.get(f"/operation?key={key}").text
    [entry] = audit_of(ledger, key)
    assert (entry.action, entry.actor, entry.note) == ("resolve, cancelled", "ann", "the CRM has requested it again")


def test_a_second_person_sees_that_a_message_would_be_closed(open_console: OpenConsole, ledger: Ledger) -> None:
    key = fail_message(ledger, "request-2", "fees.process", "request_id is missing", "sql", "{}").key
    console = open_console(four_eyes="all")
    fill_and_send(client_of(console, "ann"), f"/operation/close-message?key={key}")

    page = client_of(console, "bob").get("/approvals/approve?id=1").text
    assert fill_and_send(client_of(console, "bob"), "/approvals/approve?id=1").status_code == 303

    assert "It only stores a message that could not be used." in page
    closed = find(ledger, key)
    assert closed is not None
    assert closed.state == State.CANCELLED
