"""Late answers: what a holder knows although its lease was lost decides, unless a later request may have changed it."""

from typing import Any

import pytest
from sqlalchemy import text

from tests.operations import (
    LedgerClock,
    attempt_record,
    claim_due,
    claim_one,
    fail,
    find_operation,
    hold_operation,
    make_wait,
    names_of,
    record_operations,
    succeed,
)
from worker.ledger import LEASE_S, Ledger, attempts_of, audit_of, pause, replay, return_unsent, settle
from worker.ledger.operator_actions import resolve, stop_asking
from worker.ledger.pauses import resume
from worker.operation import Claim, FailureReason, OnUnknown, State, Transition, WaitReason

W1 = "fees.process:W1"


@pytest.fixture
def answered(ledger: Ledger) -> Claim:
    """A claim whose request has been answered, but whose holder cannot write the answer."""
    return hold_operation(ledger, "W1", owner="worker 1", on_unknown=OnUnknown.STOP, entity="7")


@pytest.fixture
def second(ledger: Ledger, clock: LedgerClock, answered: Claim) -> Claim:
    """The claim of the next holder, after the lease of the first has lapsed."""
    clock.advance(LEASE_S + 1)
    return claim_one(ledger, "worker 2")


def set_row(ledger: Ledger, values: str) -> None:
    with ledger.writing() as connection:
        connection.execute(text(f"UPDATE b2copy_operations SET {values} WHERE key = '{W1}'"))


def leave_unresolved(ledger: Ledger, claim: Claim) -> None:
    """Settle as the engine does what must not be repeated: nothing is sent."""
    unresolved = Transition(
        claim, State.FAILED, failure_reason=FailureReason.UNRESOLVED, outcome_unknown=True, unknown_step="charge"
    )
    assert settle(ledger, [unresolved]) == []


def done(claim: Claim) -> Transition:
    return Transition(claim, State.SUCCEEDED, result={"fee": "1.20"}, attempt=attempt_record(), outcome_known=True)


def rejected(claim: Claim) -> Transition:
    return Transition(
        claim, State.FAILED, failure_reason=FailureReason.REJECTED, attempt=attempt_record("no"), outcome_known=True
    )


def test_a_late_success_resolves_what_the_next_holder_left_unresolved(
    ledger: Ledger, answered: Claim, second: Claim
) -> None:
    leave_unresolved(ledger, second)

    assert settle(ledger, [done(answered)]) == [answered], "the claim was lost all the same"

    found = find_operation(ledger, "W1")
    assert (found.state, found.failure_reason, found.result) == (State.SUCCEEDED, None, {"fee": "1.20"})
    assert (found.outcome_unknown, found.unknown_step) == (False, None)
    [attempt] = attempts_of(ledger, answered.id)
    assert (attempt.outcome, attempt.late) == ("done", True)


def test_a_late_rejection_resolves_it_too(ledger: Ledger, answered: Claim, second: Claim) -> None:
    leave_unresolved(ledger, second)

    settle(ledger, [rejected(answered)])

    found = find_operation(ledger, "W1")
    assert (found.state, found.failure_reason, found.outcome_unknown) == (State.FAILED, FailureReason.REJECTED, False)


@pytest.mark.parametrize("is_done", [True, False])
def test_a_late_answer_leaves_nothing_of_what_the_holders_stored_for_a_next_attempt(
    ledger: Ledger, answered: Claim, second: Claim, is_done: bool
) -> None:
    unresolved = Transition(
        second, State.FAILED, failure_reason=FailureReason.UNRESOLVED, outcome_unknown=True, progress={"seen": 1}
    )
    settle(ledger, [unresolved])
    assert find_operation(ledger, "W1").progress == {"seen": 1}

    settle(ledger, [done(answered) if is_done else rejected(answered)])

    assert find_operation(ledger, "W1").progress is None


def test_a_late_answer_that_decides_is_stored_in_the_audit(ledger: Ledger, answered: Claim, second: Claim) -> None:
    leave_unresolved(ledger, second)

    settle(ledger, [done(answered)])

    [entry] = audit_of(ledger, W1)
    assert (entry.action, entry.actor) == ("late_answer", "worker 1")
    assert entry.detail is not None
    assert entry.detail["before"] == {"state": "failed", "failure_reason": "unresolved"}
    assert entry.detail["after"] == {"state": "succeeded", "failure_reason": None}


