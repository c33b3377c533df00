"""The one retry policy: from what an attempt learned to what becomes of the operation."""

import logging
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, assert_never

from worker.errors import B2CopyError, CircuitOpen, PermitRefused, ReceiverGone
from worker.flow.meaning_table import Becomes, Counted, Meaning
from worker.operation import (
    AttemptRecord,
    Claim,
    Done,
    Failed,
    FailureReason,
    Later,
    OnUnknown,
    Outcome,
    Phase,
    State,
    Transition,
    WaitReason,
)
from worker.operation_kind import PollSchedule

log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 1.0  # seconds
BACKOFF_MAX_S = 10.0  # seconds; short, so that waits end soon after an outage. The open circuit limits the calls
CIRCUIT_WAIT_MAX_S = 60.0  # seconds; the waits of a kind's own grow no further while an open circuit refuses
POLL_WIDENING = 1.5  # the wait before a poll is so many times the last one, up to the kind's maximum


class Finished(NamedTuple):
    """An attempt that is over: what it learned, what that means, and the evidence to store.

    `on_unknown` is what an unknown outcome of this operation permits. `unknown_step` names the request whose effect is
    not known now, if there is one. `sent`: a request may have left this process. `waits_s`: the kind's own waits.
    """

    claim: Claim
    on_unknown: OnUnknown
    learned: Outcome | Exception
    meaning: Meaning
    record: AttemptRecord
    polls: PollSchedule
    unknown_step: str | None
    progress: dict[str, Any] | None
    sent: bool
    waits_s: tuple[float, ...] = ()

    @property
    def outcome_is_unknown(self) -> bool:
        """Whether this attempt or an earlier one sent a request whose effect is not known."""
        return self.claim.outcome_unknown or self.unknown_step is not None

    @property
    def may_have_begun(self) -> bool:
        """Whether this attempt or an earlier one may have made the destination begin it, or do a part of it."""
        return self.unknown_step is not None or bool(self.progress) or may_have_begun(self.claim)


