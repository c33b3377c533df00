"""How an operation stands, why it waits, why it failed, and what a person can do about it: one sentence each."""

import time
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any, NamedTuple

from worker.ledger.approvals import is_of_proposal
from worker.ledger.batches import BATCH
from worker.ledger.schema import HELD_MS
from worker.operation import (
    MESSAGE_KIND,
    AuditEntry,
    FailureReason,
    OnUnknown,
    Operation,
    State,
    WaitReason,
    is_replayable,
    may_have_been_done,
)
from worker.operation_kind import Kind
from worker.queues import B2COPY, CRM
from worker.report.format_values import clock, our_address

Kinds = Mapping[str, Kind[Any]]
"""All kinds by name."""

RESOLVED_AS_FAILED = "resolve, failed"
"""The audit's action for a person's finding that the destination did not do it."""

TO_FILL_IN = "..."
"""What stands in a command for what only the person knows."""

_WAITS: dict[str, str] = {
    WaitReason.PENDING_AT_B2COPY: "{destination} has not finished it",
    WaitReason.BACKOFF: "the last attempt brought no answer that decides it",
    WaitReason.RATE_LIMITED: "the rate limit is reached, or {destination} asked us to wait",
    WaitReason.CIRCUIT_OPEN: "{destination} is unavailable, and only a probe is sent every two seconds",
    WaitReason.NO_SESSION: "there is no access token",
    WaitReason.NO_OTHER_LOGIN: "the login that it needs is not set or gives no access token",
    WaitReason.NO_SEAMLESS_URL: "the workers have no usable secret of seamless logins, or {destination} refuses it",
    WaitReason.NO_ACCESS: "{destination} refuses our access; our requests come from {address}",
    WaitReason.NEXT_STEP: "its next step is not due yet",
    WaitReason.BEHIND_ENTITY: "an earlier operation of {entity} goes first",
    WaitReason.BEHIND_PARENT: "{parent} has not succeeded yet",
}
_WAITS_FOR_ANOTHER = (WaitReason.BEHIND_ENTITY, WaitReason.BEHIND_PARENT)  # when it is due says nothing of when it goes
_WAIT_REMEDIES: dict[str, str] = {
    WaitReason.NO_SESSION: "{session} says why. It continues by itself once a login succeeds.",
    WaitReason.NO_OTHER_LOGIN: "Its last attempt says why. It continues by itself once that login succeeds.",
    WaitReason.NO_SEAMLESS_URL: (
        "Its last attempt says why. If B2COPY_SEAMLESS_SECRET_FILE is not set, set it on all workers and restart them."
        " If the secret is refused, compare B2COPY_SEAMLESS_SECRET_FILE with the Back Office, which may have blanked"
        " its secret. It continues by itself once {destination} accepts the secret."
    ),
    WaitReason.NO_ACCESS: (
        "Ask {destination} whether {address} is on the service admin's allow-list and whether the admin has the"
        " permission. It continues by itself once access is granted."
    ),
}
_FAILED = {
    FailureReason.REJECTED: "{destination} refused it",
    FailureReason.UNRESOLVED: "what {destination} did is not known",
    FailureReason.EXHAUSTED: "{destination} answered too often without deciding it",
    FailureReason.EXPIRED: "its deadline passed before it could be sent",
    FailureReason.BAD_PAYLOAD: "its payload cannot be used",
    FailureReason.INTERNAL: "the fault is ours: the worker's log has the traceback",
}
_REJECTED_OR_RESOLVED = "{destination} refused it, or a person found that it was not done"


class Remedies(NamedTuple):
    """How a person does what a remedy names: commands of the shell, or buttons of the console.

    `{results}` stands for the options that name the kind's `result_ids`.
    """

    session: str
    replay: str
    correct: str
    resolve_done: str
    resolve_not_done: str
    replay_not_done: str
    close_message: str


