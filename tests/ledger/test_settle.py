"""Settling: by the holder alone, whole or not at all, with evidence that neither lies nor grows without end."""

import time

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.ledger.actors import Clock, fail, look, names, on_sqlite, postpone, put, succeed, take, take_one, tried
from worker.ledger import LEASE_S, Ledger, attempts_of, purge, settle, settle_and_claim
from worker.operation import VERSION, FailureReason, State, Transition, WaitReason


def test_a_success_is_final_and_keeps_its_result(ledger: Ledger) -> None:
    put(ledger, "W1")
    held = take_one(ledger)

    lost = settle(ledger, [Transition(held, State.SUCCEEDED, result={"fee": "1.20"}, attempt=tried(counted=True))])

    found = look(ledger, "W1")
    assert lost == []
    assert (found.state, found.result, found.counted_attempts) == (State.SUCCEEDED, {"fee": "1.20"}, 1)
    assert (found.due_at, found.lease_owner, found.ended_at) == (None, None, found.state_since)
    assert take(ledger) == []


def test_a_failure_keeps_its_reason_and_b2copys_words(ledger: Ledger) -> None:
    put(ledger, "W1")
    held = take_one(ledger)
    evidence = tried("Rejected", http_status=422, message="no such account", request_id="W1")

    settle(ledger, [Transition(held, State.FAILED, failure_reason=FailureReason.REJECTED, attempt=evidence)])

    [kept] = attempts_of(ledger, held.id)
    assert (look(ledger, "W1").state, look(ledger, "W1").failure_reason) == (State.FAILED, FailureReason.REJECTED)
    assert (kept.http_status, kept.message, kept.request_id) == (422, "no such account", "W1")
    assert (kept.worker, kept.version, kept.duration_ms, kept.times) == ("worker 1", VERSION, 12, 1)


def test_what_waits_is_due_when_told(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "W1")

    postpone(ledger, *take(ledger), wait_reason=WaitReason.RATE_LIMITED, seconds=30)

    assert (look(ledger, "W1").state, look(ledger, "W1").wait_reason) == (State.WAITING, WaitReason.RATE_LIMITED)
    clock.passes(29)
    assert take(ledger) == []
    clock.passes(1.1)
    assert names(take(ledger)) == ["W1"]


def test_a_verdict_whose_lease_was_lost_changes_nothing_but_its_evidence_is_kept(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "W1")
    slow = take_one(ledger, "worker 1")
    clock.passes(LEASE_S + 1)
    held = take_one(ledger, "worker 2")

    lost = settle(
        ledger,
        [
            Transition(
                slow, State.FAILED, failure_reason=FailureReason.REJECTED, attempt=tried("Rejected", message="no")
            )
        ],
    )

    assert lost == [slow]
    assert look(ledger, "W1").state == State.RUNNING
    assert succeed(ledger, held) == []
    late, done = attempts_of(ledger, held.id)
    assert (late.outcome, late.message, late.late) == ("Rejected", "no", True)
    assert (done.outcome, done.late) == ("done", False)
    assert succeed(ledger, held) == [held], "settled twice"
    assert look(ledger, "W1").state == State.SUCCEEDED


def test_a_verdict_of_an_earlier_claim_by_the_same_worker_is_lost_too(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "W1")
    earlier = take_one(ledger, "worker 1")
    clock.passes(LEASE_S + 1)
    later = take_one(ledger, "worker 1")

    assert succeed(ledger, earlier) == [earlier]
    assert look(ledger, "W1").state == State.RUNNING
    assert succeed(ledger, later) == []


def test_a_verdict_about_what_has_been_purged_is_lost_without_harm_to_others(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "gone", "here")
    gone, here = take(ledger)
    succeed(ledger, gone)
    clock.passes(3600)
    purge(ledger, 60)

    assert succeed(ledger, gone, here) == [gone]
    assert look(ledger, "here").state == State.SUCCEEDED


def test_a_lapsed_lease_that_nobody_took_is_still_its_holders(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "W1")
    held = take_one(ledger)
    clock.passes(LEASE_S + 1)

    assert succeed(ledger, held) == []
    assert look(ledger, "W1").state == State.SUCCEEDED


def test_a_batch_is_settled_whole_or_not_at_all(ledger: Ledger) -> None:
    put(ledger, "W1", "W2")
    first, second = take(ledger)
    unkeepable = tried()._replace(outcome=None)

    with pytest.raises(DBAPIError):
        settle(ledger, [Transition(first, State.SUCCEEDED), Transition(second, State.SUCCEEDED, attempt=unkeepable)])

    assert [look(ledger, name).state for name in ("W1", "W2")] == [State.RUNNING] * 2
    assert succeed(ledger, first, second) == []


@on_sqlite
@pytest.mark.parametrize(
    "verdict",
    [
        {"state": State.QUEUED},
        {"state": State.CANCELLED},
        {"state": State.WAITING, "why": WaitReason.BACKOFF},
        {"state": State.WAITING, "due_in": 1.0},
        {"state": State.FAILED},
        {"state": State.SUCCEEDED, "reason": FailureReason.REJECTED},
        {"state": State.SUCCEEDED, "why": WaitReason.BACKOFF, "due_in": 1.0},
    ],
)
def test_a_verdict_that_the_table_does_not_know_is_an_error(ledger: Ledger, verdict: dict[str, object]) -> None:
    put(ledger, "W1")
    held = take_one(ledger)

    with pytest.raises(ValueError, match="a verdict is"):
        settle(ledger, [Transition(held, **verdict)])  # type: ignore[arg-type]

    assert look(ledger, "W1").state == State.RUNNING


