"""Settle: only the holder decides, a batch is written completely or not at all, and equal answers are one row."""

import time

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from tests.ledger.databases import on_sqlite
from tests.operations import (
    LedgerClock,
    attempt_record,
    claim_due,
    claim_one,
    fail,
    find_operation,
    hold_operation,
    lose_answer_to_next_commit,
    make_wait,
    names_of,
    record_operation,
    record_operations,
    succeed,
)
from worker.ledger import LEASE_S, Ledger, attempts_of, purge, return_unsent, settle, settle_and_claim
from worker.operation import (
    MESSAGE_LIMIT,
    VERSION,
    Claim,
    FailureReason,
    OnUnknown,
    State,
    Step,
    Transition,
    WaitReason,
)


def test_a_success_is_final_and_stores_its_result(ledger: Ledger) -> None:
    record_operations(ledger, "W1")
    claimed = claim_one(ledger)

    lost = settle(
        ledger, [Transition(claimed, State.SUCCEEDED, result={"fee": "1.20"}, attempt=attempt_record(counted=True))]
    )

    found = find_operation(ledger, "W1")
    assert lost == []
    assert (found.state, found.result, found.counted_attempts) == (State.SUCCEEDED, {"fee": "1.20"}, 1)
    assert (found.due_at, found.lease_owner, found.ended_at) == (None, None, found.state_since)
    assert claim_due(ledger) == []


def test_a_failure_stores_its_reason_and_the_server_message(ledger: Ledger) -> None:
    record_operations(ledger, "W1")
    claimed = claim_one(ledger)
    evidence = attempt_record("rejected", http_status=422, message="no such account", request_id="W1")

    settle(ledger, [Transition(claimed, State.FAILED, failure_reason=FailureReason.REJECTED, attempt=evidence)])

    [stored] = attempts_of(ledger, claimed.id)
    assert (find_operation(ledger, "W1").state, find_operation(ledger, "W1").failure_reason) == (
        State.FAILED,
        FailureReason.REJECTED,
    )
    assert (stored.http_status, stored.message, stored.request_id) == (422, "no such account", "W1")
    assert (stored.worker, stored.version, stored.duration_ms, stored.times) == ("worker 1", VERSION, 12, 1)