def test_a_late_success_is_final_while_the_next_holder_must_not_send(
    ledger: Ledger, answered: Claim, second: Claim
) -> None:
    record_operations(ledger, "W2", entity="7")

    settle(ledger, [done(answered)])

    assert find_operation(ledger, "W1").state == State.SUCCEEDED
    assert names_of(claim_due(ledger)) == ["W2"], "the entity's next operation was not released"
    assert succeed(ledger, second) == [second]


def test_a_late_success_releases_the_children(ledger: Ledger, answered: Claim, second: Claim) -> None:
    record_operations(ledger, "child", parent=W1)
    leave_unresolved(ledger, second)
    assert claim_due(ledger) == []

    settle(ledger, [done(answered)])

    assert names_of(claim_due(ledger)) == ["child"]


def test_a_late_rejection_does_not_end_what_another_process_holds(
    ledger: Ledger, answered: Claim, second: Claim
) -> None:
    settle(ledger, [rejected(answered)])

    assert find_operation(ledger, "W1").state == State.RUNNING
    assert succeed(ledger, second) == []


@pytest.mark.parametrize("how", ["returned unsent", "left to a newer version", "returned and parked", "paused"])
@pytest.mark.parametrize("is_done", [True, False])
def test_a_late_answer_decides_what_waits_and_must_not_be_sent_again(
    ledger: Ledger, answered: Claim, second: Claim, how: str, is_done: bool
) -> None:
    record_operations(ledger, "W2", entity="7")
    if how == "left to a newer version":
        make_wait(ledger, second, sent=False)
    else:
        return_unsent(ledger, [second])
    if how == "returned and parked":
        set_row(ledger, "wait_reason = 'behind_entity', due_at = due_at + 30000")
    if how == "paused":
        pause(ledger, "money", "ada", "month end")

    assert settle(ledger, [done(answered) if is_done else rejected(answered)]) == [answered]

    found = find_operation(ledger, "W1")
    assert (found.state, found.failure_reason, found.wait_reason, found.due_at, found.outcome_unknown) == (
        (State.SUCCEEDED if is_done else State.FAILED, None if is_done else "rejected", None, None, False)
    )
    [entry] = audit_of(ledger, W1)
    assert entry.detail is not None
    assert entry.detail["before"] == {"state": "waiting", "failure_reason": None}
    resume(ledger, "money", "ada", "month end")
    assert names_of(claim_due(ledger)) == ["W2"], "the entity's next operation was not released"


@pytest.mark.parametrize("on_unknown", [OnUnknown.START_OR_GET, OnUnknown.READ_BACK, OnUnknown.REPEAT])
def test_a_late_answer_does_not_end_what_waits_and_may_be_asked_about_or_sent_again(
    ledger: Ledger, clock: LedgerClock, on_unknown: OnUnknown
) -> None:
    answered = hold_operation(ledger, "W1", on_unknown=on_unknown)
    clock.advance(LEASE_S + 1)
    return_unsent(ledger, [claim_one(ledger, "worker 2")])

    settle(ledger, [done(answered)])

    assert find_operation(ledger, "W1").state == State.WAITING
    assert names_of(claim_due(ledger)) == ["W1"]


def test_a_late_answer_does_not_decide_if_a_later_answer_was_equal_to_one_before_it(
    ledger: Ledger, clock: LedgerClock
) -> None:
    """The evidence of equal answers in a row is one row. A lapsed claim between them ends the row."""
    wait: dict[str, Any] = {"wait_reason": WaitReason.BACKOFF, "due_in_s": 0.0, "outcome_unknown": True}
    make_wait(
        ledger, hold_operation(ledger, "W1", on_unknown=OnUnknown.STOP), attempt=attempt_record("no_answer"), **wait
    )
    answered = claim_one(ledger, "worker 1")
    clock.advance(LEASE_S + 1)
    return_unsent(ledger, [claim_one(ledger, "worker 2")])
    make_wait(ledger, claim_one(ledger, "worker 2"), attempt=attempt_record("no_answer"), **wait)

    settle(ledger, [rejected(answered)])

    assert find_operation(ledger, "W1").state == State.WAITING
    assert [one.times for one in attempts_of(ledger, answered.id)] == [1, 1, 1]


