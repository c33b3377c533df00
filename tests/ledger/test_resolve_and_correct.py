"""Resolve: a person records what the destination did. Correct: a failed operation gets another payload."""

from typing import Any

import pytest
from sqlalchemy import text

from tests.operations import (
    claim_due,
    claim_one,
    fail,
    fail_operation,
    find_operation,
    hold_operation,
    names_of,
    new_operation,
    record_operation,
    record_operations,
    succeed_operation,
)
from worker.errors import BadPayload, NotAllowed, PayloadConflict
from worker.ledger import Ledger, attempts_of, audit_of, fail_message, identity_of, record, replay
from worker.ledger.insert_operations import row_of
from worker.ledger.operator_actions import correct, resolve
from worker.ledger.overview import overview
from worker.ledger.record_operations import check_known, known_among
from worker.operation import FailureReason, OnUnknown, Phase, State
from worker.report.health import find_notes

W1 = "fees.process:W1"
WRONG = {"account_login": "7", "request_id": "W1"}
RIGHT = {"account_login": "8", "request_id": "W1"}


def leave_unresolved(ledger: Ledger, name: str = "W1", **fields: Any) -> None:
    claimed = hold_operation(ledger, name, on_unknown=OnUnknown.STOP, **fields)
    fail(
        ledger,
        claimed,
        failure_reason=FailureReason.UNRESOLVED,
        outcome_unknown=True,
        unknown_step="charge",
        progress={"client": 5},
    )


def test_an_unresolved_operation_is_resolved_as_succeeded_with_the_result(ledger: Ledger) -> None:
    leave_unresolved(ledger)

    resolved = resolve(ledger, W1, "ada", "support says it was charged", succeeded=True, result={"fee": "1.20"})

    assert resolved == find_operation(ledger, "W1")
    assert (resolved.state, resolved.failure_reason, resolved.result) == (State.SUCCEEDED, None, {"fee": "1.20"})
    assert (resolved.outcome_unknown, resolved.unknown_step, resolved.progress) == (False, None, None)
    assert resolved.ended_at == resolved.state_since


def test_an_operation_that_was_not_done_stays_failed_as_rejected_with_its_outcome_known(ledger: Ledger) -> None:
    leave_unresolved(ledger)

    resolved = resolve(ledger, W1, "ada", "support finds nothing", succeeded=False)

    assert (resolved.state, resolved.failure_reason) == (State.FAILED, FailureReason.REJECTED)
    assert (resolved.outcome_unknown, resolved.unknown_step, resolved.progress) == (False, None, {"client": 5})
    assert replay(ledger, [W1], "ada", "it was not done") == [W1], "its outcome is known, so it may be replayed"


@pytest.mark.parametrize("succeeded", [True, False])
def test_the_audit_of_a_resolve_holds_what_was_before(ledger: Ledger, succeeded: bool) -> None:
    leave_unresolved(ledger)

    resolve(ledger, W1, "ada", "asked support", succeeded=succeeded, result={"by": "hand"} if succeeded else None)

    [entry] = audit_of(ledger, W1)
    assert (entry.actor, entry.note) == ("ada", "asked support")
    assert entry.action == ("resolve, succeeded" if succeeded else "resolve, failed")
    assert entry.detail == {
        "before": {
            "failure_reason": "unresolved",
            "outcome_unknown": True,
            "unknown_step": "charge",
            "progress": {"client": 5},
            "result": None,
        },
        "after": {
            "state": "succeeded" if succeeded else "failed",
            "failure_reason": None if succeeded else "rejected",
            "result": {"by": "hand"} if succeeded else None,
        },
    }


@pytest.mark.parametrize("succeeded", [True, False])
def test_children_are_released_if_the_parent_is_resolved_as_succeeded(ledger: Ledger, succeeded: bool) -> None:
    leave_unresolved(ledger)
    record_operations(ledger, "child", parent=W1)
    assert claim_due(ledger) == []

    resolve(ledger, W1, "ada", "asked support", succeeded=succeeded)

    assert names_of(claim_due(ledger)) == (["child"] if succeeded else [])


