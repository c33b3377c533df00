"""Four eyes on the command line: the same rule as in the console."""

import pytest

from tests.cli.conftest import Command
from tests.operations import fail_operation, find_operation, record_operations
from worker.errors import NotAllowed
from worker.ledger import Ledger, audit_of, cancel, open_ledger
from worker.operation import FailureReason, OnUnknown, State


def test_money_is_proposed_and_another_person_approves_it(b2copy_sync: Command, ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    four_eyes = {"B2COPY_FOUR_EYES": "money"}

    proposed = b2copy_sync("failed", "replay", "W1", "--yes", "--why", "it is open again", "--by", "ann", **four_eyes)
    assert proposed.code == 0
    asks = "another person runs `b2copy-sync approvals list` and `b2copy-sync approvals approve A1`"
    assert proposed.out == f"0 operations replayed\n1 operation proposed as A1: {asks}\n"
    assert find_operation(ledger).state == State.FAILED

    own = b2copy_sync("approvals", "approve", "A1", "--why", "fine", "--by", "Ann", **four_eyes)
    assert own.code == 1
    assert "another person must approve it" in own.err
    approved = b2copy_sync("approvals", "approve", "A1", "--why", "fine", "--by", "bob", **four_eyes)

    assert (approved.code, approved.out) == (0, "A1 approved: replay fees.process:W1\n")
    assert find_operation(ledger).state == State.QUEUED


def test_a_person_cannot_relax_the_ledgers_rule_in_the_environment(b2copy_sync: Command, ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    record_operations(ledger, "W2")
    assert b2copy_sync("migrate", B2COPY_FOUR_EYES="money").code == 0
    replay = ("failed", "replay", "W1", "--yes", "--why", "it is open again", "--by", "ann")

    assert "proposed as A1" in b2copy_sync(*replay, B2COPY_FOUR_EYES="off").out
    assert b2copy_sync("migrate", B2COPY_FOUR_EYES="off").code == 0
    assert find_operation(ledger).state == State.FAILED
    with pytest.raises(NotAllowed, match="second person"):
        cancel(open_ledger(ledger.engine.url.render_as_string(False)), "fees.process:W2", "ann", "in Python")

    assert "give a reason" in b2copy_sync("migrate", "--four-eyes", "off").err
    relaxed = b2copy_sync("migrate", "--four-eyes", "off", "--why", "ann works alone", "--by", "owner")
    assert relaxed.code == 0
    assert b2copy_sync("approvals", "reject", "A1", "--why", "no", "--by", "ann").code == 0
    assert "A2" not in b2copy_sync(*replay).out
    assert find_operation(ledger).state == State.QUEUED
    changes = [(entry.actor, entry.detail) for entry in audit_of(ledger, "four_eyes")]
    assert changes[1:] == [("owner", {"before": {"rule": "money"}, "after": {"rule": "off"}})]
    assert changes[0][1] == {"before": {"rule": "off"}, "after": {"rule": "money"}}


def test_a_notice_moves_no_money_and_a_correction_is_proposed(b2copy_sync: Command, ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    fail_operation(ledger, "N1", kind="crm.notify", lane="notify")
    why = ("--why", "mistyped", "--by", "ann")

    corrected = b2copy_sync("failed", "correct", "W1", "account_login=8", "--yes", *why, B2COPY_FOUR_EYES="money")
    replayed = b2copy_sync("failed", "replay", "crm.notify:N1", *why, B2COPY_FOUR_EYES="money")

    assert "proposed as A1" in corrected.out
    assert find_operation(ledger, "N1", "crm.notify").state == State.QUEUED, replayed
    assert b2copy_sync("approvals", "approve", "A1", "--why", "right", "--by", "bob").code == 0
    assert find_operation(ledger).payload["account_login"] == "8"


def test_who_proposes_several_replays_is_told_what_the_other_person_runs(b2copy_sync: Command, ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    fail_operation(ledger, "W2")

    ran = b2copy_sync("failed", "replay", "--all", "--yes", "--why", "open again", B2COPY_FOUR_EYES="money")

    asks = "another person runs `b2copy-sync approvals list` and `b2copy-sync approvals approve NUMBER`"
    assert ran.out == f"0 operations replayed\n2 operations proposed as A1 to A2: {asks}\n"


def test_an_approver_sees_with_what_it_would_be_done(b2copy_sync: Command, ledger: Ledger) -> None:
    for name in ("W1", "W2"):
        fail_operation(ledger, name, failure_reason=FailureReason.UNRESOLVED, on_unknown=OnUnknown.STOP)
    fail_operation(ledger, "W3")
    ann = ("--why", "seen", "--by", "ann", "--yes")
    strict = {"B2COPY_FOUR_EYES": "all"}

    proposed = b2copy_sync("failed", "resolve", "W1", "--succeeded", "--result", "id=7", *ann, **strict).out
    b2copy_sync("failed", "replay", "W2", "--it-was-not-done", *ann, **strict)
    b2copy_sync("failed", "correct", "W3", "account_login=8", *ann, **strict)
    b2copy_sync("pause", "--lane", "bulk", "--why", "x", "--by", "ann")
    b2copy_sync("resume", "--lane", "bulk", "--why", "x", "--by", "ann", **strict)
    listed = b2copy_sync("approvals", "list").out
    approved = b2copy_sync("approvals", "approve", "A1", "--why", "seen", "--by", "bob").out

    found = 'resolve fees.process:W1 with succeeded=true, result={"id": 7}\n'
    assert proposed == f"proposed as A1: {found}another person must run `b2copy-sync approvals approve A1`\n"
    assert approved == f"A1 approved: {found}"
    heading, *rows = (line.split() for line in listed.splitlines())
    assert heading[:4] == ["Proposal", "What", "Which", "With"]
    assert [" ".join(row).partition(" ann ")[0] for row in rows] == [
        'A1 resolve fees.process:W1 succeeded=true, result={"id": 7}',
        "A2 replay fees.process:W2 not_done=true",
        'A3 correct fees.process:W3 payload={"account_login": "8", "request_id": "W3"}',
        "A4 resume pause:bulk",
    ]


def test_the_open_proposals_are_listed_and_one_is_rejected(b2copy_sync: Command, ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    why = ("--why", "it was done, I saw it", "--by", "ann")

    proposed = b2copy_sync("failed", "resolve", "W1", "--succeeded", "--yes", "--json", *why, B2COPY_FOUR_EYES="all")
    listed = b2copy_sync("approvals", "list", "--json").document["approvals"]
    rejected = b2copy_sync("approvals", "reject", "a1", "--why", "it was not", "--by", "bob")

    assert proposed.document["proposed"]["name"] == "A1"
    assert [(one["name"], one["action"], one["proposed_by"]) for one in listed] == [("A1", "resolve", "ann")]
    assert rejected.out == "A1 rejected\n"
    assert find_operation(ledger).state == State.FAILED


def test_a_list_that_does_not_hold_all_proposals_says_so(b2copy_sync: Command, ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    fail_operation(ledger, "W2")
    b2copy_sync("failed", "replay", "--all", "--yes", "--why", "open again", B2COPY_FOUR_EYES="money")

    cut, whole = b2copy_sync("approvals", "list", "--limit", "1"), b2copy_sync("approvals", "list")
    documents = [b2copy_sync("approvals", "list", "--json", *limit).document for limit in ((), ("--limit", "1"))]

    assert ("A1 " in cut.out, "A2 " in cut.out) == (True, False)
    assert "these are the oldest 1: --limit shows more" in cut.err
    assert ("A2 " in whole.out, whole.err) == (True, "")
    assert [(len(one["approvals"]), one["more"]) for one in documents] == [(2, False), (1, True)]