def test_a_late_answer_does_not_end_what_another_process_may_be_sending_again(
    ledger: Ledger, clock: LedgerClock
) -> None:
    answered = hold_operation(ledger, "W1", on_unknown=OnUnknown.START_OR_GET)
    clock.advance(LEASE_S + 1)
    second = claim_one(ledger, "worker 2")

    settle(ledger, [done(answered)])

    assert find_operation(ledger, "W1").state == State.RUNNING
    assert succeed(ledger, second) == []


@pytest.mark.parametrize("sent_by", ["an attempt that was settled", "a claim whose lease lapsed"])
def test_a_late_answer_does_not_decide_if_something_was_sent_after_it(
    ledger: Ledger, clock: LedgerClock, answered: Claim, second: Claim, sent_by: str
) -> None:
    if sent_by == "an attempt that was settled":
        fail(ledger, second, failure_reason=FailureReason.UNRESOLVED, outcome_unknown=True)
    else:
        clock.advance(LEASE_S + 1)
        leave_unresolved(ledger, claim_one(ledger, "worker 3"))

    settle(ledger, [done(answered)])

    assert find_operation(ledger, "W1").failure_reason == FailureReason.UNRESOLVED
    assert audit_of(ledger, W1) == []


@pytest.mark.parametrize(
    "settled",
    [
        {
            "state": State.WAITING, "wait_reason": WaitReason.BACKOFF, "due_in_s": 900.0, "outcome_unknown": True,
            "attempt": attempt_record("no_answer"),
        },
        {"state": State.FAILED, "failure_reason": FailureReason.INTERNAL, "outcome_unknown": True},
        {"state": State.FAILED, "failure_reason": FailureReason.UNRESOLVED, "outcome_known": True},
    ],
    ids=["waits after an attempt", "failed for another reason", "failed with an outcome that is known"],
)  # fmt: skip
def test_a_late_answer_does_not_decide_what_the_next_holder_has_settled_otherwise(
    ledger: Ledger, answered: Claim, second: Claim, settled: dict[str, Any]
) -> None:
    settle(ledger, [Transition(second, **settled)])
    before = find_operation(ledger, "W1")

    assert settle(ledger, [done(answered)]) == [answered]

    assert find_operation(ledger, "W1") == before
    assert audit_of(ledger, W1) == []


def test_a_holder_that_has_settled_changes_nothing_by_a_second_answer(ledger: Ledger, answered: Claim) -> None:
    leave_unresolved(ledger, answered)

    assert settle(ledger, [done(answered)]) == [answered]

    assert find_operation(ledger, "W1").failure_reason == FailureReason.UNRESOLVED
    assert audit_of(ledger, W1) == []


@pytest.mark.parametrize("decision", ["replay", "resolve", "stop_asking"])
def test_a_late_answer_does_not_change_what_a_person_decided(
    ledger: Ledger, answered: Claim, second: Claim, decision: str
) -> None:
    if decision == "stop_asking":
        make_wait(ledger, second, wait_reason=WaitReason.NO_SESSION, sent=False)
        stop_asking(ledger, W1, "ada", "support decides")
    else:
        leave_unresolved(ledger, second)
    if decision == "replay":
        replay(ledger, [W1], "ada", "looked: not there", not_done=True)
        leave_unresolved(ledger, claim_one(ledger))
    if decision == "resolve":
        resolve(ledger, W1, "ada", "looked: not there", succeeded=False)
    before = find_operation(ledger, "W1")

    settle(ledger, [done(answered)])

    assert find_operation(ledger, "W1") == before


@pytest.mark.parametrize("known", [False, True])
def test_only_a_final_answer_that_is_known_decides(ledger: Ledger, answered: Claim, second: Claim, known: bool) -> None:
    leave_unresolved(ledger, second)
    late = (
        Transition(answered, State.WAITING, WaitReason.PENDING_AT_B2COPY, due_in_s=1.0, outcome_known=True)
        if known
        else Transition(answered, State.FAILED, failure_reason=FailureReason.EXHAUSTED)
    )

    settle(ledger, [late])

    assert find_operation(ledger, "W1").failure_reason == FailureReason.UNRESOLVED