@pytest.mark.parametrize("action", ["resolved", "corrected"])
def test_only_a_failed_operation_can_be_resolved_or_corrected(ledger: Ledger, action: str) -> None:
    succeed_operation(ledger, "W1")
    fail_message(ledger, "m-1", "b2copy.fees.process", "no arguments", by="crm", raw="[]")

    def decide(key: str) -> None:
        if action == "resolved":
            resolve(ledger, key, "ada", "no", succeeded=True)
        else:
            correct(ledger, key, RIGHT, "ada", "no")

    with pytest.raises(NotAllowed, match=f"is succeeded: only a failed operation can be {action}"):
        decide(W1)
    with pytest.raises(NotAllowed, match="stores a message"):
        decide("message:m-1")
    with pytest.raises(NotAllowed, match="no such operation"):
        decide("fees.process:none")
    assert audit_of(ledger, W1) == []


@pytest.mark.parametrize("reason", [FailureReason.REJECTED, FailureReason.BAD_PAYLOAD, "fee_error"])
def test_a_corrected_operation_is_queued_with_the_new_payload(ledger: Ledger, reason: str) -> None:
    fail_operation(ledger, "W1", failure_reason=reason, time_allowed_s=100.0)

    corrected = correct(ledger, W1, RIGHT, "ada", "the login was mistyped")

    assert (corrected.state, corrected.failure_reason, corrected.payload) == (State.QUEUED, None, RIGHT)
    assert (corrected.counted_attempts, corrected.replays, corrected.phase) == (0, 1, Phase.SUBMIT)
    assert corrected.deadline_at == corrected.state_since + 100_000
    assert len(attempts_of(ledger, corrected.id)) == 1, "the earlier evidence is lost"
    assert claim_one(ledger).payload == RIGHT


def test_the_audit_of_a_correction_holds_both_payloads(ledger: Ledger) -> None:
    fail_operation(ledger, "W1", entity="7")

    correct(ledger, W1, RIGHT, "ada", "the login was mistyped", entity="8")

    [entry] = audit_of(ledger, W1)
    assert (entry.action, entry.actor, entry.note) == ("correct", "ada", "the login was mistyped")
    assert entry.detail == {
        "before": {"payload": WRONG, "entity": "7", "failure_reason": "rejected"},
        "after": {"payload": RIGHT, "entity": "8"},
    }
    assert find_operation(ledger, "W1").entity == "8"


def test_a_correction_forgets_the_progress_made_with_the_wrong_payload(ledger: Ledger) -> None:
    fail(ledger, hold_operation(ledger, "W1"), progress={"client": 5}, outcome_known=True)

    correct(ledger, W1, RIGHT, "ada", "the login was mistyped")

    assert find_operation(ledger, "W1").progress is None


