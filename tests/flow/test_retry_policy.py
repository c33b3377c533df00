"""From what an attempt learned to what becomes of the operation."""

import itertools
import logging
import time
from typing import Any

import pytest

from tasks.notices import WAITS_S
from tests.flow.conftest import a_claim
from tests.operations import attempt_record
from worker.errors import (
    AccessRejected,
    B2CopyError,
    BadPayload,
    CircuitOpen,
    Conflict,
    CredentialsRejected,
    LeaseTooShort,
    NoSeamlessUrl,
    NotFound,
    NotFromB2Copy,
    OtherLoginUnavailable,
    PermitRefused,
    RateLimited,
    ReadExpired,
    Rejected,
    SessionUnavailable,
    StoreUnavailable,
    Unavailable,
    UnknownOutcome,
)
from worker.flow.meaning_table import Counted, meaning_of
from worker.flow.retry_policy import BACKOFF_MAX_S, Finished, RetryPolicy, counts, next_wait_s
from worker.operation import (
    Claim,
    Done,
    Failed,
    FailureReason,
    Later,
    OnUnknown,
    Outcome,
    Pending,
    Phase,
    State,
    Transition,
    WaitReason,
)
from worker.operation_kind import PollSchedule

START_OR_GET, READ_BACK, REPEAT, STOP = OnUnknown

EVERY_ERROR: list[Exception] = [
    AccessRejected("x", 403), BadPayload("x"), CircuitOpen("x"), Conflict("x", 409), CredentialsRejected("x"),
    LeaseTooShort("x"), NotFound("x", 404), NotFromB2Copy("x", 404), PermitRefused("x"), RateLimited("x", 429),
    ReadExpired("x"), Rejected("x", 400), SessionUnavailable("x"), StoreUnavailable("x"), Unavailable("x"),
    Unavailable("x", 500), Unavailable("x", 503), UnknownOutcome("x"), UnknownOutcome("x", 200),
]  # fmt: skip


def finished(claim: Claim, learned: Outcome | Exception, **fields: Any) -> Finished:
    """Return an attempt of one call that has ended like this."""
    meaning = meaning_of(learned)
    is_counted = fields.pop("counted", meaning.counted is Counted.YES)
    ended = Finished(
        claim=claim,
        on_unknown=claim.on_unknown,
        learned=learned,
        meaning=meaning,
        record=attempt_record(meaning.word, counted=is_counted),
        polls=PollSchedule(2.0, 60.0),
        unknown_step="processext" if meaning.outcome == "unknown" else None,
        progress=claim.progress,
        sent=meaning.may_have_left,
    )
    return ended._replace(**fields)


def decide(policy: RetryPolicy, learned: Outcome | Exception, **fields: Any) -> Transition:
    """Decide about an operation whose claim has these fields."""
    return policy.decide(finished(a_claim(**fields), learned))


def summary(transition: Transition) -> str:
    reason = transition.failure_reason or transition.wait_reason
    return f"{transition.state} {reason}" if reason else str(transition.state)


