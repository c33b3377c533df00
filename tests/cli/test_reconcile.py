"""`b2copy-sync reconcile`: what it prints, what it applies, how it exits."""

import json
from collections.abc import Callable

import pytest
from sqlalchemy import text

from tests.cli.conftest import Command
from tests.operations import fail_operation, find_operation, record_operations
from tests.reconcile.book import plant
from tests.support import until
from worker.ledger import Ledger, audit_of, find, identity_of, pause
from worker.operation import OnUnknown
from worker.sandbox.control_client import SandboxControl
from worker.testbed.processes import Process


def test_the_plan_is_shown_and_then_applied(b2copy_sync: Command, ledger: Ledger, sandbox: SandboxControl) -> None:
    planted = plant(ledger, sandbox, 12, planted=4)
    [missing] = [login for login, what in planted.items() if what == "missing_here"]

    shown = b2copy_sync("reconcile")
    refused = b2copy_sync("reconcile", "--apply")
    assert identity_of(ledger, "1", missing) is None
    applied = b2copy_sync("reconcile", "--last", "--apply", "--yes", "--json")
    again = b2copy_sync("reconcile", "--last", "--json")

    assert shown.code == 6, shown.err
    lines = [line.split() for line in shown.out.splitlines()]
    assert lines[0][:4] == ["login", "platform", "difference", "here"]
    assert {line[0] for line in lines[1:5]} == set(planted)
    assert "4 differences: 2 different, 1 missing here, 1 missing there; 11 accounts at B2COPY" in shown.out
    assert "\x1b" not in shown.out + shown.err
    assert (refused.code, "--yes" in refused.err) == (2, True)
    assert applied.code == 6
    assert applied.document["applied"] == {"learned": 1, "enqueued": [], "left": 3}
    assert identity_of(ledger, "1", missing) is not None
    assert again.document["differences"] == {"missing_there": 1, "missing_here": 0, "different": 2}
    assert [one["action"] for one in again.document["plan"]] == ["a person decides"] * 3


def test_both_sides_agree(b2copy_sync: Command, ledger: Ledger, sandbox: SandboxControl) -> None:
    plant(ledger, sandbox, 3)

    agreed = b2copy_sync("reconcile")

    assert (agreed.code, agreed.out.split(";")[0]) == (0, "both sides agree"), agreed.err
    assert b2copy_sync("reconcile", "--last").code == 0


def test_a_closed_account_is_opened_again_by_a_worker(
    b2copy_sync: Command, ledger: Ledger, sandbox: SandboxControl, worker: Callable[..., Process]
) -> None:
    worker()
    sandbox.add_accounts([{"accountNumber": "700200", "clientId": 6}])
    b2copy_sync("accounts", "open", "700100", "--client-id", "5", "--product-currency-id", "2", "--master", "--wait")
    sandbox.close_accounts(["700100"])

    applied = b2copy_sync("reconcile", "--apply", "--yes", "--json")

    assert applied.code == 0, applied.err
    [key] = applied.document["applied"]["enqueued"]
    until(lambda: (found := find(ledger, key)) is not None and found.state == "succeeded")
    learned = identity_of(ledger, "1", "700100")
    assert learned is not None
    assert learned.account_id == "3"
    assert b2copy_sync("reconcile").code == 0


@pytest.mark.parametrize(
    ("switches", "code", "text"),
    [
        ({"access": False}, 4, "continues where it was"),
        ({"list_pages": False}, 1, "do not follow each other"),
    ],
)
def test_what_stops_it_is_said(
    b2copy_sync: Command, ledger: Ledger, sandbox: SandboxControl, switches: dict[str, bool], code: int, text: str
) -> None:
    plant(ledger, sandbox, 150)
    sandbox.switches(**switches)

    stopped = b2copy_sync("reconcile", "--json")

    assert (stopped.code, text in stopped.err) == (code, True), stopped.err
    assert stopped.out == ""
    assert b2copy_sync("reconcile", "--last").code == 4


def test_nothing_is_sent_while_everything_is_paused(
    b2copy_sync: Command, ledger: Ledger, sandbox: SandboxControl
) -> None:
    pause(ledger, "all", "test", "B2COPY asks us to stop")

    assert b2copy_sync("reconcile").code == 4
    assert sandbox.counters()["calls"].get("accounts.list", 0) == 0


