"""`b2copy-sync reconcile`: what it prints, what it applies, how it exits."""

import json
from collections.abc import Callable

import pytest
from sqlalchemy import text

from tests.cli.conftest import Command
from tests.operations import fail_operation, find_operation, record_operations
from tests.reconcile.book import number_of, plant
from tests.support import until
from worker.ledger import Ledger, audit_of, find, identity_of, pause
from worker.operation import OnUnknown
from worker.sandbox.control_client import SandboxControl
from worker.testbed.processes import Process

WHY = ("--why", "seen by both of us")


def test_the_plan_is_shown_and_then_applied(b2copy_sync: Command, ledger: Ledger, sandbox: SandboxControl) -> None:
    planted = plant(ledger, sandbox, 12, planted=4)
    [missing] = [login for login, what in planted.items() if what == "missing_here"]

    shown = b2copy_sync("reconcile")
    name = b2copy_sync("reconcile", "--last", "--json").document["run"]
    unsure = [
        b2copy_sync("reconcile", "--apply", name, *options)
        for options in ((), ("--yes",), ("--yes", *WHY, "--limit", "3"))
    ]
    other = b2copy_sync("reconcile", "--apply", str(int(name) - 1), "--yes", *WHY)
    assert identity_of(ledger, "1", missing) is None
    applied = b2copy_sync("reconcile", "--apply", name, "--yes", *WHY, "--by", "ann", "--json")
    again = b2copy_sync("reconcile", "--last", "--json")

    assert shown.code == 6, shown.err
    lines = [line.split() for line in shown.out.splitlines()]
    assert lines[0][:4] == ["login", "platform", "difference", "here"]
    assert {line[0] for line in lines[1:5]} == set(planted)
    assert "4 differences: 2 different, 1 missing here, 1 missing there; 11 accounts at B2COPY" in shown.out
    assert "\x1b" not in shown.out + shown.err
    assert f"run {name}, begun" in shown.out
    assert f"--apply {name} --yes" in shown.err
    assert [one.code for one in unsure] == [2, 2, 2]
    assert "--limit 4" in unsure[2].err
    assert (other.code, f"the last run is {name}" in other.err) == (1, True)
    [entry] = audit_of(ledger, f"reconciliation {name}")
    assert (entry.actor, entry.note) == ("ann", WHY[1])
    assert applied.code == 6
    assert applied.document["applied"] == {"learned": 1, "enqueued": [], "left": 3}
    assert identity_of(ledger, "1", missing) is not None
    assert again.document["differences"] == {
        "missing_there": 1,
        "missing_here": 0,
        "closed_here": 0,
        "different": 2,
        "unclear": 0,
    }
    assert [one["action"] for one in again.document["plan"]] == ["a person decides"] * 3


def test_many_missing_accounts_are_opened_only_by_who_knows_their_number(
    b2copy_sync: Command, ledger: Ledger, sandbox: SandboxControl
) -> None:
    plant(ledger, sandbox, 20)
    sandbox.close_accounts([number_of(place) for place in range(12)])
    name = b2copy_sync("reconcile", "--json").document["run"]

    def apply(*options: str) -> int | None:
        return b2copy_sync("reconcile", "--apply", name, "--yes", *WHY, *options).code

    assert [apply(), apply("--missing-there", "11")] == [1, 1]
    assert audit_of(ledger, f"reconciliation {name}") == []
    assert apply("--missing-there", "12") == 6
    assert len(audit_of(ledger, f"reconciliation {name}")) == 1


def test_a_closed_account_is_missing_until_a_person_says_that_it_is_closed(
    b2copy_sync: Command, ledger: Ledger, sandbox: SandboxControl
) -> None:
    plant(ledger, sandbox, 20)
    login = number_of(3)
    sandbox.close_accounts([login])
    missing = b2copy_sync("reconcile", "--json")

    closed = b2copy_sync("identity", "close", login, "--why", "the client left", "--by", "ann")
    again = b2copy_sync("identity", "close", login, "--why", "the client left")
    unknown = b2copy_sync("identity", "close", login, "--platform", "2", "--why", "the client left")
    shown = b2copy_sync("identity", "show", login)

    assert (missing.code, missing.document["differences"]["missing_there"]) == (6, 1)
    assert closed.out == f"the account of {login} on platform 1 counts as closed at B2COPY\n", closed.err
    assert again.out.endswith("as it was before: nothing was changed\n")
    assert (unknown.code, f"nothing is known of {login} on platform 2" in unknown.err + unknown.out) == (5, True)
    assert "closed (UTC)" in shown.out
    assert (b2copy_sync("reconcile", "--last").code, b2copy_sync("reconcile").code) == (0, 0)

    sandbox.add_accounts([{"accountNumber": login, "clientId": 4}])
    there_again = b2copy_sync("reconcile")
    assert (there_again.code, "1 difference: 1 closed here" in there_again.out) == (6, True), there_again.out
    reopened = b2copy_sync("identity", "reopen", login, "--why", "the client came back", "--json")
    assert reopened.document == {"platform": "1", "login": login, "closed": False, "changed": True}
    assert [entry.note for entry in audit_of(ledger, f"identity 1/{login}")] == [
        "the client left",
        "the client came back",
    ]


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

    found = b2copy_sync("reconcile", "--json")
    applied = b2copy_sync("reconcile", "--apply", found.document["run"], "--yes", *WHY, "--json")

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


@pytest.mark.parametrize("other", ["--apply=1", "--last"])
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