# What becomes of an operation, by what it permits, when an earlier request's outcome was known or unknown.
# Columns: start_or_get, read_back, repeat, stop.
TABLE: list[tuple[Outcome | Exception, bool, tuple[str, str, str, str]]] = [
    (Done(), False, ("succeeded",) * 4),
    (Done(), True, ("succeeded",) * 4),
    (Pending(), False, ("waiting pending_at_b2copy",) * 4),
    (Pending(), True, ("waiting pending_at_b2copy",) * 4),
    (Failed("fee_error"), False, ("failed fee_error",) * 4),
    (Failed("fee_error"), True, ("failed fee_error",) * 4),
    (Later(5.0), False, ("waiting next_step",) * 4),
    (Later(5.0), True, ("waiting next_step",) * 4),
    (RateLimited("x", 429), False, ("waiting rate_limited",) * 4),
    (RateLimited("x", 429), True, ("waiting rate_limited",) * 4),
    (CredentialsRejected("x", 401), False, ("waiting no_session",) * 4),
    (SessionUnavailable("x"), True, ("waiting no_session",) * 4),
    (StoreUnavailable("x"), False, ("waiting no_session",) * 4),
    (OtherLoginUnavailable("x"), False, ("waiting no_other_login",) * 4),
    (NoSeamlessUrl("x", 403), False, ("waiting no_seamless_url",) * 4),
    (AccessRejected("x", 403), False, ("waiting no_access",) * 4),
    (AccessRejected("x", 403), True, ("waiting no_access",) * 4),
    (NotFromB2Copy("x", 404), False, ("waiting backoff",) * 4),
    (NotFromB2Copy("x", 404), True, ("waiting backoff",) * 4),
    (CircuitOpen("x"), False, ("waiting circuit_open",) * 4),
    (PermitRefused("x"), False, ("waiting rate_limited",) * 4),
    (LeaseTooShort("x"), False, ("waiting backoff",) * 4),
    (ReadExpired("x"), False, ("waiting backoff",) * 4),
    (Unavailable("x"), False, ("waiting backoff",) * 4),
    (Unavailable("x"), True, ("waiting backoff",) * 4),
    (Unavailable("x", 503), False, ("waiting backoff",) * 4),
    (Unavailable("x", 503), True, ("waiting backoff",) * 4),
    (Unavailable("x", 500), False, ("waiting backoff", "waiting backoff", "waiting backoff", "failed unresolved")),
    (UnknownOutcome("x"), False, ("waiting backoff", "waiting backoff", "waiting backoff", "failed unresolved")),
    (UnknownOutcome("x"), True, ("waiting backoff", "waiting backoff", "waiting backoff", "failed unresolved")),
    (UnknownOutcome("x", 200), False, ("waiting backoff", "waiting backoff", "waiting backoff", "failed unresolved")),
    (Rejected("x", 422), False, ("failed rejected",) * 4),
    (Rejected("x", 422), True, ("failed unresolved", "waiting backoff", "failed unresolved", "failed unresolved")),
    (NotFound("x", 404), False, ("failed rejected",) * 4),
    (NotFound("x", 404), True, ("failed unresolved", "waiting backoff", "failed unresolved", "failed unresolved")),
    (Conflict("x", 409), False, ("waiting backoff", "failed rejected", "failed rejected", "failed rejected")),
    (Conflict("x", 409), True, ("waiting backoff", "waiting backoff", "failed unresolved", "failed unresolved")),
    (BadPayload("x"), False, ("failed bad_payload",) * 4),
    (KeyError("x"), False, ("failed internal",) * 4),
    (KeyError("x"), True, ("failed internal",) * 4),
]


@pytest.mark.parametrize("column", range(4), ids=[str(one) for one in OnUnknown])
@pytest.mark.parametrize(
    ("learned", "was_unknown", "expected"),
    TABLE,
    ids=[
        f"{type(row[0]).__name__}-{getattr(row[0], 'status', '')}-{'unknown' if row[1] else 'known'}" for row in TABLE
    ],
)
def test_each_outcome_becomes_what_the_operation_permits(
    policy: RetryPolicy,
    learned: Outcome | Exception,
    was_unknown: bool,
    expected: tuple[str, str, str, str],
    column: int,
) -> None:
    transition = decide(policy, learned, on_unknown=list(OnUnknown)[column], outcome_unknown=was_unknown)

    assert summary(transition) == expected[column]


