"""From what an attempt learned to what becomes of the operation."""

import logging
import time
from dataclasses import replace
from typing import Any

import pytest

from tests.flow.conftest import tried
from worker.errors import (
    AccessRejected,
    BadPayload,
    Conflict,
    CredentialsRejected,
    NotFound,
    RateLimited,
    Rejected,
    SessionUnavailable,
    StoreUnavailable,
    Unavailable,
    UnknownOutcome,
)
from worker.flow.retry_policy import BACKOFF_MAX, RetryPolicy
from worker.operation import AttemptRecord, Claim, FailureReason, Outcome, State, WaitReason


def claimed(**more: Any) -> Claim:
    fresh: dict[str, Any] = {
        "id": 1,
        "key": "fees.process:W1",
        "kind": "fees.process",
        "payload": {},
        "lane": "money",
        "entity": None,
        "owner": "worker 1",
        "fence": 1,
        "attempts": 0,
        "asks": 0,
        "replays": 0,
        "unknown": False,
        "sent": False,
        "repeatable": True,
        "requested_at": 0,
        "deadline": None,
        "lease_until": time.monotonic() + 10,
        "was": State.QUEUED,
        "why": None,
        "waited": 0.0,
        "last": None,
        "last_fence": None,
    }
    return Claim(**fresh | more)


def test_done_is_succeeded_with_its_result(policy: RetryPolicy) -> None:
    verdict = policy.after(claimed(), Outcome("done", {"id": 7}), tried())

    assert (verdict.state, verdict.result) == (State.SUCCEEDED, {"id": 7})


def test_an_error_of_the_fee_run_is_for_a_person(policy: RetryPolicy) -> None:
    verdict = policy.after(claimed(), Outcome("fee_error", words="no money"), tried())

    assert (verdict.state, verdict.failure_reason) == (State.FAILED, "fee_error")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (Unavailable("x"), WaitReason.BACKOFF),
        (Unavailable("x", 503), WaitReason.BACKOFF),
        (RateLimited("x", 429), WaitReason.RATE_LIMITED),
        (SessionUnavailable("x"), WaitReason.NO_SESSION),
        (StoreUnavailable("x"), WaitReason.NO_SESSION),
        (CredentialsRejected("x", 401), WaitReason.NO_SESSION),
        (UnknownOutcome("x"), WaitReason.BACKOFF),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
@pytest.mark.parametrize("attempts", [0, 1_000_000])
def test_what_is_not_about_the_operation_waits_however_often(
    policy: RetryPolicy, error: Exception, why: WaitReason, attempts: int
) -> None:
    verdict = policy.after(claimed(attempts=attempts), error, tried(counted=False))

    assert (verdict.state, verdict.wait_reason) == (State.WAITING, why)
    assert verdict.due_in is not None
    assert 0 < verdict.due_in <= 30


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Rejected("x", 422), FailureReason.REJECTED),
        (NotFound("x", 404), FailureReason.REJECTED),
        (Conflict("x", 409), FailureReason.REJECTED),
        (AccessRejected("x", 403), FailureReason.REJECTED),
        (BadPayload("x"), FailureReason.BAD_PAYLOAD),
        (KeyError("x"), FailureReason.INTERNAL),
        (RecursionError("x"), FailureReason.INTERNAL),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_what_would_fail_again_is_for_a_person(policy: RetryPolicy, error: Exception, reason: FailureReason) -> None:
    verdict = policy.after(claimed(), error, tried())

    assert (verdict.state, verdict.failure_reason) == (State.FAILED, reason)


