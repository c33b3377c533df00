"""Four eyes: what one person proposes, another one approves."""

from dataclasses import replace as changed
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from tests.operations import claim_one, fail, fail_operation, find_operation, record_operation
from worker.errors import NotAllowed
from worker.ledger import Ledger, active_flags, audit_of, cancel, correct, pause, replay, resolve, resume, stop_asking
from worker.ledger.approvals import (
    Approval,
    approve,
    decide_or_propose,
    open_approvals,
    reject,
    resume_or_propose,
)
from worker.operation import FailureReason, State


@pytest.fixture
def strict(ledger: Ledger) -> Ledger:
    with ledger.writing() as connection:
        connection.execute(text("DELETE FROM b2copy_approvals"))
    return changed(ledger, needs_approval=lambda kind, lane: True)


def propose(ledger: Ledger, name: str = "W1", action: str = "replay", by: str = "ann", **arguments: Any) -> Approval:
    proposed = decide_or_propose(ledger, action, find_operation(ledger, name), by, "the account is open", **arguments)
    assert isinstance(proposed, Approval)
    return proposed


def test_without_four_eyes_the_decision_is_made_at_once(ledger: Ledger) -> None:
    fail_operation(ledger, "W1")

    decide_or_propose(ledger, "replay", find_operation(ledger, "W1"), "ann", "the account is open")

    assert find_operation(ledger, "W1").state == State.QUEUED


def test_no_function_goes_around_the_second_person(strict: Ledger) -> None:
    key = fail_operation(strict, "W1")
    waits = record_operation(strict, "W2").key
    pause(strict, "money", "ann", "stop")

    assert replay(strict, [key], "ann", "again") == []
    for refused in (
        lambda: resolve(strict, key, "ann", "done", succeeded=True),
        lambda: cancel(strict, waits, "ann", "no"),
        lambda: stop_asking(strict, waits, "ann", "no"),
        lambda: resume(strict, "money", "ann", "go"),
    ):
        with pytest.raises(NotAllowed, match="second person"):
            refused()
    assert find_operation(strict, "W1").state == State.FAILED


def test_a_correction_is_proposed_and_made_by_the_second_person(strict: Ledger) -> None:
    key = fail_operation(strict, "W1")
    payload = {"account_login": "8", "request_id": "W1"}
    with pytest.raises(NotAllowed, match="second person"):
        correct(strict, key, payload, "ann", "mistyped")
    proposed = propose(strict, action="correct", payload=payload)
    assert find_operation(strict, "W1").payload["account_login"] == "7"

    assert approve(strict, proposed.id, "bob", "seen").decision == "approved"

    found = find_operation(strict, "W1")
    assert (found.state, found.payload, found.replays) == (State.QUEUED, payload, 1)


def test_what_may_have_been_done_cannot_be_proposed_to_be_corrected(strict: Ledger) -> None:
    fail_operation(strict, "W1", failure_reason=FailureReason.UNRESOLVED)

    with pytest.raises(NotAllowed, match="resolve it first"):
        propose(strict, action="correct", payload={"account_login": "8", "request_id": "W1"})


def test_the_second_person_makes_the_decision(strict: Ledger) -> None:
    key = fail_operation(strict, "W1")
    proposed = propose(strict)
    assert find_operation(strict, "W1").state == State.FAILED

    assert approve(strict, proposed.id, "bob", "seen").decision == "approved"

    assert find_operation(strict, "W1").state == State.QUEUED
    actions = [(entry.action, entry.actor) for entry in audit_of(strict, key)]
    assert actions == [
        (f"propose replay, {proposed.name}", "ann"),
        (f"approved {proposed.name}", "bob"),
        ("replay", "bob"),
    ]
    with pytest.raises(NotAllowed, match="approved already"):
        approve(strict, proposed.id, "carl", "again")


@pytest.mark.parametrize("same", ["ann", " Ann", "ANN "])
def test_nobody_approves_their_own_proposal(strict: Ledger, same: str) -> None:
    fail_operation(strict, "W1")
    proposed = propose(strict)

    with pytest.raises(NotAllowed, match="another person"):
        approve(strict, proposed.id, same, "fine")
    assert find_operation(strict, "W1").state == State.FAILED
    assert reject(strict, proposed.id, same, "no").decision == "withdrawn"


def test_the_table_itself_refuses_an_approval_by_the_proposer(strict: Ledger) -> None:
    fail_operation(strict, "W1")
    proposed = propose(strict)

    with pytest.raises(IntegrityError), strict.writing() as connection:
        connection.execute(
            text(
                "UPDATE b2copy_approvals SET decision = 'approved', decided_by = ' ANN', decided_at = 1"
                f" WHERE id = {proposed.id}"
            )
        )


def test_a_proposal_is_void_once_the_operation_has_changed(strict: Ledger, ledger: Ledger) -> None:
    fail_operation(strict, "W1")
    proposed = propose(strict)
    replay(ledger, [find_operation(ledger, "W1").key], "carl", "meanwhile")
    fail(ledger, claim_one(ledger))

    assert approve(strict, proposed.id, "bob", "seen").decision == "changed"

    assert find_operation(strict, "W1").replays == 1
    assert open_approvals(strict) == []


def test_a_proposal_expires(strict: Ledger) -> None:
    fail_operation(strict, "W1")
    proposed = propose(strict)
    with strict.writing() as connection:
        connection.execute(text("UPDATE b2copy_approvals SET expires_at = 1"))

    assert open_approvals(strict) == []
    assert approve(strict, proposed.id, "bob", "seen").decision == "expired"
    assert find_operation(strict, "W1").state == State.FAILED
    assert propose(strict).id > proposed.id


def test_the_same_proposal_twice_is_one_and_another_must_wait(strict: Ledger) -> None:
    fail_operation(strict, "W1")
    first = propose(strict)

    assert propose(strict).id == first.id
    with pytest.raises(NotAllowed, match=f"{first.name} is open"):
        propose(strict, action="resolve", by="carl", succeeded=True)


def test_what_is_proposed_must_be_possible(strict: Ledger) -> None:
    fail_operation(strict, "W1", failure_reason=FailureReason.UNRESOLVED, kind="call")
    record_operation(strict, "W2")

    operation = find_operation(strict, "W1", kind="call")
    with pytest.raises(NotAllowed):
        decide_or_propose(strict, "replay", operation, "ann", "again")
    with pytest.raises(NotAllowed):
        propose(strict, "W2", action="stop_asking")
    assert decide_or_propose(strict, "replay", operation, "ann", "looked", not_done=True)
    assert propose(strict, "W2", action="cancel").action == "cancel"


def test_the_end_of_a_pause_is_proposed_too(strict: Ledger) -> None:
    pause(strict, "money", "ann", "stop")

    proposed = resume_or_propose(strict, "money", "ann", "go")
    assert isinstance(proposed, Approval)
    assert "pause:money" in active_flags(strict)

    approve(strict, proposed.id, "bob", "go")
    assert active_flags(strict) == {}


def test_a_resolution_keeps_its_arguments(strict: Ledger) -> None:
    fail_operation(strict, "W1", failure_reason=FailureReason.UNRESOLVED)

    approve(strict, propose(strict, action="resolve", succeeded=True, result={"id": 7}).id, "bob", "seen")

    assert find_operation(strict, "W1").result == {"id": 7}
