"""The one retry policy: from what an attempt learned, or how it failed, to what becomes of the operation."""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from worker.errors import (
    B2CopyError,
    BadPayload,
    CredentialsRejected,
    Permanent,
    RateLimited,
    SessionUnavailable,
    Transient,
    Unavailable,
    UnknownOutcome,
)
from worker.flow.outcome import Outcome
from worker.ledger import Attempt, Claim, Reason, State, Verdict, Why

log = logging.getLogger(__name__)

BACKOFF_FIRST = 1.0  # seconds
BACKOFF_MAX = 10.0  # seconds: while the breaker is open few are tried, so a short wait costs little and ends soon
POLL_WIDENING = 1.5


@dataclass(frozen=True)
class Policy:
    """`max_attempts` counts answers about one operation that ask to try again. Polls wait from `poll_first` to
    `poll_max` seconds, or as long as `stretch` says, told how long the last poll took, when so many runs are pending
    that polling them would take more than half of the capacity."""

    max_attempts: int
    poll_first: float
    poll_max: float
    stretch: Callable[[float], float]

    def after(self, claim: Claim, learned: Outcome | Exception, attempt: Attempt) -> Verdict:
        """Return what becomes of `claim`; `attempt` is the evidence, kept with it."""
        if isinstance(learned, Outcome):
            return self._after_answer(claim, learned, attempt)
        return self._after_error(claim, learned, attempt)

    def _after_answer(self, claim: Claim, outcome: Outcome, attempt: Attempt) -> Verdict:
        if outcome.said == "done":
            return Verdict(claim, State.SUCCEEDED, result=outcome.result, attempt=attempt)
        if outcome.said == "fee_error":
            return Verdict(claim, State.FAILED, reason=Reason.FEE_ERROR, attempt=attempt)
        if claim.overdue:
            return Verdict(claim, State.FAILED, reason=Reason.UNRESOLVED, attempt=attempt)
        return Verdict(
            claim, State.WAITING, why=Why.PENDING_AT_B2COPY, due_in=self._poll_in(claim, attempt), attempt=attempt
        )

    def _after_error(self, claim: Claim, error: Exception, attempt: Attempt) -> Verdict:
        match error:
            case CredentialsRejected() | SessionUnavailable():
                return self._wait(claim, Why.NO_SESSION, error, attempt)
            case RateLimited():
                return self._wait(claim, Why.RATE_LIMITED, error, attempt)
            case Transient():
                return self._wait(claim, Why.BACKOFF, error, attempt)
            case UnknownOutcome():
                return self._after_unknown(claim, error, attempt)
            case Permanent():
                return Verdict(claim, State.FAILED, reason=Reason.REJECTED, attempt=attempt)
            case BadPayload():
                return Verdict(claim, State.FAILED, reason=Reason.BAD_PAYLOAD, attempt=attempt)
        log.error("operation %s failed on our side", claim.key, exc_info=error)
        return Verdict(claim, State.FAILED, reason=Reason.INTERNAL, attempt=attempt)

    def _after_unknown(self, claim: Claim, error: UnknownOutcome, attempt: Attempt) -> Verdict:
        if not claim.repeatable:
            return Verdict(claim, State.FAILED, reason=Reason.UNRESOLVED, attempt=attempt, unknown=True)
        if attempt.counted and claim.attempts + 1 >= self.max_attempts:
            return Verdict(claim, State.FAILED, reason=Reason.EXHAUSTED, attempt=attempt, unknown=True)
        return self._wait(claim, Why.BACKOFF, error, attempt, unknown=True)

    def _wait(self, claim: Claim, why: Why, error: B2CopyError, attempt: Attempt, unknown: bool = False) -> Verdict:
        if claim.overdue:
            return Verdict(claim, State.FAILED, reason=Reason.UNRESOLVED, attempt=attempt, unknown=unknown)
        due_in = max(self._backoff(claim, why), error.retry_after or 0.0)
        return Verdict(
            claim, State.WAITING, why=why, due_in=due_in, attempt=attempt, unknown=unknown, sent=_has_left(error)
        )

    def _backoff(self, claim: Claim, why: Why) -> float:
        """Decorrelated jitter: three times the last wait at most, so that a fleet never comes back in step."""
        last = claim.waited if claim.why == why else 0.0
        return min(BACKOFF_MAX, random.uniform(BACKOFF_FIRST, max(BACKOFF_FIRST, last * 3)))  # noqa: S311

    def _poll_in(self, claim: Claim, attempt: Attempt) -> float:
        last = claim.waited if claim.why == Why.PENDING_AT_B2COPY else 0.0
        scheduled = min(self.poll_max, max(self.poll_first, last * POLL_WIDENING))
        return max(scheduled, self.stretch(attempt.duration / 1000))


def _has_left(error: B2CopyError) -> bool:
    """Whether the attempt may have reached B2COPY; as long as none has, the operation may still be cancelled."""
    return not (
        isinstance(error, CredentialsRejected | SessionUnavailable)
        or (isinstance(error, Unavailable) and error.status is None)
    )