def test_our_own_fault_is_reported_with_where_it_happened(
    policy: RetryPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        policy.after(claimed(), KeyError("where"), tried())

    assert "fees.process:W1" in caplog.text
    assert "KeyError: 'where'" in caplog.text


def test_answers_that_ask_to_try_again_are_counted_until_exhausted(policy: RetryPolicy) -> None:
    error = UnknownOutcome("an answer about another request", 200)

    verdicts = [policy.after(claimed(attempts=attempts), error, tried(counted=True)) for attempts in range(3)]

    assert [verdict.state for verdict in verdicts] == [State.WAITING, State.WAITING, State.FAILED]
    assert verdicts[-1].failure_reason is FailureReason.EXHAUSTED
    assert all(verdict.outcome_unknown for verdict in verdicts)


def test_an_unknown_outcome_of_what_may_not_be_repeated_is_unresolved(policy: RetryPolicy) -> None:
    verdict = policy.after(claimed(on_unknown=OnUnknown.STOP), UnknownOutcome("x"), tried())

    assert (verdict.state, verdict.failure_reason, verdict.outcome_unknown) == (
        State.FAILED,
        FailureReason.UNRESOLVED,
        True,
    )


@pytest.mark.parametrize(
    "learned",
    [Outcome("pending"), Unavailable("x"), RateLimited("x", 429), CredentialsRejected("x", 401), UnknownOutcome("x")],
    ids=lambda learned: type(learned).__name__,
)
def test_what_would_wait_beyond_its_deadline_is_unresolved(policy: RetryPolicy, learned: Any) -> None:
    late = claimed(deadline=time.monotonic() - 0.01)

    verdict = policy.after(late, learned, tried())

    assert (verdict.state, verdict.failure_reason) == (State.FAILED, FailureReason.UNRESOLVED)


@pytest.mark.parametrize(
    ("learned", "state"), [(Outcome("done"), State.SUCCEEDED), (Outcome("fee_error"), State.FAILED)]
)
def test_a_final_answer_counts_however_late(policy: RetryPolicy, learned: Outcome, state: State) -> None:
    verdict = policy.after(claimed(deadline=time.monotonic() - 1), learned, tried())

    assert verdict.state is state
    assert verdict.failure_reason is not FailureReason.UNRESOLVED


@pytest.mark.parametrize("error", [RateLimited("x", 429, None, 77.0), Unavailable("x", 503, None, 77.0)])
def test_retry_after_is_a_floor(policy: RetryPolicy, error: Exception) -> None:
    assert policy.after(claimed(), error, tried()).due_in == 77.0


def test_a_short_retry_after_does_not_shorten_the_wait(policy: RetryPolicy) -> None:
    due_in = policy.after(claimed(), RateLimited("x", 429, None, 0.001), tried()).due_in

    assert due_in is not None
    assert due_in >= 1.0


def test_backing_off_grows_with_jitter_and_is_capped(policy: RetryPolicy) -> None:
    def wait(after: float) -> float:
        verdict = policy.after(claimed(wait_reason=WaitReason.BACKOFF, waited=after), Unavailable("x"), tried())
        assert verdict.due_in is not None
        return verdict.due_in

    first = [wait(0.0) for _ in range(200)]
    later = [wait(3.0) for _ in range(200)]
    longest = [wait(1000.0) for _ in range(200)]

    assert set(first) == {1.0}
    assert max(later) > 5
    assert len(set(later)) > 100
    assert max(later) <= 9
    assert max(longest) <= BACKOFF_MAX <= 30


def test_polls_widen_from_two_seconds_to_sixty(policy: RetryPolicy) -> None:
    waits: list[float] = []
    claim = claimed()
    for _ in range(12):
        verdict = policy.after(claim, Outcome("pending"), tried())
        assert (verdict.state, verdict.wait_reason) == (State.WAITING, WaitReason.PENDING_AT_B2COPY)
        assert verdict.due_in is not None
        waits.append(verdict.due_in)
        claim = claimed(wait_reason=WaitReason.PENDING_AT_B2COPY, waited=verdict.due_in)

    assert waits[:3] == [2.0, 3.0, 4.5]
    assert waits == sorted(waits)
    assert waits[-1] == 60.0


def test_polls_begin_anew_after_an_outage(policy: RetryPolicy) -> None:
    verdict = policy.after(claimed(wait_reason=WaitReason.BACKOFF, waited=10.0), Outcome("pending"), tried())

    assert verdict.due_in == 2.0


def test_polls_are_stretched_beyond_their_schedule_when_there_are_too_many(policy: RetryPolicy) -> None:
    took: list[float] = []

    def stretch(seconds: float) -> float:
        took.append(seconds)
        return 600.0

    verdict = replace(policy, stretch=stretch).after(claimed(), Outcome("pending"), tried(duration=250))

    assert verdict.due_in == 600.0
    assert took == [0.25]


def test_every_verdict_carries_its_evidence(policy: RetryPolicy) -> None:
    evidence: AttemptRecord = tried(words="said")
    for learned in (Outcome("done"), Outcome("pending"), Unavailable("x"), Rejected("x"), KeyError("x")):
        assert policy.after(claimed(), learned, evidence).attempt is evidence
