"""Replay of all that match: previewed, capped, reported, and never what is unresolved."""

from collections.abc import Callable

import pytest

from tests.cli.operations import many_failed
from tests.console.conftest import client_of
from tests.console.forms import fields_of, fill_and_send
from tests.operations import claim_named, fail, fail_operation, find_operation, succeed_all
from worker.console import bulk_replay
from worker.console.process_state import Console
from worker.ledger import Ledger, audit_of, replay, search
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


def test_the_first_requested_of_an_entity_is_replayed_first(
    open_console: OpenConsole, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_replay, "_BATCH", 1)
    for number in range(3):
        fail_operation(ledger, f"W{number}", entity="A")

    fill_and_send(client_of(open_console()), "/bulk/replay?state=failed", note="the cause is removed")

    assert succeed_all(ledger) == ["W0", "W1", "W2"]


def test_the_preview_names_the_destinations(open_console: OpenConsole, ledger: Ledger) -> None:
    of_crm = {"kind": "crm.notify", "destination": "crm", "lane": "notify", "on_unknown": OnUnknown.REPEAT}
    fail_operation(ledger, "N1", **of_crm)
    fail_operation(ledger, "N2", FailureReason.UNRESOLVED, **of_crm)
    client = client_of(open_console())

    of_the_crm = client.get("/bulk/replay?state=failed").text
    fail_operation(ledger, "W1")
    of_both = client.get("/bulk/replay?state=failed").text

    assert "sent to the CRM at the usual rate" in of_the_crm
    assert "1: unresolved: decide each one by itself, as its page says" in of_the_crm
    assert "sent to B2COPY and the CRM at the usual rate" in of_both


def test_what_fails_after_the_preview_is_not_touched(open_console: OpenConsole, ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    client = client_of(open_console())
    form = fields_of(client.get("/bulk/replay?state=failed").text) | {"note": "those that I have seen"}
    fail_operation(ledger, "W2")

    report = client.post("/bulk/replay?state=failed", data=form)

    assert "Replayed: 1" in report.text
    assert find_operation(ledger, "W2").state == State.FAILED


def test_what_failed_again_after_the_preview_is_named_and_not_touched(
    open_console: OpenConsole, ledger: Ledger
) -> None:
    key = fail_operation(ledger, "W1")
    client = client_of(open_console())
    form = fields_of(client.get("/bulk/replay?state=failed").text) | {"note": "those that I have seen"}
    replay(ledger, [key], "bob", "meanwhile")
    fail(ledger, claim_named(ledger, "W1"))

    report = client.post("/bulk/replay?state=failed", data=form).text

    assert "Replayed: 0" in report
    assert "1: it changed meanwhile" in report
    assert find_operation(ledger, "W1").replays == 1


def test_beyond_the_cap_only_what_the_preview_showed_is_replayed(
    open_console: OpenConsole, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_replay, "CAP", 3)
    for number in range(5):
        fail_operation(ledger, f"W{number}")
    client = client_of(open_console())
    form = fields_of(client.get("/bulk/replay?state=failed").text) | {"note": "those that I have seen"}
    replay(ledger, ["fees.process:W4"], "bob", "meanwhile")

    report = client.post("/bulk/replay?state=failed", data=form).text

    assert "Replayed: 2" in report
    assert "1: it changed meanwhile" in report
    assert [find_operation(ledger, f"W{number}").state for number in (0, 1)] == [State.FAILED] * 2


@pytest.mark.parametrize("shown", ["", "1", "1-x", "1-1.1,2-1.1", " ", "1-1.1 " * 1001])
def test_what_no_preview_wrote_is_refused(open_console: OpenConsole, ledger: Ledger, shown: str) -> None:
    fail_operation(ledger, "W1")
    form = {"note": "a reason that is long enough", "shown": shown}

    assert client_of(open_console()).post("/bulk/replay?state=failed", data=form).status_code == 400


def test_at_most_a_thousand_at_once(open_console: OpenConsole, ledger: Ledger) -> None:
    many_failed(ledger, 1100)
    client = client_of(open_console())

    preview = client.get("/bulk/replay?state=failed").text

    assert "At most 1,000" in preview
    assert "Replay 1,000" in preview
    form = fields_of(preview) | {"note": "those that I have seen"}
    assert "Replayed: 1,000" in client.post("/bulk/replay?state=failed", data=form).text


def test_the_preview_says_that_a_replay_after_fee_error_may_start_a_new_fee_run(
    open_console: OpenConsole, ledger: Ledger
) -> None:
    fail_operation(ledger, "W1")
    client = client_of(open_console())
    text = "A replay after fee_error may start a new fee run."
    assert text not in client.get("/bulk/replay?state=failed").text

    fail_operation(ledger, "W2", failure_reason="fee_error")

    assert text in client.get("/bulk/replay?state=failed").text


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
