"""From a claim to what becomes of it: checks before sending, one attempt, its evidence, the policy's decision."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from worker.errors import B2CopyError, GateClosed
from worker.flow.attempt import Destination, RunningAttempt
from worker.flow.gate import Gate
from worker.flow.lease_renewal import LeaseRenewal
from worker.flow.meaning import Becomes, Meaning, meaning_of
from worker.flow.poll_spacing import PollSpacing
from worker.flow.retry_policy import Finished, RetryPolicy, counts, reason_when_overdue
from worker.http.answer import one_line
from worker.kind import Kind
from worker.ledger import DATABASE_UNAVAILABLE_ERRORS, Ledger
from worker.operation import (
    AttemptRecord,
    Claim,
    Done,
    Failed,
    FailureReason,
    Later,
    OnUnknown,
    Outcome,
    Pending,
    State,
    Transition,
    WaitReason,
)
from worker.settings import Settings

log = logging.getLogger(__name__)

UNKNOWN_KIND_WAIT_S = 30.0  # a kind that only a newer version of this code knows is left to that version
LEDGER_PAUSE_S = 1.0  # an attempt that could not read the ledger is made again after this time


class Return(NamedTuple):
    """A claim for which nothing was sent: the operation is again what it was."""

    claim: Claim


Result = Transition | Return


class AttemptMaker:
    """Makes the attempts of one lane, as coroutines of the event loop. Never writes to the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        kinds: Mapping[str, Kind[Any]],
        destinations: Mapping[str, Callable[[], Destination]],
        gates: Mapping[str, Gate],
        leases: LeaseRenewal,
        spacing: PollSpacing,
        settings: Settings,
        urgent: bool,
    ) -> None:
        self._ledger, self._kinds, self._destinations, self._gates = ledger, kinds, destinations, gates
        self._leases, self._spacing, self._settings, self._urgent = leases, spacing, settings, urgent
        self._policy = RetryPolicy(settings.max_attempts, spacing.between_polls_s)
        self.attempt_s = 0.05  # seconds an attempt takes: a first guess, then the moving average

    async def make(self, claim: Claim, times_opened: int) -> Result:
        """Make one attempt, unless something forbids it, and return what becomes of the operation.

        `times_opened`: how often the gate had closed when the operation was claimed.
        """
        kind = self._kinds.get(claim.kind)
        if kind is not None and kind.begins_steps and claim.unknown_step is None:
            claim = claim._replace(outcome_unknown=False)  # a worker was lost before it began a step with an effect
        return await self._check_before_send(claim, times_opened) or await self._make_attempt(claim)

    async def _check_before_send(self, claim: Claim, times_opened: int) -> Result | None:
        """Return what becomes of a claim that must not be sent, or not now. None: send it."""
        kind = self._kinds.get(claim.kind)
        if kind is None or claim.destination not in self._gates:
            return _left_to_newer_version(claim)
        if claim.outcome_unknown and kind.permits(claim) == OnUnknown.STOP:
            return Transition(
                claim, State.FAILED, failure_reason=FailureReason.UNRESOLVED, outcome_unknown=True,
                unknown_step=claim.unknown_step, progress=claim.progress, sent=False,
            )  # fmt: skip
        if not await self._gates[claim.destination].may_send(times_opened) or not self._leases.is_valid(claim):
            return Return(claim)
        return None

    async def _make_attempt(self, claim: Claim) -> Transition:
        kind, gate = self._kinds[claim.kind], self._gates[claim.destination]
        permits = kind.permits(claim)
        began, started_at = time.monotonic(), time.time()
        attempt: RunningAttempt | None = None
        learned: Outcome | Exception
        try:
            attempt = RunningAttempt(
                claim, permits, self._destinations[claim.destination](), gate, self._leases.is_valid, self._ledger,
                self._settings, self._urgent,
            )  # fmt: skip
            learned = await kind.attempt(attempt, kind.checked(claim.payload))
        except DATABASE_UNAVAILABLE_ERRORS:  # from a kind that reads the ledger
            learned = Later(LEDGER_PAUSE_S, "the ledger is unavailable")
        except Exception as error:  # the table of meanings sorts them
            learned = error
        duration_s = time.monotonic() - began
        self.attempt_s += (duration_s - self.attempt_s) * 0.1
        meaning = meaning_of(learned)
        others_are_served = gate.served_since(began - claim.last_wait_s)
        unknown_step = attempt.unknown_step if attempt else None
        progress = attempt.progress if attempt else claim.progress
        if unknown_step is not None:  # the kind may answer differently now that it knows which step it is
            known_now = claim._replace(outcome_unknown=True, unknown_step=unknown_step, progress=progress)
            permits = kind.permits(known_now)
        if meaning.becomes == Becomes.PENDING:
            await self._spacing.recount()
        record = _record_of(
            attempt, learned, meaning, started_at, duration_s, self._leases.owner,
            counted=counts(claim, meaning, others_are_served),
        )  # fmt: skip
        transition = self._policy.decide(
            Finished(
                claim=claim,
                permits=permits,
                learned=learned,
                meaning=meaning,
                record=record,
                polls=kind.polls(self._settings),
                unknown_step=unknown_step,
                progress=progress,
                sent=attempt is not None and attempt.sent,
                waits_s=kind.waits_s,
            )
        )
        if attempt is None or attempt.steps:  # an attempt without a call says nothing about the destination
            try:
                await gate.record(learned, meaning)
            except BaseException:  # the operation's result must not be lost with it
                log.exception("the gate could not record an attempt")
        return transition


def _left_to_newer_version(claim: Claim) -> Transition:
    """An operation whose kind or destination only a newer version of this code knows waits for that version."""
    if claim.overdue:
        return Transition(
            claim, State.FAILED, failure_reason=reason_when_overdue(claim), progress=claim.progress, sent=False
        )
    log.error("operation %s waits: this version knows no kind %r to %r", claim.key, claim.kind, claim.destination)
    return Transition(
        claim, State.WAITING, WaitReason.BACKOFF, due_in_s=UNKNOWN_KIND_WAIT_S, progress=claim.progress, sent=False
    )


def _record_of(
    attempt: RunningAttempt | None,
    learned: Outcome | Exception,
    meaning: Meaning,
    started_at: float,
    duration_s: float,
    worker: str,
    *,
    counted: bool,
) -> AttemptRecord:
    """Return the evidence of an attempt: when, how long, what the destination answered."""
    steps = attempt.steps if attempt else []
    status = steps[-1].http_status if steps else None
    message: str | None
    request_id = None
    match learned:
        case Done() | Pending() | Failed():
            message, request_id = learned.message, learned.request_id
        case Later():
            message = learned.message
        case B2CopyError():
            status, message = learned.status, one_line(str(learned))
        case _:
            message = one_line(f"{type(learned).__name__}: {learned}")
    return AttemptRecord(
        started_at=int(started_at * 1000),
        duration_ms=int(duration_s * 1000),
        http_status=status,
        outcome=meaning.word,
        message=message,
        # Of a single call the attempt itself says all there is to say, unless it was not the last one wanted.
        steps=tuple(steps) if len(steps) > 1 or isinstance(learned, GateClosed) else (),
        counted=counted,
        request_id=request_id,
        worker=worker,
    )