class RetryPolicy:
    """Decides what becomes of an operation after each attempt. Thread-safe.

    `max_attempts`: after so many answers that decide nothing, the operation fails. `spacing_s` gets how long the last
    poll took, and returns the least time between two polls of one operation, both in seconds. Without it the polls of
    many pending operations would take more than half of the capacity.
    """

    def __init__(self, max_attempts: int, spacing_s: Callable[[float], float]) -> None:
        self._max_attempts = max_attempts
        self._spacing_s = spacing_s

    def decide(self, attempt: Finished) -> Transition:
        """Return what becomes of the operation."""
        claim, learned = attempt.claim, attempt.learned
        match attempt.meaning.becomes:
            case Becomes.SUCCEEDED:
                result = learned.result if isinstance(learned, Done) else None
                return Transition(claim, State.SUCCEEDED, result=result, attempt=attempt.record, outcome_known=True)
            case Becomes.FAILED:
                reason = learned.reason if isinstance(learned, Failed) else FailureReason.INTERNAL
                # Without a request, this attempt has not learned what an earlier one did.
                return self._fail(attempt, reason, outcome_known=attempt.sent)
            case Becomes.PENDING:
                if claim.overdue:  # it has begun, and nobody asks any more how it ends
                    return self._fail(attempt, FailureReason.UNRESOLVED)._replace(outcome_unknown=True)
                return self._wait(attempt, self._poll_in_s(attempt), outcome_known=True)
            case Becomes.LATER:
                after_s = learned.after_s if isinstance(learned, Later) else 0.0
                return self._give_up(attempt) if claim.overdue else self._wait(attempt, after_s)
            case Becomes.WAIT:
                return self._wait_or_give_up(attempt)
            case Becomes.BY_ON_UNKNOWN:
                if attempt.unknown_step is not None and attempt.on_unknown == OnUnknown.STOP:
                    return self._fail(attempt, FailureReason.UNRESOLVED)
                return self._wait_or_give_up(attempt)
            case Becomes.REJECTED:
                return self._reject(attempt)
            case Becomes.CONFLICT:
                if attempt.on_unknown == OnUnknown.START_OR_GET:
                    # Something else is under way, for instance another fee run of the account. The same call does no
                    # harm, and a later answer tells how the operation stands.
                    return self._wait_or_give_up(attempt)
                return self._reject(attempt)
            case Becomes.BAD_PAYLOAD:
                return self._fail(attempt, FailureReason.BAD_PAYLOAD)
            case Becomes.INTERNAL:
                error = learned if isinstance(learned, Exception) else None
                log.error(
                    "operation %s has failed (internal), because this program raised an error in its attempt:"
                    " `b2copy-sync status KEY` says what to do", claim.key, exc_info=error,
                )  # fmt: skip
                return self._fail(attempt, FailureReason.INTERNAL)
        assert_never(attempt.meaning.becomes)

    def _reject(self, attempt: Finished) -> Transition:
        """The destination refused the request. A kind that reads back looks first what an earlier request did.

        A refusal proves nothing if an earlier request may have done the operation, or has begun it: it does not say
        that what was begun has ended, and it may come from a proxy.
        """
        if attempt.outcome_is_unknown and attempt.on_unknown == OnUnknown.READ_BACK:
            return self._wait_or_give_up(attempt)
        if attempt.outcome_is_unknown or attempt.claim.phase == Phase.POLL:
            return self._fail(attempt, FailureReason.UNRESOLVED)._replace(outcome_unknown=True)
        return self._fail(attempt, FailureReason.REJECTED, outcome_known=True)

    def _fail_without_access(self, attempt: Finished) -> Transition:
        """Without access, or if a proxy answers instead, we cannot ask the destination what an earlier request did."""
        if attempt.may_have_begun:
            return self._fail(attempt, FailureReason.UNRESOLVED)
        return self._fail(attempt, FailureReason.REJECTED, outcome_known=True)

    def _wait_or_give_up(self, attempt: Finished) -> Transition:
        claim, meaning = attempt.claim, attempt.meaning
        if attempt.record.counted and claim.counted_attempts + 1 >= self._max_attempts:
            if meaning.becomes == Becomes.WAIT:  # 403 or a proxy's refusal, which this operation alone gets
                return self._fail_without_access(attempt)
            return self._fail(attempt, FailureReason.EXHAUSTED)
        if claim.overdue and not isinstance(attempt.learned, ReceiverGone):
            return self._give_up(attempt)
        floor = (attempt.learned.retry_after or 0.0) if isinstance(attempt.learned, B2CopyError) else 0.0
        return self._wait(attempt, max(self._backoff_s(attempt), floor))

    def _give_up(self, attempt: Finished) -> Transition:
        """The deadline has passed. A kind with waits of its own (a notice) has been tried often enough (exhausted).

        Of another kind nothing was done (expired), or what was done is not known (unresolved).
        """
        if attempt.waits_s:
            return self._fail(attempt, FailureReason.EXHAUSTED)
        return self._fail(attempt, FailureReason.UNRESOLVED if attempt.may_have_begun else FailureReason.EXPIRED)

    def _wait(self, attempt: Finished, due_in_s: float, outcome_known: bool = False) -> Transition:
        return Transition(
            attempt.claim,
            State.WAITING,
            wait_reason=attempt.meaning.wait_reason or WaitReason.BACKOFF,
            due_in_s=due_in_s,
            attempt=attempt.record,
            outcome_unknown=attempt.unknown_step is not None and not outcome_known,
            outcome_known=outcome_known,
            unknown_step=attempt.unknown_step,
            progress=attempt.progress,
            sent=attempt.sent,
        )

    def _fail(self, attempt: Finished, reason: str, outcome_known: bool = False) -> Transition:
        return Transition(
            attempt.claim,
            State.FAILED,
            failure_reason=reason,
            attempt=attempt.record,
            outcome_unknown=attempt.unknown_step is not None and not outcome_known,
            outcome_known=outcome_known,
            unknown_step=attempt.unknown_step,
            progress=attempt.progress,
            sent=attempt.sent,
        )

    def _backoff_s(self, attempt: Finished) -> float:
        """Decorrelated jitter: at most three times the last wait, so that a fleet does not come back in step.

        https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        """
        claim = attempt.claim
        last_s = claim.last_wait_s if claim.wait_reason == attempt.meaning.wait_reason else 0.0
        # A hold refuses many operations, and few of them pass when it ends. Longer and longer waits would make the
        # others so late that the destination has nothing to do.
        if attempt.waits_s and not isinstance(attempt.learned, PermitRefused):
            wait_s = next_wait_s(attempt.waits_s, last_s)
            if isinstance(attempt.learned, CircuitOpen):  # nothing was sent, and the circuit may close at any time
                wait_s = min(wait_s, _with_jitter(CIRCUIT_WAIT_MAX_S))
            return wait_s
        longest_s = max(BACKOFF_FIRST_S, last_s * 3)
        return min(BACKOFF_MAX_S, random.uniform(BACKOFF_FIRST_S, longest_s))  # noqa: S311

    def _poll_in_s(self, attempt: Finished) -> float:
        claim = attempt.claim
        last_s = claim.last_wait_s if claim.wait_reason == WaitReason.PENDING_AT_B2COPY else 0.0
        scheduled_s = min(attempt.polls.max_s, max(attempt.polls.first_s, last_s * POLL_WIDENING))
        return max(scheduled_s, self._spacing_s(attempt.record.duration_ms / 1000))


def next_wait_s(waits_s: Sequence[float], last_s: float) -> float:
    """Return the first of these waits that is longer than the last one, or the longest with a jitter of 20 %."""
    longer = [wait_s for wait_s in waits_s[:-1] if wait_s > last_s]
    return longer[0] if longer else _with_jitter(waits_s[-1])


def _with_jitter(wait_s: float) -> float:
    return wait_s * random.uniform(0.8, 1.2)  # noqa: S311


def reason_when_overdue(claim: Claim) -> FailureReason:
    """Return why an operation fails whose deadline has passed, as far as its earlier attempts tell."""
    return FailureReason.UNRESOLVED if may_have_begun(claim) else FailureReason.EXPIRED


def may_have_begun(claim: Claim) -> bool:
    """Return whether an earlier attempt may have made the destination begin the operation, or do a part of it.

    Of an open operation. In SQL: `_may_have_begun` of ledger/claims.py. Of a failed one: `may_have_been_done`.
    """
    return claim.outcome_unknown or claim.phase == Phase.POLL or bool(claim.progress)


def counts(claim: Claim, meaning: Meaning, others_are_served: bool) -> bool:
    """Return whether an attempt counts towards `max_attempts`: the destination answered about this operation.

    A 403, a proxy's refusal and an unclear answer count only if the operation waited for the same reason before, and
    the destination has served another operation of its kind between the two. Otherwise every operation may be getting
    this answer, and then none must fail.
    """
    match meaning.counted:
        case Counted.YES:
            return True
        case Counted.IF_OTHERS_ARE_SERVED:
            return others_are_served and claim.wait_reason == meaning.wait_reason
        case Counted.NO:
            return False
    assert_never(meaning.counted)