def test_a_waiting_operation_is_due_when_its_wait_ends(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")

    make_wait(ledger, *claim_due(ledger), wait_reason=WaitReason.RATE_LIMITED, due_in_s=30)

    assert (find_operation(ledger, "W1").state, find_operation(ledger, "W1").wait_reason) == (
        State.WAITING,
        WaitReason.RATE_LIMITED,
    )
    clock.advance(29)
    assert claim_due(ledger) == []
    clock.advance(1.1)
    assert names_of(claim_due(ledger)) == ["W1"]


def test_a_transition_whose_lease_was_lost_changes_no_state_and_its_evidence_is_stored_as_late(
    ledger: Ledger, clock: LedgerClock
) -> None:
    record_operations(ledger, "W1")
    slow = claim_one(ledger, "worker 1")
    clock.advance(LEASE_S + 1)
    claimed = claim_one(ledger, "worker 2")

    lost = settle(
        ledger,
        [
            Transition(
                slow,
                State.FAILED,
                failure_reason=FailureReason.REJECTED,
                attempt=attempt_record("rejected", message="no"),
            )
        ],
    )

    assert lost == [slow]
    assert find_operation(ledger, "W1").state == State.RUNNING
    assert succeed(ledger, claimed) == []
    late, done = attempts_of(ledger, claimed.id)
    assert (late.outcome, late.message, late.late) == ("rejected", "no", True)
    assert (done.outcome, done.late) == ("done", False)
    assert succeed(ledger, claimed) == [claimed], "settled twice"
    assert find_operation(ledger, "W1").state == State.SUCCEEDED


def test_a_transition_of_the_owners_earlier_claim_is_lost_too(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    earlier = claim_one(ledger, "worker 1")
    clock.advance(LEASE_S + 1)
    later = claim_one(ledger, "worker 1")

    assert succeed(ledger, earlier) == [earlier]
    assert find_operation(ledger, "W1").state == State.RUNNING
    assert succeed(ledger, later) == []


def test_a_transition_of_a_purged_operation_is_lost_and_the_others_are_written(
    ledger: Ledger, clock: LedgerClock
) -> None:
    record_operations(ledger, "gone", "here")
    gone, here = claim_due(ledger)
    succeed(ledger, gone)
    clock.advance(3600)
    purge(ledger, 60)

    assert succeed(ledger, gone, here) == [gone]
    assert find_operation(ledger, "here").state == State.SUCCEEDED


def test_a_holder_whose_lease_lapsed_may_settle_while_nobody_has_claimed_the_operation(
    ledger: Ledger, clock: LedgerClock
) -> None:
    record_operations(ledger, "W1")
    claimed = claim_one(ledger)
    clock.advance(LEASE_S + 1)

    assert succeed(ledger, claimed) == []
    assert find_operation(ledger, "W1").state == State.SUCCEEDED


def test_a_batch_is_settled_completely_or_not_at_all(ledger: Ledger) -> None:
    record_operations(ledger, "W1", "W2")
    first, second = claim_due(ledger)
    impossible = attempt_record()._replace(outcome=None)  # type: ignore[arg-type]

    with pytest.raises(DBAPIError):
        settle(ledger, [Transition(first, State.SUCCEEDED), Transition(second, State.SUCCEEDED, attempt=impossible)])

    assert [find_operation(ledger, name).state for name in ("W1", "W2")] == [State.RUNNING] * 2
    assert succeed(ledger, first, second) == []


@on_sqlite
@pytest.mark.parametrize(
    "transition",
    [
        {"state": State.QUEUED},
        {"state": State.CANCELLED},
        {"state": State.WAITING, "wait_reason": WaitReason.BACKOFF},
        {"state": State.WAITING, "due_in_s": 1.0},
        {"state": State.FAILED},
        {"state": State.SUCCEEDED, "failure_reason": FailureReason.REJECTED},
        {"state": State.SUCCEEDED, "wait_reason": WaitReason.BACKOFF, "due_in_s": 1.0},
    ],
)
def test_a_transition_that_the_table_of_moves_does_not_allow_is_an_error(
    ledger: Ledger, transition: dict[str, object]
) -> None:
    record_operations(ledger, "W1")
    claimed = claim_one(ledger)

    with pytest.raises(ValueError, match="a transition is"):
        settle(ledger, [Transition(claimed, **transition)])  # type: ignore[arg-type]

    assert find_operation(ledger, "W1").state == State.RUNNING


def test_equal_answers_in_a_row_are_one_row_of_evidence(ledger: Ledger, clock: LedgerClock) -> None:
    [recorded] = record_operations(ledger, "W1")

    for _ in range(5):
        pending = attempt_record("pending", http_status=200, message="PENDING")
        make_wait(ledger, claim_one(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=2, attempt=pending)
        clock.advance(3)
    make_wait(
        ledger, claim_one(ledger), due_in_s=2, attempt=attempt_record("not_sent", http_status=200, message="PENDING")
    )
    clock.advance(3)
    make_wait(
        ledger,
        claim_one(ledger),
        wait_reason=WaitReason.PENDING_AT_B2COPY,
        due_in_s=2,
        attempt=attempt_record("pending", http_status=200),
    )

    stored = attempts_of(ledger, recorded.id)
    assert [(one.outcome, one.times) for one in stored] == [("pending", 5), ("not_sent", 1), ("pending", 1)]
    assert stored[0].last_at is not None
    assert stored[0].last_at > stored[0].started_at
    assert find_operation(ledger, "W1").polls == 6


def test_a_lapsed_lease_between_equal_answers_is_a_row_of_its_own(ledger: Ledger, clock: LedgerClock) -> None:
    [recorded] = record_operations(ledger, "W1")
    make_wait(ledger, claim_one(ledger), due_in_s=1, attempt=attempt_record("pending"))
    clock.advance(2)
    claim_due(ledger)
    clock.advance(LEASE_S + 1)
    make_wait(ledger, claim_one(ledger), due_in_s=1, attempt=attempt_record("pending"))

    assert [one.outcome for one in attempts_of(ledger, recorded.id)] == ["pending", "lease_lapsed", "pending"]


def test_only_attempts_that_were_answered_about_the_operation_are_counted(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    for counted in (True, False, True):
        make_wait(ledger, claim_one(ledger), due_in_s=1, attempt=attempt_record("again", counted=counted))
        clock.advance(2)

    assert claim_one(ledger).counted_attempts == 2


@pytest.mark.parametrize("wait_reason", [WaitReason.BACKOFF, WaitReason.NO_SESSION, WaitReason.RATE_LIMITED])
def test_an_outcome_stays_unknown_until_an_answer_tells_how_the_operation_stands(
    ledger: Ledger, clock: LedgerClock, wait_reason: WaitReason
) -> None:
    record_operations(ledger, "W1")
    make_wait(ledger, claim_one(ledger), due_in_s=1, outcome_unknown=True)
    clock.advance(2)

    make_wait(ledger, claim_one(ledger), wait_reason=wait_reason, due_in_s=1)

    clock.advance(2)
    assert claim_one(ledger).outcome_unknown


def test_an_outcome_is_known_when_an_answer_tells_how_the_operation_stands(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    make_wait(ledger, claim_one(ledger), due_in_s=1, outcome_unknown=True)
    clock.advance(2)

    make_wait(ledger, claim_one(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=1, outcome_known=True)

    clock.advance(2)
    assert not claim_one(ledger).outcome_unknown


def test_an_operation_that_waits_without_a_request_is_not_sent(ledger: Ledger) -> None:
    record_operations(ledger, "W1")

    make_wait(ledger, claim_one(ledger), wait_reason=WaitReason.NO_SESSION, sent=False)

    assert find_operation(ledger, "W1").sent is False


def test_the_time_spent_pending_at_the_destination_is_external_wait(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    make_wait(ledger, claim_one(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=1)
    clock.advance(60)
    make_wait(ledger, claim_one(ledger), wait_reason=WaitReason.BACKOFF, due_in_s=1)
    clock.advance(30)
    claim_due(ledger)

    assert 60_000 <= find_operation(ledger, "W1").external_wait_ms < 75_000


def test_a_server_message_is_shortened_and_holds_no_nul(ledger: Ledger) -> None:
    [recorded] = record_operations(ledger, "W1")

    succeeded = Transition(claim_one(ledger), State.SUCCEEDED, attempt=attempt_record(message="a\0b" + "x" * 10_000))
    settle(ledger, [succeeded])

    [stored] = attempts_of(ledger, recorded.id)
    assert stored.message is not None
    assert stored.message.startswith("a\ufffdbxxx")
    assert len(stored.message) == MESSAGE_LIMIT


def test_evidence_is_dated_by_the_databases_clock_if_the_workers_clock_is_wrong(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = hold_operation(ledger, "W1")
    an_hour_ahead = time.time() + 3600
    monkeypatch.setattr("worker.ledger.attempt_evidence.time", lambda: an_hour_ahead)

    succeed_at = attempt_record(started_at=round(an_hour_ahead * 1000))
    settle(ledger, [Transition(claimed, State.SUCCEEDED, attempt=succeed_at)])

    [stored] = attempts_of(ledger, claimed.id)
    assert 0 <= stored.started_at - find_operation(ledger, "W1").requested_at < 60_000


def test_one_transaction_settles_and_claims(ledger: Ledger) -> None:
    record_operations(ledger, "W1", "W2")
    [first] = claim_due(ledger, limit=1)

    lost, claims = settle_and_claim(ledger, [Transition(first, State.SUCCEEDED)], "money", "worker 1", 10)

    assert (lost, names_of(claims)) == ([], ["W2"])
    assert find_operation(ledger, "W1").state == State.SUCCEEDED
    assert settle_and_claim(ledger, [], "money", "worker 1", 10) == ([], [])


def test_claims_of_a_commit_without_an_answer_can_be_returned_unsent(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1", "W2", on_unknown=OnUnknown.STOP)
    make_wait(ledger, *claim_due(ledger, limit=1), wait_reason=WaitReason.RATE_LIMITED, due_in_s=1)
    clock.advance(2)
    uncertain: list[Claim] = []
    lose_answer_to_next_commit(ledger)

    with pytest.raises(OperationalError):
        settle_and_claim(ledger, [], "money", "worker 1", 10, uncertain)

    assert {find_operation(ledger, name).state for name in ("W1", "W2")} == {State.RUNNING}
    return_unsent(ledger, uncertain)
    assert find_operation(ledger, "W1").wait_reason == WaitReason.RATE_LIMITED
    assert find_operation(ledger, "W2").state == State.QUEUED
    claimed = claim_due(ledger)
    assert sorted((each.key, each.outcome_unknown) for each in claimed) == [
        ("fees.process:W1", False), ("fees.process:W2", False),
    ]  # fmt: skip
    return_unsent(ledger, uncertain)  # a second time: they have been claimed again since
    assert {find_operation(ledger, name).state for name in ("W1", "W2")} == {State.RUNNING}


def test_what_was_claimed_is_certain_after_a_commit_and_after_a_transaction_that_failed(ledger: Ledger) -> None:
    record_operation(ledger, "W1")
    uncertain: list[Claim] = []
    impossible = Transition(claim_one(ledger), State.WAITING)

    with pytest.raises(ValueError, match="a transition is"):
        settle_and_claim(ledger, [impossible], "money", "worker 1", 10, uncertain)
    assert uncertain == []

    record_operation(ledger, "W2")
    _, claims = settle_and_claim(ledger, [], "money", "worker 1", 10, uncertain)
    assert (names_of(claims), uncertain) == (["W2"], [])


def test_a_failed_operation_is_never_claimed(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    fail(ledger, *claim_due(ledger))
    clock.advance(10**6)

    assert claim_due(ledger) == []


STEP = Step("find client", 12, 200, "answered")


def test_progress_unknown_step_and_steps_are_read_back(ledger: Ledger, clock: LedgerClock) -> None:
    claimed = hold_operation(ledger, "W1")
    evidence = attempt_record("no_answer", steps=(STEP, Step("create account", 3000, None, "no_answer")))

    make_wait(
        ledger, claimed, attempt=evidence, progress={"client": 5}, outcome_unknown=True, unknown_step="create account"
    )

    found = find_operation(ledger, "W1")
    assert (found.progress, found.unknown_step, found.outcome_unknown) == ({"client": 5}, "create account", True)
    [stored] = attempts_of(ledger, claimed.id)
    assert stored.steps == evidence.steps
    clock.advance(60)
    again = claim_one(ledger)
    assert (again.progress, again.unknown_step) == ({"client": 5}, "create account")


def test_a_transition_without_progress_keeps_what_an_earlier_attempt_stored(ledger: Ledger, clock: LedgerClock) -> None:
    make_wait(ledger, hold_operation(ledger, "W1"), progress={"client": 5}, due_in_s=1)
    clock.advance(2)

    make_wait(ledger, claim_one(ledger), due_in_s=1)
    clock.advance(2)
    fail(ledger, claim_one(ledger))

    assert find_operation(ledger, "W1").progress == {"client": 5}


@pytest.mark.parametrize("cleared_by", ["an empty dict", "success"])
def test_progress_is_cleared_by_an_empty_dict_or_success(ledger: Ledger, clock: LedgerClock, cleared_by: str) -> None:
    make_wait(ledger, hold_operation(ledger, "W1"), progress={"client": 5}, due_in_s=1)
    clock.advance(2)
    claimed = claim_one(ledger)

    if cleared_by == "success":
        settle(ledger, [Transition(claimed, State.SUCCEEDED, progress={"client": 5})])
    else:
        make_wait(ledger, claimed, progress={})

    assert find_operation(ledger, "W1").progress is None


def test_too_much_progress_is_an_error(ledger: Ledger) -> None:
    claimed = hold_operation(ledger, "W1")

    with pytest.raises(ValueError, match="progress has"):
        make_wait(ledger, claimed, progress={"text": "x" * (4097 - len('{"text": ""}'))})

    assert find_operation(ledger, "W1").state == State.RUNNING
    assert make_wait(ledger, claimed, progress={"text": "x" * (4096 - len('{"text": ""}'))}) == []


def test_the_unknown_step_is_forgotten_when_the_outcome_is_known(ledger: Ledger, clock: LedgerClock) -> None:
    make_wait(ledger, hold_operation(ledger, "W1"), due_in_s=1, outcome_unknown=True, unknown_step="charge")
    clock.advance(2)

    make_wait(ledger, claim_one(ledger), outcome_known=True)

    assert find_operation(ledger, "W1").unknown_step is None


def test_equal_answers_with_other_steps_are_rows_of_their_own(ledger: Ledger, clock: LedgerClock) -> None:
    recorded = record_operation(ledger, "W1")
    failed = STEP._replace(http_status=500, outcome="server_error")
    for steps in ((STEP,), (STEP._replace(duration_ms=99),), (STEP, failed), (failed,)):
        make_wait(ledger, claim_one(ledger), due_in_s=1, attempt=attempt_record("later", steps=steps))
        clock.advance(2)

    assert [(one.times, len(one.steps)) for one in attempts_of(ledger, recorded.id)] == [(2, 1), (1, 2), (1, 1)]


def test_the_final_answer_is_a_row_of_its_own(ledger: Ledger, clock: LedgerClock) -> None:
    """Even if it equals the answers before: what ended an operation is never merged with what did not."""
    recorded = record_operation(ledger, "W1")
    equal = attempt_record("unclear", http_status=200, message="?")
    for _ in range(2):
        make_wait(ledger, claim_one(ledger), due_in_s=1, attempt=equal)
        clock.advance(2)

    fail(ledger, claim_one(ledger), failure_reason=FailureReason.EXHAUSTED, attempt=equal)

    assert [(one.outcome, one.times) for one in attempts_of(ledger, recorded.id)] == [("unclear", 2), ("unclear", 1)]


def test_late_evidence_does_not_replace_what_the_holder_wrote(ledger: Ledger) -> None:
    """The answer to a COMMIT was lost, so the holder writes the same transition again."""
    claimed = hold_operation(ledger, "W1")
    succeed(ledger, claimed)

    assert fail(ledger, claimed, attempt=attempt_record("again")) == [claimed]

    [stored] = attempts_of(ledger, claimed.id)
    assert (stored.outcome, stored.late, stored.times) == ("done", False, 1)


@pytest.mark.parametrize("is_equal", [True, False])
def test_a_commit_whose_answer_was_lost_is_no_late_answer(ledger: Ledger, clock: LedgerClock, is_equal: bool) -> None:
    make_wait(ledger, hold_operation(ledger, "W1"), due_in_s=1, attempt=attempt_record("pending"))
    clock.advance(2)
    claimed = claim_one(ledger)
    attempt = attempt_record("pending" if is_equal else "not_sent")
    lose_answer_to_next_commit(ledger)
    with pytest.raises(OperationalError):
        make_wait(ledger, claimed, due_in_s=1, attempt=attempt)
    written = find_operation(ledger)

    assert make_wait(ledger, claimed, due_in_s=1, attempt=attempt) == []

    stored = [(one.outcome, one.times, one.late) for one in attempts_of(ledger, claimed.id)]
    assert stored == ([("pending", 2, False)] if is_equal else [("pending", 1, False), ("not_sent", 1, False)])
    assert find_operation(ledger) == written


@pytest.mark.parametrize("moved_by", ["a late answer", "an unreadable row", "a newer notice", "the next claim"])
def test_the_evidence_of_a_claim_that_another_has_ended_is_late(
    ledger: Ledger, clock: LedgerClock, moved_by: str
) -> None:
    """The fence of the row is still that of the claim in all cases but the last."""
    make_wait(ledger, hold_operation(ledger, "W1", on_unknown=OnUnknown.STOP), attempt=attempt_record("pending"))
    clock.advance(60)
    first = claim_one(ledger)
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_operations SET due_at = 1"))
    if moved_by == "a late answer":
        claimed = claim_one(ledger, "worker 2")
        assert succeed(ledger, first) == [first]
    else:
        claimed = first
    if moved_by == "an unreadable row":
        with ledger.writing() as connection:
            connection.execute(text("UPDATE b2copy_operations SET payload = '{'"))
        assert claim_due(ledger, "worker 2") == []
    if moved_by == "a newer notice":
        with ledger.writing() as connection:
            cancelled = "state = 'cancelled', due_at = NULL, lease_owner = NULL, ended_at = 1"
            connection.execute(text(f"UPDATE b2copy_operations SET {cancelled}"))
    if moved_by == "the next claim":
        make_wait(ledger, claim_one(ledger, "worker 2"), attempt=attempt_record("pending"))

    assert make_wait(ledger, claimed, attempt=attempt_record("pending")) == [claimed]

    assert [one.late for one in attempts_of(ledger, claimed.id) if one.outcome == "pending"].count(True) == 1


def test_a_rejection_makes_the_outcome_known(ledger: Ledger, clock: LedgerClock) -> None:
    make_wait(ledger, hold_operation(ledger, "W1"), due_in_s=1, outcome_unknown=True, unknown_step="charge")
    clock.advance(2)

    fail(ledger, claim_one(ledger), outcome_known=True)

    found = find_operation(ledger, "W1")
    assert (found.outcome_unknown, found.unknown_step) == (False, None)


def test_a_server_message_with_half_a_surrogate_pair_can_be_stored(ledger: Ledger) -> None:
    claimed = hold_operation(ledger, "W1")

    settle(ledger, [Transition(claimed, State.SUCCEEDED, attempt=attempt_record(message="Ада \ud83d"))])

    [stored] = attempts_of(ledger, claimed.id)
    assert stored.message == "Ада ?"


def test_an_answer_that_it_is_pending_ends_the_count_of_those_that_decide_nothing(ledger: Ledger) -> None:
    record_operations(ledger, "W1")
    undecided = attempt_record("unclear_answer", counted=True)
    for _ in range(2):
        make_wait(ledger, claim_one(ledger), due_in_s=0.0, attempt=undecided)
    held = claim_one(ledger)
    pending = attempt_record("pending", counted=False)

    make_wait(ledger, held, wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=0.0, attempt=pending)

    assert held.counted_attempts == 2
    assert claim_one(ledger).counted_attempts == 0