def test_after_a_restore_nothing_is_repeated_unseen(
    b2copy_sync: Command, ledger: Ledger, sandbox: SandboxControl, worker: Callable[..., Process]
) -> None:
    """Each of these was done between the backup and the restore; the restored ledger still has it queued."""
    path = "/api/admin/clients/v2/client/clientservice/note"
    sandbox.add_accounts([{"accountNumber": "700100", "clientId": 5, "productCurrencyId": 2}])
    opening = {"login": "700100", "platform": 1, "product_currency_id": 2, "client_id": 5}
    record_operations(
        ledger, "1/700100", kind="accounts.create", payload=opening, lane="default", on_unknown=OnUnknown.READ_BACK
    )
    record_operations(
        ledger, "W1", payload={"account_login": "1", "request_id": "W1"}, on_unknown=OnUnknown.START_OR_GET
    )
    call = {"path": path, "payload": {}, "key": "C1", "repeatable": False}
    record_operations(ledger, "C1", kind="call", payload=call, lane="default", on_unknown=OnUnknown.STOP)
    repeatable = call | {"key": "C2", "repeatable": True}
    record_operations(ledger, "C2", kind="call", payload=repeatable, lane="default", on_unknown=OnUnknown.REPEAT)
    client = {"login": "700200", "platform": 1, "crm_id": None}
    record_operations(ledger, "1/700200", kind="clients.register", payload=client, lane="default")
    # No worker had taken this row when the backup was made.
    row = json.dumps(call | {"key": "C3"})
    with ledger.writing() as connection:
        connection.execute(text("INSERT INTO b2copy_requests (kind, payload) VALUES ('call', :row)"), {"row": row})

    refused = b2copy_sync("reconcile", "--after-restore")
    marked = b2copy_sync("reconcile", "--after-restore", "--yes", "--why", "restored from the backup of 02:00")
    worker()

    expected = {
        "call:C1": "unresolved",
        "call:C3": "unresolved",
        "clients.register:1/700200": "unresolved",
        "accounts.create:1/700100": "succeeded",
    }

    def all_ended() -> bool:
        keys = (*expected, "fees.process:W1", "call:C2")
        found = [find(ledger, key) for key in keys]
        return all(one is not None and one.state in {"succeeded", "failed"} for one in found)

    assert refused.code == 2
    assert marked.code == 0, marked.err
    assert "6 operations may have been done since the backup" in marked.out
    until(all_ended, within=40)
    ends = {key: find(ledger, key) for key in expected}
    assert {key: str(one and (one.failure_reason or one.state)) for key, one in ends.items()} == expected
    effects = {(one["kind"], one["times"]) for one in sandbox.effects()}
    assert effects == {("fees.process", 1), ("call", 1)}  # the call that may be repeated, and no account
    assert audit_of(ledger, "restored ledger")[0].note == "restored from the backup of 02:00"
    running = b2copy_sync("reconcile", "--after-restore", "--yes", "--why", "again")
    assert (running.code, "stop all of them" in running.err) == (1, True)


RESTORED = ("reconcile", "--after-restore", "--yes", "--why", "restored from the backup of 02:00")


@pytest.mark.parametrize("other", ["--apply", "--last"])
def test_after_a_restore_nothing_is_applied_unseen(b2copy_sync: Command, ledger: Ledger, other: str) -> None:
    record_operations(ledger, "W1")

    refused = b2copy_sync(*RESTORED, other)

    assert (refused.code, "stands alone" in refused.err) == (2, True), refused.err
    assert not find_operation(ledger).outcome_unknown


@pytest.mark.parametrize(
    ("duplicates", "then"), [("unknown", "not sent: ends as failed"), ("refused", "sent again: a repeat does no harm")]
)
def test_after_a_restore_it_says_what_workers_with_these_settings_do(
    b2copy_sync: Command, ledger: Ledger, duplicates: str, then: str
) -> None:
    client = {"login": "700200", "platform": 1, "crm_id": None}
    record_operations(ledger, "1/700200", kind="clients.register", payload=client, lane="default")
    fail_operation(ledger, "1/700300", kind="clients.register", payload=client | {"login": "700300"}, lane="default")
    record_operations(ledger, "N1", kind="crm.notify", lane="notify", on_unknown=OnUnknown.REPEAT)

    marked = b2copy_sync(*RESTORED, "--json", B2COPY_DUPLICATE_CLIENTS=duplicates)

    nexts = {(one["kind"], one["failed"]): one["next"] for one in marked.document}
    assert nexts["clients.register", False].startswith(then)
    assert "--it-was-not-done" in nexts["clients.register", True]
    assert nexts["crm.notify", False] == "sent again: a repeat does no harm"


def test_after_a_restore_a_person_cancels_again_what_was_cancelled_since(b2copy_sync: Command, ledger: Ledger) -> None:
    record_operations(ledger, "W1", "W2")
    record_operations(ledger, "C1", kind="call", lane="default")
    record_operations(ledger, "N1", kind="crm.notify", lane="notify", on_unknown=OnUnknown.REPEAT)

    marked = b2copy_sync(*RESTORED)
    cancelled = b2copy_sync("failed", "cancel", "W1", "--why", "cancelled at 03:00, after the backup")

    assert "3 operations had not been sent before the backup, 2 of them withdrawals: cancel again" in marked.out
    assert (cancelled.code, "look at B2COPY" in cancelled.out) == (0, True), cancelled.err
    assert find_operation(ledger).state == "cancelled"
