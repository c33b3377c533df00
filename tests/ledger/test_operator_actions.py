"""What people decide about operations, and what the ledger does not allow."""

from collections.abc import Callable
from typing import Any

import pytest

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
from worker.errors import NotAllowed
from worker.flow.retry_policy import reason_when_overdue
from worker.ledger import (
    Ledger,
    attempts_of,
    audit_of,
    cancel,
    fail_message,
    poll_now,
    replay,
    search,
)
from worker.ledger.operator_actions import correct, stop_asking
from worker.operation import FailureReason, OnUnknown, Operation, Phase, State, WaitReason

W1 = "fees.process:W1"


def test_a_replay_queues_a_failed_operation_with_fresh_attempts_and_deadline(
    ledger: Ledger, clock: LedgerClock
) -> None:
    record_operations(ledger, "W1", time_allowed_s=100.0, on_unknown=OnUnknown.REPEAT)
    make_wait(ledger, claim_one(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=1)
    clock.advance(200)
    fail(ledger, claim_one(ledger), failure_reason=FailureReason.UNRESOLVED, outcome_unknown=True)

    assert replay(ledger, [W1], "ada", "B2COPY has corrected it") == [W1]

    found = find_operation(ledger, "W1")
    assert (found.state, found.failure_reason, found.polls, found.replays) == (State.QUEUED, None, 0, 1)
    assert found.deadline_at == found.state_since + 100_000
    claimed = claim_one(ledger)
    assert (claimed.outcome_unknown, claimed.sent, claimed.replays, claimed.overdue) == (True, True, 1, False)
    assert len(attempts_of(ledger, claimed.id)) == 1, "the earlier evidence is lost"


def test_a_replay_starts_from_the_beginning(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    counted = attempt_record("pending", counted=True)
    make_wait(
        ledger, claim_one(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=1, attempt=counted,
        outcome_known=True,
    )  # fmt: skip
    clock.advance(2)
    fail(ledger, claim_one(ledger), attempt=counted, outcome_known=True)

    replay(ledger, [W1], "ada", "again")

    claimed = claim_one(ledger)
    assert (claimed.counted_attempts, claimed.phase, claimed.last_wait_s) == (0, Phase.SUBMIT, 0)
    assert (claimed.last_answer, claimed.last_answer_fence) == (None, None)


def test_a_replay_is_stored_in_the_audit(ledger: Ledger) -> None:
    record_operations(ledger, "W1")
    fail(ledger, claim_one(ledger))

    replay(ledger, [W1], "ada", "corrected")

    [entry] = audit_of(ledger, W1)
    assert (entry.action, entry.actor, entry.note, entry.subject) == ("replay", "ada", "corrected", W1)
    assert entry.at >= find_operation(ledger, "W1").requested_at


def test_a_replay_requested_twice_is_one_replay(ledger: Ledger) -> None:
    record_operations(ledger, "W1")
    fail(ledger, claim_one(ledger))

    assert replay(ledger, [W1, W1], "ada", "corrected") == [W1]
    assert replay(ledger, [W1], "bob", "corrected") == []
    assert find_operation(ledger, "W1").replays == 1


def test_an_operation_that_must_not_be_done_twice_is_replayed_only_if_a_person_says_that_it_was_not_done(
    ledger: Ledger,
) -> None:
    record_operations(ledger, "W1", on_unknown=OnUnknown.STOP)
    fail(ledger, claim_one(ledger), failure_reason=FailureReason.UNRESOLVED, outcome_unknown=True)

    assert replay(ledger, [W1], "ada", "again") == []
    assert replay(ledger, [W1], "ada", "looked: nothing there", not_done=True) == [W1]

    assert claim_one(ledger).outcome_unknown is False
    assert [entry.action for entry in audit_of(ledger, W1)] == ["replay, was not done"]


def begin_and_fail(ledger: Ledger, clock: LedgerClock, failure_reason: str, **fields: Any) -> None:
    """B2COPY begins an operation, and then it fails without an answer that tells what B2COPY did."""
    record_operations(ledger, "W1", **fields)
    pending: dict[str, Any] = {"wait_reason": WaitReason.PENDING_AT_B2COPY, "due_in_s": 1, "outcome_known": True}
    make_wait(ledger, claim_one(ledger), **pending)
    clock.advance(2)
    fail(ledger, claim_one(ledger), failure_reason=failure_reason)


@pytest.mark.parametrize("failure_reason", [FailureReason.UNRESOLVED, FailureReason.INTERNAL])
def test_a_replay_of_what_the_destination_had_begun_does_not_forget_that(
    ledger: Ledger, clock: LedgerClock, failure_reason: str
) -> None:
    begin_and_fail(ledger, clock, failure_reason)
    with pytest.raises(NotAllowed, match="not certain that the destination did nothing"):
        correct(ledger, W1, {"account_login": "8", "request_id": "W1"}, "ada", "typo")

    replay(ledger, [W1], "ada", "again")

    claimed = claim_one(ledger)
    assert (claimed.phase, claimed.outcome_unknown) == (Phase.SUBMIT, True)
    assert reason_when_overdue(claimed) == FailureReason.UNRESOLVED


def test_what_the_destination_had_begun_and_must_not_repeat_is_replayed_only_if_it_was_not_done(
    ledger: Ledger, clock: LedgerClock
) -> None:
    begin_and_fail(ledger, clock, FailureReason.UNRESOLVED, on_unknown=OnUnknown.STOP)

    assert replay(ledger, [W1], "ada", "again") == []
    assert replay(ledger, [W1], "ada", "looked: nothing there", not_done=True) == [W1]

    assert claim_one(ledger).outcome_unknown is False


def test_polling_now_does_not_forget_that_the_destination_has_begun_it(ledger: Ledger) -> None:
    record_operations(ledger, "W1")
    make_wait(ledger, claim_one(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=3600)

    poll_now(ledger, W1, "ada")

    claimed = claim_one(ledger)
    assert claimed.phase == Phase.POLL
    assert reason_when_overdue(claimed) == FailureReason.UNRESOLVED


def test_only_failed_operations_are_replayed(ledger: Ledger) -> None:
    record_operations(ledger, "W1", "W2")
    succeed(ledger, *claim_due(ledger, limit=1))
    fail_message(ledger, "m-1", "b2copy.fees.process", "no arguments", by="crm", raw="[]")

    assert replay(ledger, [W1, "fees.process:W2", "message:m-1", "fees.process:none"], "ada", "all of them") == []
    assert (find_operation(ledger, "W1").state, find_operation(ledger, "W2").state) == (State.SUCCEEDED, State.QUEUED)


@pytest.mark.parametrize("waiting", [False, True])
def test_an_operation_that_was_never_sent_can_be_cancelled(ledger: Ledger, waiting: bool) -> None:
    record_operations(ledger, "W1")
    if waiting:
        make_wait(ledger, claim_one(ledger), wait_reason=WaitReason.NO_SESSION, sent=False)

    cancelled = cancel(ledger, W1, "ada", "the client changed their mind")

    assert (cancelled.state, cancelled.due_at) == (State.CANCELLED, None)
    assert claim_due(ledger) == []
    assert [entry.action for entry in audit_of(ledger, W1)] == ["cancel"]


def test_an_operation_that_may_have_been_sent_cannot_be_cancelled(ledger: Ledger) -> None:
    record_operations(ledger, "W1")
    claimed = claim_one(ledger)
    with pytest.raises(NotAllowed, match="may be under way"):
        cancel(ledger, W1, "ada", "no")
    make_wait(ledger, claimed)

    with pytest.raises(NotAllowed, match="may have reached the destination"):
        cancel(ledger, W1, "ada", "no")

    assert find_operation(ledger, "W1").state == State.WAITING
    assert audit_of(ledger, W1) == []


def test_a_replayed_operation_cannot_be_cancelled(ledger: Ledger) -> None:
    record_operations(ledger, "W1")
    fail(ledger, claim_one(ledger))
    replay(ledger, [W1], "ada", "again")

    with pytest.raises(NotAllowed):
        cancel(ledger, W1, "ada", "no")


def test_asking_about_an_operation_that_was_sent_can_be_stopped(ledger: Ledger) -> None:
    record_operations(ledger, "W1")
    make_wait(ledger, claim_one(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY)

    ended = stop_asking(ledger, W1, "ada", "support settles it by hand")

    assert (ended.state, ended.failure_reason, ended.outcome_unknown) == (State.FAILED, FailureReason.UNRESOLVED, True)
    assert [entry.action for entry in audit_of(ledger, W1)] == ["stop_asking"]


def test_an_operation_that_is_not_sent_or_is_running_cannot_be_ended_by_stop_asking(ledger: Ledger) -> None:
    record_operations(ledger, "W1")
    with pytest.raises(NotAllowed, match="cancel it"):
        stop_asking(ledger, W1, "ada", "no")
    claim_due(ledger)

    with pytest.raises(NotAllowed, match="under way"):
        stop_asking(ledger, W1, "ada", "no")


@pytest.mark.parametrize("decide", [cancel, stop_asking])
def test_a_final_or_unknown_operation_is_not_changed(ledger: Ledger, decide: Callable[..., Operation]) -> None:
    record_operations(ledger, "W1")
    succeed(ledger, claim_one(ledger))

    with pytest.raises(NotAllowed, match="succeeded already"):
        decide(ledger, W1, "ada", "no")
    with pytest.raises(NotAllowed, match="no such operation"):
        decide(ledger, "fees.process:none", "ada", "no")


@pytest.mark.parametrize("decide", [cancel, stop_asking])
def test_an_operation_that_a_person_ends_releases_its_entity(ledger: Ledger, decide: Callable[..., Operation]) -> None:
    record_operations(ledger, "W1", "W2", entity="123456")
    make_wait(ledger, claim_one(ledger), sent=decide is stop_asking)
    assert claim_due(ledger) == []

    decide(ledger, W1, "ada", "enough")

    assert names_of(claim_due(ledger)) == ["W2"]


def test_poll_now_makes_a_waiting_operation_due(ledger: Ledger) -> None:
    record_operations(ledger, "W1")
    make_wait(ledger, claim_one(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=3600)

    assert poll_now(ledger, W1, "ann", "B2COPY was slow")

    assert names_of(claim_due(ledger)) == ["W1"]
    assert not poll_now(ledger, W1, "ann", "B2COPY was slow"), "a running operation does not wait"
    [entry] = audit_of(ledger, W1)
    assert (entry.action, entry.actor, entry.note) == ("poll now", "ann", "B2COPY was slow")


def test_search_finds_operations_by_state_reason_kind_lane_and_time(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "old")
    fail(ledger, claim_one(ledger), failure_reason="fee_error")
    clock.advance(1000)
    record_operations(ledger, "rejected", "erred", lane="bulk")
    first, second = claim_due(ledger, lane="bulk")
    fail(ledger, first, failure_reason=FailureReason.REJECTED)
    fail(ledger, second, failure_reason="fee_error")
    record_operations(ledger, "queued")

    def found(**asked: object) -> list[str]:
        return [one.key.partition(":")[2] for one in search(ledger, **asked)]  # type: ignore[arg-type]

    assert found() == ["queued", "erred", "rejected", "old"]
    assert found(state=State.FAILED) == ["erred", "rejected", "old"]
    assert found(failure_reason="fee_error") == ["erred", "old"]
    assert found(failure_reason="fee_error", since=find_operation(ledger, "erred").requested_at) == ["erred"]
    assert found(lane="money", limit=1) == ["queued"]
    assert found(before=find_operation(ledger, "rejected").id) == ["old"]
    assert found(kind="call") == []


def test_a_replay_forgets_how_long_the_last_wait_was(ledger: Ledger, clock: LedgerClock) -> None:
    make_wait(ledger, hold_operation(ledger, "W1"), due_in_s=900)
    clock.advance(901)
    waited = claim_one(ledger)
    assert waited.last_wait_s == 900
    fail(ledger, waited)

    replay(ledger, ["fees.process:W1"], "ada", "the cause is removed")

    assert claim_one(ledger).last_wait_s == 0, "its next back-off begins from the first step"