COMMANDS = Remedies(
    session="`b2copy-sync session show`",
    replay='`b2copy-sync failed replay {key} --why "..." --yes`',
    correct='`b2copy-sync failed correct {key} NAME=VALUE --why "..." --yes`',
    resolve_done='`b2copy-sync failed resolve {key} --succeeded{results} --why "..." --yes`',
    resolve_not_done='`b2copy-sync failed resolve {key} --failed --why "..."`',
    replay_not_done='`b2copy-sync failed replay {key} --it-was-not-done --why "..." --yes`',
    close_message='`b2copy-sync failed resolve {key} --failed --why "..."`',
)
_FAILED_REMEDIES = {
    FailureReason.REJECTED: "Correct what {destination} names, then: {replay}. If the payload is wrong: {correct}",
    FailureReason.EXHAUSTED: "Find out at {destination} why, then: {replay}",
    FailureReason.EXPIRED: "If it is still wanted: {replay}",
    FailureReason.BAD_PAYLOAD: "Nothing of it was sent. Correct its payload: {correct}",
    FailureReason.INTERNAL: "Once the fault is corrected: {replay}",
}
_MESSAGE_REMEDY = (
    "Request it again with the payload corrected. Nothing of this one was sent. Then, or if it is not wanted any more,"
    " close this one: {close_message}"
)
_KIND_REMEDY = "Clear up at {destination} what it says, then: {replay}"
_MONEY_KIND_REMEDY = (
    "Clear up at {destination} what it says, and make sure there that nothing was charged: a replay may start a new fee"
    " run. Then: {replay}"
)
_UNRESOLVED_REMEDIES = {
    OnUnknown.START_OR_GET: "A replay does no harm, because the same call returns how it stands: {replay}",
    OnUnknown.READ_BACK: "A replay does no harm, because it looks first whether it was done: {replay}",
    OnUnknown.REPEAT: "A replay does no harm, because its sender allowed it: {replay}",
    OnUnknown.STOP: (
        "Find out at {destination} whether {step} was done. If it was: {resolve_done}. If it was not: {replay_not_done}"
    ),
}
_CANCELLED_REMEDY = (
    "Its import was cancelled after a restore, and this ledger has not sent it. A replay would do it if it was not done"
    " before. Find out at {destination} whether it was done. If it was: {resolve_done}. If it was not: to leave it so,"
    " {resolve_not_done}; to have it done now, {replay_not_done}"
)


def standing(
    operation: Operation, kinds: Kinds, pause: AuditEntry | None = None, audit: Sequence[AuditEntry] | None = None
) -> str:
    """Return how an operation stands, and why. `pause` is the pause of its lane or its batch, if there is one.

    Without `audit` (the entries about the operation, oldest first) it is not known whether a person resolved it.
    """
    now = time.time() * 1000
    due_at = operation.due_at
    paused = ""
    of_batch = pause is not None and pause.subject.startswith(BATCH)
    if pause and due_at is not None and (of_batch or due_at <= now or due_at >= HELD_MS):
        paused = f"its {'import' if of_batch else 'lane'} is paused {paused_by(pause)}"
    elif due_at is not None and due_at >= HELD_MS:
        paused = f"its import {operation.batch} is paused"
    match operation.state:
        case State.QUEUED:
            return f"queued: {paused or 'no worker has taken it yet'}"
        case State.WAITING if operation.wait_reason:
            due = paused or _due(operation, now)
            why = _filled(_WAITS.get(operation.wait_reason, "the reason is not known to this version"), operation)
            if operation.wait_reason in _WAITS_FOR_ANOTHER and not paused:
                return f"waiting ({operation.wait_reason}): {why}"
            return f"waiting ({operation.wait_reason}): {why}; {due}"
        case State.FAILED if operation.failure_reason:
            return f"failed ({operation.failure_reason}): {_why_failed(operation, kinds, audit)}"
    return str(operation.state)