def test_the_corrected_payload_is_what_the_key_now_stands_for(ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    correct(ledger, W1, RIGHT, "ada", "the login was mistyped")

    assert not record_operation(ledger, "W1", payload=RIGHT).created


def test_a_request_from_before_the_correction_is_the_same_operation(ledger: Ledger) -> None:
    """An import that was killed, `enqueue.many` and a redelivered message hold the payload from before it."""
    fail_operation(ledger, "W1")
    correct(ledger, W1, RIGHT, "ada", "the login was mistyped")
    before, other = new_operation("W1"), new_operation("W1", payload=WRONG | {"account_login": "9"})

    again = record(ledger, [before, new_operation("W2")], "a test")
    known = [known_among(ledger, {W1: row_of(new, "a test")})[W1] for new in (before, other)]

    assert [(one.key, one.created) for one in again] == [(W1, False), ("fees.process:W2", True)]
    assert known == [(State.QUEUED, ""), (State.QUEUED, "account_login")]
    assert find_operation(ledger, "W1").payload == RIGHT
    with ledger.writing() as connection:
        check_known(connection, [row_of(before, "a test")])
        with pytest.raises(PayloadConflict):
            check_known(connection, [row_of(other, "a test")])


def test_a_request_from_before_the_first_of_two_corrections_is_the_same_operation(ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    correct(ledger, W1, WRONG | {"account_login": "9"}, "ada", "mistyped")
    fail(ledger, claim_one(ledger))
    correct(ledger, W1, RIGHT, "ada", "mistyped again")

    again = [record_operation(ledger, "W1", payload=WRONG | {"account_login": login}) for login in "798"]

    assert not any(one.created for one in again)


def test_a_correction_of_an_operation_that_was_purged_says_nothing_of_the_next_one(ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    correct(ledger, W1, RIGHT, "ada", "the login was mistyped")
    with ledger.writing() as connection:
        connection.execute(text("DELETE FROM b2copy_operations"))
        connection.execute(text("UPDATE b2copy_audit SET at = at - 1000"))
    record_operation(ledger, "W1", payload=WRONG | {"account_login": "9"})

    with pytest.raises(PayloadConflict):
        record_operation(ledger, "W1")


def test_a_correction_that_was_erased_says_nothing(ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    correct(ledger, W1, RIGHT, "ada", "the login was mistyped")
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_audit SET detail = NULL"))

    with pytest.raises(PayloadConflict):
        record_operation(ledger, "W1")


@pytest.mark.parametrize("reason", [FailureReason.UNRESOLVED, FailureReason.EXHAUSTED, FailureReason.INTERNAL])
def test_an_operation_that_may_have_been_done_is_not_corrected(ledger: Ledger, reason: FailureReason) -> None:
    unknown = reason != FailureReason.EXHAUSTED
    fail(ledger, hold_operation(ledger, "W1"), failure_reason=reason, outcome_unknown=unknown)

    with pytest.raises(NotAllowed, match="resolve it first"):
        correct(ledger, W1, RIGHT, "ada", "the login was mistyped")

    assert find_operation(ledger, "W1").payload == WRONG


def test_a_correction_that_is_not_json_is_refused(ledger: Ledger) -> None:
    fail_operation(ledger, "W1")

    with pytest.raises(BadPayload, match="not JSON"):
        correct(ledger, W1, {"when": object()}, "ada", "no")

    assert find_operation(ledger, "W1").state == State.FAILED


def test_a_corrected_operation_goes_to_the_end_of_its_entitys_line(ledger: Ledger) -> None:
    fail_operation(ledger, "A1", entity="A")
    record_operations(ledger, "A2", entity="A")

    correct(ledger, "fees.process:A1", {"account_login": "8", "request_id": "A1"}, "ada", "mistyped")

    assert names_of(claim_due(ledger)) == ["A2"]


def test_what_was_never_sent_because_its_payload_names_no_login_can_be_resolved(ledger: Ledger) -> None:
    fail_operation(ledger, "1/7", kind="clients.register", payload={}, failure_reason=FailureReason.BAD_PAYLOAD)

    resolve(ledger, "clients.register:1/7", "ada", "registered by hand", succeeded=True, result={"client_id": 7})

    assert find_operation(ledger, "1/7", "clients.register").state == State.SUCCEEDED
    assert identity_of(ledger, "1", "7") is None


def test_a_message_that_could_not_be_used_is_closed_by_a_person_and_waits_for_nobody_any_more(ledger: Ledger) -> None:
    fail_message(ledger, "m-1", "b2copy.fees.process", "no arguments", by="crm", raw="[]")
    assert any("1 operation failed" in note for note in find_notes(overview(ledger)))

    closed = resolve(ledger, "message:m-1", "ada", "the CRM has requested it again", succeeded=False)

    assert (closed.state, closed.failure_reason, closed.result) == (State.CANCELLED, None, {"error": "no arguments"})
    assert closed.ended_at == closed.state_since
    assert overview(ledger).failed == []
    assert not any("failed" in note for note in find_notes(overview(ledger)))
    [entry] = audit_of(ledger, "message:m-1")
    assert (entry.action, entry.actor, entry.note) == (
        "resolve, cancelled",
        "ada",
        "the CRM has requested it again",
    )
    with pytest.raises(NotAllowed, match="is cancelled: only a failed operation can be resolved"):
        resolve(ledger, "message:m-1", "ada", "once more", succeeded=False)
    assert replay(ledger, ["message:m-1"], "ada", "it holds no operation", not_done=True) == []
