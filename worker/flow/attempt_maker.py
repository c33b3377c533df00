"""Make one attempt for a claim: check before sending, run the kind's coroutine, build evidence and transition."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from worker.errors import B2CopyError, GateClosed, UnknownOutcome
from worker.flow.attempt import Destination, RunningAttempt
from worker.flow.gate import PERMIT_PATIENCE_S, Gate
from worker.flow.lease_renewal import LeaseRenewal
from worker.flow.meaning_table import Becomes, Meaning, meaning_of
from worker.flow.poll_spacing import PollSpacing
from worker.flow.retry_policy import Finished, RetryPolicy, counts, reason_when_overdue
from worker.http.answer import one_line
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
from worker.operation_kind import Kind
from worker.queues import destination_of, is_urgent
from worker.settings import Settings
from worker.watch.tracing import SpanEnd, attempting

log = logging.getLogger(__name__)

CALLS_MAX = 8  # an attempt may take as long as so many calls, each with its longest wait for a permit
NEWER_VERSION_WAIT_S = 30.0  # seconds that an operation waits if only a newer version knows its kind or a field
CHECK_PAUSE_S = 1.0  # seconds; a claim is returned after this time if the check before sending failed
LEDGER_PAUSE_S = 1.0  # seconds; an attempt that could not read the ledger is made again after this time


class Return(NamedTuple):
    """A claim for which nothing was sent. `return_unsent` says what becomes of the operation."""

    claim: Claim


Result = Transition | Return


class AttemptMaker:
    """Makes the attempts of one lane, as coroutines of the event loop. The lane writes their results."""

    def __init__(
        self,
        ledger: Ledger,
        kinds: Mapping[str, Kind[Any]],
        destinations: Mapping[str, Callable[[], Destination]],
        gates: Mapping[str, Gate],
        leases: LeaseRenewal,
        spacing: PollSpacing,
        settings: Settings,
        lane: str,
    ) -> None:
        self._ledger, self._kinds, self._destinations, self._gates = ledger, kinds, destinations, gates
        self._leases, self._spacing, self._settings = leases, spacing, settings
        self._lane, self._urgent = lane, is_urgent(lane)
        self._gate = gates[destination_of(lane)]  # the lane's own: `gates` may lack the one of a claim
        self._policy = RetryPolicy(settings.max_attempts, spacing.between_polls_s)
        self._limit_s = CALLS_MAX * (settings.call_deadline + PERMIT_PATIENCE_S)
        self.attempt_s = 0.05  # seconds an attempt takes: a first guess, then the moving average

    async def make(self, claim: Claim, times_closed: int) -> Result:
        """Make one attempt, unless something forbids it, and return what becomes of the operation.

        `times_closed`: the gate's `times_closed` when the operation was claimed.
        """
        kind = self._kinds.get(claim.kind)
        if kind is not None and kind.begins_steps and claim.unknown_step is None:
            claim = claim._replace(outcome_unknown=False)  # a worker was lost before it began a step with an effect
        try:
            not_sent = await self._check_before_send(claim, times_closed)
        except Exception:  # nothing was sent, so that our own fault need not fail the operation
            log.exception("operation %s: the check before sending failed. Nothing was sent, it is due again", claim.key)
            await asyncio.sleep(CHECK_PAUSE_S)
            not_sent = Return(claim)
        if not_sent is not None:
            self._gate.record_nothing(times_closed)
            return not_sent
        with attempting(claim, self._lane, self._ledger.id) as span:
            transition = await self._make_attempt(claim, times_closed, span)
            if (record := transition.attempt) is not None:
                span.note(record.outcome, record.http_status, failed=transition.state == State.FAILED)
        return transition

    async def _check_before_send(self, claim: Claim, times_closed: int) -> Result | None:
        """Return the result of a claim that must not be sent, or not now. None if it must be sent."""
        kind = self._kinds.get(claim.kind)
        if kind is None or claim.destination not in self._gates:
            return self._leave_to_newer_version(claim, f"kind {claim.kind!r} to {claim.destination!r}")
        if claim.outcome_unknown and kind.on_unknown_for(claim.on_unknown, claim.unknown_step) == OnUnknown.STOP:
            return Transition(
                claim, State.FAILED, failure_reason=FailureReason.UNRESOLVED, outcome_unknown=True,
                unknown_step=claim.unknown_step, progress=claim.progress, sent=False,
            )  # fmt: skip
        if unknown := kind.unknown_fields(claim.payload):  # another version has checked and recorded it
            return self._leave_to_newer_version(claim, f"field {unknown[0]!r} of {claim.kind}")
        if not await self._gates[claim.destination].may_send(times_closed) or not self._leases.is_valid(claim):
            return Return(claim)
        return None

    def _leave_to_newer_version(self, claim: Claim, unknown: str) -> Transition:
        """An operation of which this version does not know something waits for a newer version, until its deadline."""
        why = f"this version knows no {unknown}"
        learned = Later(NEWER_VERSION_WAIT_S, one_line(why))
        record = _record_of(None, learned, meaning_of(learned), time.time(), 0.0, self._leases.owner, counted=False)
        # A late answer may still decide an operation whose outcome is unknown, if no later claim leaves evidence.
        evidence = None if claim.outcome_unknown else record
        left = Transition(claim, State.WAITING, attempt=evidence, progress=claim.progress, sent=False)
        if claim.overdue:
            return left._replace(state=State.FAILED, failure_reason=reason_when_overdue(claim))
        log.error("operation %s waits: %s", claim.key, why)
        return left._replace(wait_reason=WaitReason.BACKOFF, due_in_s=NEWER_VERSION_WAIT_S)

    async def _make_attempt(self, claim: Claim, times_closed: int, span: SpanEnd) -> Transition:
        kind, gate = self._kinds[claim.kind], self._gates[claim.destination]
        on_unknown = kind.on_unknown_for(claim.on_unknown, claim.unknown_step)
        began, started_at = time.monotonic(), time.time()
        attempt: RunningAttempt | None = None
        learned: Outcome | Exception
        limit = asyncio.timeout(self._limit_s)
        try:
            attempt = RunningAttempt(
                claim, on_unknown, self._destinations[claim.destination](), gate, self._leases.is_valid, self._ledger,
                self._settings, self._urgent, times_closed, span,
            )  # fmt: skip
            async with limit:
                learned = await kind.attempt(attempt, kind.checked(claim.payload))
        except DATABASE_UNAVAILABLE_ERRORS:  # from a kind that reads the ledger
            learned = Later(LEDGER_PAUSE_S, "the ledger is unavailable")
        except Exception as error:  # the table of meanings sorts them
            learned = error
            if limit.expired() and isinstance(error, TimeoutError):
                learned = UnknownOutcome(f"the attempt took longer than {self._limit_s:.0f} s")
        duration_s = time.monotonic() - began
        self.attempt_s += (duration_s - self.attempt_s) * 0.1
        meaning = meaning_of(learned)
        login = attempt.login if attempt else None
        others_are_served = gate.served_since(began - claim.last_wait_s, login, claim.kind)
        unknown_step = attempt.unknown_step if attempt else None
        if attempt and (meaning.becomes == Becomes.INTERNAL or limit.expired()):
            # Our own code failed or hung after the request had its effect. A repetition might repeat the effect.
            unknown_step = unknown_step or attempt.effect_step
        progress = attempt.progress if attempt else claim.progress
        if unknown_step is not None:  # a kind's `on_unknown` may depend on the step whose outcome is unknown
            on_unknown = kind.on_unknown_for(claim.on_unknown, unknown_step)
        if meaning.becomes == Becomes.PENDING:
            self._spacing.recount_soon()
        record = _record_of(
            attempt, learned, meaning, started_at, duration_s, self._leases.owner,
            counted=counts(claim, meaning, others_are_served),
        )  # fmt: skip
        transition = self._policy.decide(
            Finished(
                claim=claim,
                on_unknown=on_unknown,
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
        try:
            if attempt is None or attempt.passed_gate:
                was_answered = attempt is not None and attempt.was_answered
                await gate.record(
                    learned, meaning, login, claim.kind, times_closed=times_closed, was_answered=was_answered
                )
            else:
                gate.record_nothing(times_closed)
        except BaseException:  # the operation's result must not be lost with it
            log.exception(
                "operation %s: the gate could not note what the attempt says about the destination. Its result counts",
                claim.key,
            )
        return transition


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
    match learned:
        case Done() | Pending() | Failed() | Later():
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
        # Steps are stored if there were several, or if the gate stopped a further call. The step of a single call would
        # repeat what the attempt says.
        steps=tuple(steps) if len(steps) > 1 or isinstance(learned, GateClosed) else (),
        counted=counted,
        request_id=attempt.request_id if attempt else None,
        worker=worker,
    )