def test_equal_answers_in_a_row_are_one_row_of_evidence(ledger: Ledger, clock: Clock) -> None:
    [recorded] = put(ledger, "W1")

    for _ in range(5):
        pending = tried("pending", http_status=200, message="PENDING")
        postpone(ledger, take_one(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, seconds=2, attempt=pending)
        clock.passes(3)
    postpone(ledger, take_one(ledger), seconds=2, attempt=tried("Unavailable", http_status=200, message="PENDING"))
    clock.passes(3)
    postpone(
        ledger,
        take_one(ledger),
        wait_reason=WaitReason.PENDING_AT_B2COPY,
        seconds=2,
        attempt=tried("pending", http_status=200),
    )

    kept = attempts_of(ledger, recorded.id)
    assert [(one.outcome, one.times) for one in kept] == [("pending", 5), ("Unavailable", 1), ("pending", 1)]
    assert kept[0].last_at is not None
    assert kept[0].last_at > kept[0].started_at
    assert look(ledger, "W1").polls == 6


def test_a_lapse_between_equal_answers_is_not_lost_among_them(ledger: Ledger, clock: Clock) -> None:
    [recorded] = put(ledger, "W1")
    postpone(ledger, take_one(ledger), seconds=1, attempt=tried("pending"))
    clock.passes(2)
    take(ledger)
    clock.passes(LEASE_S + 1)
    postpone(ledger, take_one(ledger), seconds=1, attempt=tried("pending"))

    assert [one.outcome for one in attempts_of(ledger, recorded.id)] == ["pending", "lease lapsed", "pending"]


def test_attempts_count_only_when_b2copy_answered_about_the_operation(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "W1")
    for counted in (True, False, True):
        postpone(ledger, take_one(ledger), seconds=1, attempt=tried("again", counted=counted))
        clock.passes(2)

    assert take_one(ledger).attempts == 2


@pytest.mark.parametrize("why", [WaitReason.BACKOFF, WaitReason.NO_SESSION, WaitReason.RATE_LIMITED])
def test_an_outcome_stays_unknown_while_b2copy_says_nothing_about_it(
    ledger: Ledger, clock: Clock, why: WaitReason
) -> None:
    put(ledger, "W1")
    postpone(ledger, take_one(ledger), seconds=1, outcome_unknown=True)
    clock.passes(2)

    postpone(ledger, take_one(ledger), wait_reason=why, seconds=1)

    clock.passes(2)
    assert take_one(ledger).outcome_unknown


def test_an_outcome_is_known_again_when_b2copy_says_how_it_stands(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "W1")
    postpone(ledger, take_one(ledger), seconds=1, outcome_unknown=True)
    clock.passes(2)

    postpone(ledger, take_one(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, seconds=1)

    clock.passes(2)
    assert not take_one(ledger).outcome_unknown


def test_what_waits_without_anything_sent_is_still_unsent(ledger: Ledger) -> None:
    put(ledger, "W1")

    postpone(ledger, take_one(ledger), wait_reason=WaitReason.NO_SESSION, sent=False)

    assert look(ledger, "W1").sent is False


def test_time_at_b2copy_is_not_ours(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "W1")
    postpone(ledger, take_one(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, seconds=1)
    clock.passes(60)
    postpone(ledger, take_one(ledger), wait_reason=WaitReason.BACKOFF, seconds=1)
    clock.passes(30)
    take(ledger)

    assert 60_000 <= look(ledger, "W1").external_wait_ms < 75_000


def test_b2copys_words_are_cut_and_cleaned(ledger: Ledger) -> None:
    [recorded] = put(ledger, "W1")

    succeeded = Transition(take_one(ledger), State.SUCCEEDED, attempt=tried(message="a\0b" + "x" * 10_000))
    settle(ledger, [succeeded])

    [kept] = attempts_of(ledger, recorded.id)
    assert kept.message is not None
    assert kept.message.startswith("a\ufffdbxxx")
    assert len(kept.message) == 2000


def test_evidence_is_dated_by_the_databases_clock(ledger: Ledger) -> None:
    [recorded] = put(ledger, "W1")
    with ledger.reading() as connection:
        earlier = text("SELECT requested_at FROM b2copy_operations")
        requested_at = connection.execute(earlier).scalar_one()
    held = take_one(ledger)
    started_at = round(time.time() * 1000)

    settle(ledger, [Transition(held, State.SUCCEEDED, attempt=tried()._replace(started_at=started_at))])

    [kept] = attempts_of(ledger, recorded.id)
    assert 0 <= kept.started_at - requested_at < 5_000


def test_a_turn_settles_and_claims_at_once(ledger: Ledger) -> None:
    put(ledger, "W1", "W2")
    [first] = take(ledger, limit=1)

    lost, claimed = settle_and_claim(ledger, [Transition(first, State.SUCCEEDED)], "money", "worker 1", 10)

    assert (lost, names(claimed)) == ([], ["W2"])
    assert look(ledger, "W1").state == State.SUCCEEDED
    assert settle_and_claim(ledger, [], "money", "worker 1", 10) == ([], [])


def test_nothing_that_failed_comes_back_by_itself(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "W1")
    fail(ledger, *take(ledger))
    clock.passes(10**6)

    assert take(ledger) == []
