"""Replay of all that match: previewed, capped, reported, and never what is unresolved."""

from collections.abc import Callable

import pytest

from tests.cli.operations import many_failed
from tests.console.conftest import client_of
from tests.console.forms import fields_of, fill_and_send
from tests.operations import fail_operation, find_operation
from worker.console.process_state import Console
from worker.ledger import Ledger, audit_of, search
from worker.ledger.approvals import open_approvals
from worker.operation import FailureReason, OnUnknown, State

OpenConsole = Callable[..., Console]


def test_all_that_match_are_replayed_and_the_others_are_named(open_console: OpenConsole, ledger: Ledger) -> None:
    for number in range(30):
        fail_operation(ledger, f"W{number}")
    fail_operation(ledger, "L1", kind="call", failure_reason=FailureReason.UNRESOLVED, on_unknown=OnUnknown.STOP)
    fail_operation(ledger, "L2", failure_reason=FailureReason.UNRESOLVED)
    fail_operation(ledger, "other", lane="bulk")
    client = client_of(open_console())
    path = "/bulk/replay?state=failed&lane=money"

    preview = client.get(path).text
    report = fill_and_send(client, path, note="the address is on the list again")

    assert "Replay 30" in preview
    assert "2: unresolved" in preview
    assert "Replayed: 30" in report.text
    assert "2: unresolved" in report.text
    assert {one.state for one in search(ledger, limit=100) if one.key.startswith("fees.process:W")} == {State.QUEUED}
    assert find_operation(ledger, "other").state == State.FAILED
    assert find_operation(ledger, "L2").state == State.FAILED
    assert audit_of(ledger, "fees.process:W7")[0].actor == "ann"


def test_what_fails_after_the_preview_is_not_touched(open_console: OpenConsole, ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    client = client_of(open_console())
    form = fields_of(client.get("/bulk/replay?state=failed").text) | {"note": "those that I have seen"}
    with ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_operations SET state_since = state_since - 1000")
    form["as_of"] = str(find_operation(ledger).state_since)
    fail_operation(ledger, "W2")

    report = client.post("/bulk/replay?state=failed", data=form)

    assert "Replayed: 1" in report.text
    assert find_operation(ledger, "W2").state == State.FAILED


def test_at_most_a_thousand_at_once(open_console: OpenConsole, ledger: Ledger) -> None:
    many_failed(ledger, 1100)
    client = client_of(open_console())

    preview = client.get("/bulk/replay?state=failed").text

    assert "At most 1,000" in preview
    assert "Replay 1,000" in preview


@pytest.mark.parametrize("query", ["", "state=waiting", "state=open", "state=succeeded"])
def test_only_failed_operations_are_replayed(open_console: OpenConsole, query: str) -> None:
    assert client_of(open_console()).get(f"/bulk/replay?{query}").status_code == 400


def test_money_is_proposed_and_not_replayed(open_console: OpenConsole, ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    fail_operation(ledger, "W2", kind="call", lane="bulk")

    report = fill_and_send(client_of(open_console(four_eyes="money")), "/bulk/replay?state=failed")

    assert "1 proposed" in report.text
    assert [one.subject for one in open_approvals(ledger)] == ["fees.process:W1"]
    assert find_operation(ledger, "W1").state == State.FAILED
    assert find_operation(ledger, "W2", kind="call").state == State.QUEUED