def remedy(
    operation: Operation, kinds: Kinds, remedies: Remedies = COMMANDS, *, was_cancelled_unsent: bool = False
) -> str:
    """Return what a person can do about an operation that failed or waits; empty if there is nothing to do.

    `was_cancelled_unsent`: it is one of `cancelled_unsent_among`.
    """
    kind = kinds.get(operation.kind)
    results = "".join(f" --result {name}={TO_FILL_IN}" for name in kind.result_ids) if kind is not None else ""
    named = {name: text.format(key=quote(operation.key), results=results) for name, text in remedies._asdict().items()}
    if operation.wait_reason in _WAIT_REMEDIES:
        return _filled(_WAIT_REMEDIES[operation.wait_reason], operation, named)
    reason = operation.failure_reason
    if reason is None:
        return ""
    if operation.kind == MESSAGE_KIND:
        return _filled(_MESSAGE_REMEDY, operation, named)
    if was_cancelled_unsent:
        return _filled(_CANCELLED_REMEDY, operation, named)
    if not is_replayable(operation):
        return _filled(_UNRESOLVED_REMEDIES[OnUnknown.STOP], operation, named)
    if reason == FailureReason.UNRESOLVED:
        if operation.on_unknown == OnUnknown.STOP:
            return _filled(_FAILED_REMEDIES[FailureReason.EXHAUSTED], operation, named)
        return _filled(_UNRESOLVED_REMEDIES[operation.on_unknown], operation, named)
    if reason == FailureReason.BAD_PAYLOAD and may_have_been_done(operation):
        return _filled(_FAILED_REMEDIES[FailureReason.EXHAUSTED], operation, named)  # an earlier version sent it
    if reason in FailureReason.__members__.values():
        return _filled(_FAILED_REMEDIES[FailureReason(reason)], operation, named)
    moves_money = kind is None or kind.moves_money  # the reason is the kind's own, so the lane says nothing
    return _filled(_MONEY_KIND_REMEDY if moves_money else _KIND_REMEDY, operation, named)


def destination_name(destination: str) -> str:
    """Return what people call a destination."""
    return {B2COPY: "B2COPY", CRM: "the CRM"}.get(destination, destination)


def paused_by(pause: AuditEntry) -> str:
    """Return since when, by whom and why something is paused."""
    return f"since {clock(pause.at)} UTC by {pause.actor}: {pause.note}"


def pause_text(pause: AuditEntry) -> str:
    """Say that a lane is paused: since when, by whom and why."""
    lane = pause.subject.removeprefix("pause:")
    return f"{'all lanes are' if lane == 'all' else f'lane {lane} is'} paused {paused_by(pause)}"


def _why_failed(operation: Operation, kinds: Kinds, audit: Sequence[AuditEntry] | None) -> str:
    reason = operation.failure_reason or ""
    if audit is None and reason == FailureReason.REJECTED:
        return _filled(_REJECTED_OR_RESOLVED, operation)
    last = next((entry for entry in reversed(audit or ()) if not is_of_proposal(entry)), None)
    if last is not None and last.action == RESOLVED_AS_FAILED:
        return f"{last.actor} found that it was not done: {last.note}"
    kind = kinds.get(operation.kind)
    if kind is not None and reason in kind.failure_reasons:
        return kind.failure_reasons[reason]
    if reason in FailureReason.__members__.values():
        return _filled(_FAILED[FailureReason(reason)], operation)
    return "its kind is not known to this version"


def _due(operation: Operation, now: float) -> str:
    seconds = ((operation.due_at or 0) - now) / 1000
    return f"next look in {seconds:.0f} s" if seconds >= 1 else "due now"


def _filled(sentence: str, operation: Operation, remedies: Mapping[str, str] | None = None) -> str:
    return sentence.format(
        destination=destination_name(operation.destination),
        entity=operation.entity,
        parent=operation.parent,
        key=quote(operation.key),
        step=operation.unknown_step or "it",
        address=our_address(),
        **(remedies or {}),
    )