@pytest.mark.parametrize(
    ("learned", "is_known", "is_unknown"),
    [
        (Done(), True, False),
        (Pending(), True, False),
        (Failed("fee_error"), True, False),
        (Later(1.0), False, False),
        (RateLimited("x", 429), False, False),
        (Unavailable("x", 503), False, False),
        (UnknownOutcome("x"), False, True),
        (Unavailable("x", 500), False, True),
        (Rejected("x", 422), True, False),
        (BadPayload("x"), False, False),
        (KeyError("x"), False, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_transition_says_whether_the_outcome_is_known(
    policy: RetryPolicy, learned: Outcome | Exception, is_known: bool, is_unknown: bool
) -> None:
    transition = decide(policy, learned)

    assert (transition.outcome_known, transition.outcome_unknown) == (is_known, is_unknown)
    assert transition.unknown_step == ("processext" if is_unknown else None)


def test_a_known_outcome_ends_what_an_earlier_call_of_the_attempt_left_unknown(policy: RetryPolicy) -> None:
    transition = policy.decide(finished(a_claim(), Pending(), unknown_step="create"))

    assert (transition.outcome_known, transition.outcome_unknown) == (True, False)


def test_a_refusal_that_follows_a_lost_call_of_the_same_attempt_proves_nothing(policy: RetryPolicy) -> None:
    claim = a_claim(on_unknown=STOP)

    transition = policy.decide(finished(claim, Rejected("x", 422), unknown_step="create"))

    assert (summary(transition), transition.unknown_step) == ("failed unresolved", "create")


@pytest.mark.parametrize("begun", [{"phase": Phase.POLL}, {"outcome_unknown": True}, {}], ids=str)
def test_a_409_to_a_call_that_starts_or_gets_decides_nothing(policy: RetryPolicy, begun: dict[str, Any]) -> None:
    waiting, last = (
        policy.decide(finished(a_claim(on_unknown=START_OR_GET, counted_attempts=attempts, **begun), Conflict("x")))
        for attempts in (0, 2)
    )

    assert (summary(waiting), summary(last)) == ("waiting backoff", "failed exhausted")
    assert {waiting.outcome_known, last.outcome_known} == {False}


@pytest.mark.parametrize("learned", [Rejected("x", 422), NotFound("x", 404)], ids=repr)
def test_a_refusal_of_a_poll_does_not_say_that_what_has_begun_has_ended(
    policy: RetryPolicy, learned: Exception
) -> None:
    transition = policy.decide(finished(a_claim(phase=Phase.POLL), learned, unknown_step=None))

    assert (summary(transition), transition.outcome_unknown) == ("failed unresolved", True)
    assert not transition.outcome_known


def test_a_call_without_an_effect_may_be_lost_whatever_the_operation_permits(policy: RetryPolicy) -> None:
    transition = policy.decide(finished(a_claim(on_unknown=STOP), UnknownOutcome("x"), unknown_step=None))

    assert (summary(transition), transition.outcome_unknown) == ("waiting backoff", False)


def test_done_stores_its_result(policy: RetryPolicy) -> None:
    assert decide(policy, Done({"id": 7})).result == {"id": 7}


def test_our_own_fault_is_logged_with_its_traceback(policy: RetryPolicy, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        decide(policy, KeyError("where"))

    assert "fees.process:W1" in caplog.text
    assert "KeyError: 'where'" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("x"),
        Unavailable("x", 500),
        RateLimited("x", 429),
        SessionUnavailable("x"),
        CredentialsRejected("x", 401),
        AccessRejected("x", 403),
        NotFromB2Copy("x", 404),
        UnknownOutcome("x"),
        UnknownOutcome("x", 200),
    ],
    ids=lambda error: f"{type(error).__name__}-{error.status}",
)
def test_trouble_that_everybody_has_fails_no_operation_however_often(policy: RetryPolicy, error: B2CopyError) -> None:
    transition = decide(policy, error, counted_attempts=1_000_000)

    assert transition.state == State.WAITING
    assert transition.due_in_s is not None
    assert 0 < transition.due_in_s <= BACKOFF_MAX_S


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnknownOutcome("x", 200), FailureReason.EXHAUSTED),
        (AccessRejected("x", 403), FailureReason.REJECTED),
        (NotFromB2Copy("x", 404), FailureReason.REJECTED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_answers_about_one_operation_are_counted_up_to_the_limit(
    policy: RetryPolicy, error: B2CopyError, reason: FailureReason
) -> None:
    transitions = [
        policy.decide(finished(a_claim(counted_attempts=attempts), error, counted=True)) for attempts in range(3)
    ]

    assert [one.state for one in transitions] == [State.WAITING, State.WAITING, State.FAILED]
    assert transitions[-1].failure_reason == reason


def test_a_403_counts_only_after_another_403_and_while_others_are_served() -> None:
    refused = meaning_of(AccessRejected("x", 403))
    first, again = a_claim(), a_claim(wait_reason=WaitReason.NO_ACCESS)

    assert not counts(first, refused, others_are_served=True)
    assert not counts(again, refused, others_are_served=False)
    assert counts(again, refused, others_are_served=True)


def test_refusals_count_and_outages_do_not() -> None:
    claim = a_claim(wait_reason=WaitReason.BACKOFF)

    assert counts(claim, meaning_of(Rejected("x", 422)), others_are_served=False)
    assert not counts(claim, meaning_of(Unavailable("x", 500)), others_are_served=True)


def test_reading_back_after_refusals_ends_as_exhausted(policy: RetryPolicy) -> None:
    claim = a_claim(on_unknown=READ_BACK, outcome_unknown=True, counted_attempts=2)

    transition = policy.decide(finished(claim, Conflict("x", 409)))

    assert transition.failure_reason == FailureReason.EXHAUSTED


WAITS = [
    Unavailable("x"),
    RateLimited("x", 429),
    CredentialsRejected("x", 401),
    Later(1.0),
    AccessRejected("x", 403),
    NotFromB2Copy("x", 404),
]


@pytest.mark.parametrize("on_unknown", OnUnknown)
def test_the_last_403_proves_nothing_about_an_earlier_request(policy: RetryPolicy, on_unknown: OnUnknown) -> None:
    claim = a_claim(
        outcome_unknown=True, unknown_step="create", on_unknown=on_unknown, counted_attempts=11,
        wait_reason=WaitReason.NO_ACCESS,
    )  # fmt: skip

    transition = policy.decide(finished(claim, AccessRejected("x", 403), counted=True))

    assert summary(transition) == "failed unresolved"
    assert not transition.outcome_known


@pytest.mark.parametrize(
    "begun", [{"phase": Phase.POLL}, {"progress": {"client_id": 7}}, {"outcome_unknown": True}], ids=str
)
@pytest.mark.parametrize("on_unknown", OnUnknown)
def test_a_proxys_last_404_proves_nothing_about_what_may_have_begun(
    policy: RetryPolicy, on_unknown: OnUnknown, begun: dict[str, Any]
) -> None:
    claim = a_claim(counted_attempts=11, on_unknown=on_unknown, wait_reason=WaitReason.BACKOFF, **begun)

    transition = policy.decide(finished(claim, NotFromB2Copy("x", 404), counted=True))

    assert (summary(transition), transition.outcome_known) == ("failed unresolved", False)


@pytest.mark.parametrize("begun", [{"phase": Phase.POLL}, {"progress": {"client_id": 7}}], ids=str)
def test_the_last_403_proves_nothing_about_what_has_begun(policy: RetryPolicy, begun: dict[str, Any]) -> None:
    claim = a_claim(counted_attempts=11, wait_reason=WaitReason.NO_ACCESS, **begun)

    transition = policy.decide(finished(claim, AccessRejected("x", 403), counted=True))

    assert (summary(transition), transition.outcome_known) == ("failed unresolved", False)


def test_a_part_done_in_this_attempt_is_no_refusal_of_the_whole(policy: RetryPolicy) -> None:
    claim = a_claim(counted_attempts=11, wait_reason=WaitReason.NO_ACCESS)
    last = finished(claim, AccessRejected("x", 403), counted=True, progress={"client_id": 7})

    assert summary(policy.decide(last)) == "failed unresolved"


def test_what_has_begun_after_its_deadline_has_an_unknown_outcome(policy: RetryPolicy) -> None:
    transition = decide(policy, Pending(), deadline=0.0)

    assert (summary(transition), transition.outcome_unknown) == ("failed unresolved", True)


EVERY_OUTCOME = [Done(), Pending(), Failed("fee_error"), Later(1.0), *EVERY_ERROR, ValueError("ours")]


@pytest.mark.parametrize("learned", EVERY_OUTCOME, ids=lambda learned: type(learned).__name__)
def test_every_outcome_is_decided_whatever_the_operation_has_behind_it(
    policy: RetryPolicy, learned: Outcome | Exception
) -> None:
    for on_unknown, unknown, counted, attempts, deadline, step in itertools.product(
        OnUnknown, (False, True), (False, True), (0, 11, 12), (None, 0.0), (None, "create")
    ):
        claim = a_claim(
            outcome_unknown=unknown, on_unknown=on_unknown, counted_attempts=attempts, deadline=deadline,
            unknown_step="create" if unknown else None,
        )  # fmt: skip

        transition = policy.decide(finished(claim, learned, counted=counted, unknown_step=step))

        assert transition.state in {State.SUCCEEDED, State.FAILED, State.WAITING}
        if unknown or step:  # an operation that may have been done is not called undone
            assert transition.failure_reason not in {FailureReason.REJECTED, FailureReason.EXPIRED}


@pytest.mark.parametrize("learned", WAITS, ids=lambda learned: type(learned).__name__)
def test_an_operation_that_was_never_started_expires_at_its_deadline(
    policy: RetryPolicy, learned: Outcome | Exception
) -> None:
    late = a_claim(deadline=time.monotonic() - 0.01)

    transition = policy.decide(finished(late, learned))

    assert summary(transition) == "failed expired"


@pytest.mark.parametrize("learned", WAITS, ids=lambda learned: type(learned).__name__)
@pytest.mark.parametrize(
    "begun", [{"outcome_unknown": True}, {"phase": Phase.POLL}, {"progress": {"client_id": 7}}], ids=str
)
def test_an_operation_that_may_have_been_done_is_unresolved_at_its_deadline(
    policy: RetryPolicy, learned: Outcome | Exception, begun: dict[str, Any]
) -> None:
    late = a_claim(deadline=time.monotonic() - 0.01, **begun)

    assert summary(policy.decide(finished(late, learned))) == "failed unresolved"


@pytest.mark.parametrize("learned", [Pending(), UnknownOutcome("x"), Unavailable("x", 500)], ids=repr)
def test_what_this_attempt_started_is_unresolved_at_the_deadline(
    policy: RetryPolicy, learned: Outcome | Exception
) -> None:
    late = a_claim(deadline=time.monotonic() - 0.01)

    assert summary(policy.decide(finished(late, learned))) == "failed unresolved"


@pytest.mark.parametrize(
    ("learned", "expected"), [(Done(), "succeeded"), (Failed("fee_error"), "failed fee_error")], ids=str
)
def test_a_final_answer_counts_however_late(policy: RetryPolicy, learned: Outcome, expected: str) -> None:
    assert summary(decide(policy, learned, deadline=time.monotonic() - 1)) == expected


@pytest.mark.parametrize("error", [RateLimited("x", 429, None, 77.0), Unavailable("x", 503, None, 77.0)], ids=repr)
def test_retry_after_is_the_least_wait(policy: RetryPolicy, error: Exception) -> None:
    assert decide(policy, error).due_in_s == 77.0


def test_a_short_retry_after_does_not_shorten_the_wait(policy: RetryPolicy) -> None:
    due_in_s = decide(policy, RateLimited("x", 429, None, 0.001)).due_in_s

    assert due_in_s is not None
    assert due_in_s >= 1.0


def test_back_off_grows_with_jitter_up_to_its_maximum(policy: RetryPolicy) -> None:
    def wait_after(last_wait_s: float) -> float:
        waiting = decide(policy, Unavailable("x"), wait_reason=WaitReason.BACKOFF, last_wait_s=last_wait_s)
        assert waiting.due_in_s is not None
        return waiting.due_in_s

    first = [wait_after(0.0) for _ in range(200)]
    later = [wait_after(3.0) for _ in range(200)]
    longest = [wait_after(1000.0) for _ in range(200)]

    assert set(first) == {1.0}
    assert 5 < max(later) <= 9
    assert len(set(later)) > 100
    assert max(longest) <= BACKOFF_MAX_S <= 30


def test_polls_widen_from_two_seconds_to_sixty(policy: RetryPolicy) -> None:
    waits: list[float] = []
    claim = a_claim()
    for _ in range(12):
        waiting = policy.decide(finished(claim, Pending()))
        assert waiting.due_in_s is not None
        waits.append(waiting.due_in_s)
        claim = a_claim(wait_reason=WaitReason.PENDING_AT_B2COPY, last_wait_s=waiting.due_in_s)

    assert waits[:3] == [2.0, 3.0, 4.5]
    assert waits == sorted(waits)
    assert waits[-1] == 60.0


def test_polls_start_over_after_an_outage(policy: RetryPolicy) -> None:
    assert decide(policy, Pending(), wait_reason=WaitReason.BACKOFF, last_wait_s=10.0).due_in_s == 2.0


def test_polls_are_spaced_further_when_there_are_too_many() -> None:
    durations: list[float] = []

    def spacing_s(duration_s: float) -> float:
        durations.append(duration_s)
        return 600.0

    transition = decide(RetryPolicy(3, spacing_s), Pending())

    assert transition.due_in_s == 600.0
    assert durations == [0.012]


def test_later_waits_as_long_as_the_kind_says_and_stores_its_progress(policy: RetryPolicy) -> None:
    transition = policy.decide(finished(a_claim(), Later(7.5), progress={"client_id": 7}))

    assert (summary(transition), transition.due_in_s) == ("waiting next_step", 7.5)
    assert transition.progress == {"client_id": 7}


def test_progress_survives_whatever_becomes_of_an_unfinished_operation(policy: RetryPolicy) -> None:
    for learned in (Later(1.0), Unavailable("x"), UnknownOutcome("x"), Rejected("x", 422), KeyError("x"), Pending()):
        assert decide(policy, learned, progress={"client_id": 7}).progress == {"client_id": 7}


def test_every_transition_carries_its_evidence(policy: RetryPolicy) -> None:
    for learned in (Done(), Pending(), Unavailable("x"), Rejected("x"), KeyError("x"), Later(1.0), BadPayload("x")):
        attempt = finished(a_claim(), learned)
        assert policy.decide(attempt).attempt is attempt.record


def test_a_kind_with_waits_of_its_own_waits_longer_after_each_attempt(policy: RetryPolicy) -> None:
    waits_s: list[float] = []
    for _ in range(12):
        claim = a_claim(wait_reason=WaitReason.BACKOFF, last_wait_s=waits_s[-1] if waits_s else 0.0)
        decided = policy.decide(finished(claim, Unavailable("notice", 500), waits_s=WAITS_S))
        assert decided.due_in_s is not None
        waits_s.append(decided.due_in_s)

    assert waits_s[:8] == [1, 5, 15, 60, 300, 900, 1800, 3600]
    assert all(0.8 * 7200 <= wait_s <= 1.2 * 7200 for wait_s in waits_s[8:])
    assert len(set(waits_s[8:])) > 1


def test_retry_after_is_a_floor_of_such_waits(policy: RetryPolicy) -> None:
    decided = policy.decide(finished(a_claim(), Unavailable("notice", 503, None, 30.0), waits_s=WAITS_S))

    assert decided.due_in_s == 30.0


def test_a_hold_lets_no_wait_of_such_a_kind_grow_beyond_the_engines(policy: RetryPolicy) -> None:
    """It refuses many notices at once, and few of them pass when it ends."""
    claim = a_claim(wait_reason=WaitReason.RATE_LIMITED, last_wait_s=900.0)
    waits = [
        policy.decide(finished(claim, PermitRefused("the hold", None, None, hold_left_s), waits_s=WAITS_S)).due_in_s
        for hold_left_s in (0.5, 3600.0)
    ]

    assert waits[0] is not None
    assert 1.0 <= waits[0] <= BACKOFF_MAX_S
    assert waits[1] == 3600.0


def test_an_open_circuit_lets_such_a_wait_grow_to_a_minute_at_most(policy: RetryPolicy) -> None:
    """Another process may close it at any time, and then nobody makes this process's operations due."""
    refused = CircuitOpen("the circuit is open", None, None, 1.0)
    waits = {
        last_s: policy.decide(
            finished(a_claim(wait_reason=WaitReason.CIRCUIT_OPEN, last_wait_s=last_s), refused, waits_s=WAITS_S)
        ).due_in_s
        for last_s in (0.0, 5.0, 15.0, 60.0, 900.0)
    }

    assert [waits[last_s] for last_s in (0.0, 5.0)] == [1, 15]
    assert all(0.8 * 60 <= (waits[last_s] or 0.0) <= 1.2 * 60 for last_s in (60.0, 900.0))


@pytest.mark.parametrize("sent", [True, False])
def test_a_failure_without_a_request_says_nothing_about_an_earlier_one(policy: RetryPolicy, sent: bool) -> None:
    claim = a_claim(outcome_unknown=True)

    assert policy.decide(finished(claim, Failed("client_unknown"), sent=sent)).outcome_known is sent


def test_such_a_kind_is_exhausted_at_its_deadline(policy: RetryPolicy) -> None:
    claim = a_claim(deadline=time.monotonic() - 1)

    assert policy.decide(finished(claim, Unavailable("notice", 500), waits_s=WAITS_S)).failure_reason == "exhausted"


def test_the_spacing_of_polls_gets_the_seconds_that_the_last_one_took() -> None:
    policy = RetryPolicy(max_attempts=3, spacing_s=lambda duration_s: 100.0 * duration_s)
    slow = finished(a_claim(), Pending())

    transition = policy.decide(slow._replace(record=slow.record._replace(duration_ms=2000)))

    assert transition.due_in_s == 200.0


def test_a_back_off_is_at_most_three_times_the_last_wait(policy: RetryPolicy) -> None:
    last = {"wait_reason": WaitReason.BACKOFF, "last_wait_s": 2.0}
    waits = [decide(policy, Unavailable("x"), **last).due_in_s or 0.0 for _ in range(300)]
    first = [decide(policy, Unavailable("x")).due_in_s for _ in range(20)]
    after_another = [
        decide(policy, Unavailable("x"), wait_reason=WaitReason.NO_SESSION, last_wait_s=9.0).due_in_s for _ in range(20)
    ]

    assert min(waits) >= 1.0
    assert 5.0 < max(waits) <= 6.0
    assert {*first, *after_another} == {1.0}


@pytest.mark.parametrize(
    ("last_s", "expected"), [(0.0, 1.0), (1.0, 5.0), (4.9, 5.0), (5.0, None), (9.0, None), (11.0, None)]
)
def test_a_kinds_own_waits_follow_each_other_and_the_last_is_repeated(last_s: float, expected: float | None) -> None:
    drawn = {next_wait_s((1.0, 5.0, 10.0), last_s) for _ in range(50)}

    if expected is not None:
        assert drawn == {expected}
    else:
        assert 8.0 <= min(drawn) < max(drawn) <= 12.0
