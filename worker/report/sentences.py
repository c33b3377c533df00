"""How an operation stands, why it waits, why it failed, and what a person can do about it: one sentence each."""

import time
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from worker.kind import Kind
from worker.operation import MESSAGE_KIND, AuditEntry, FailureReason, OnUnknown, Operation, State, WaitReason
from worker.report.format_values import clock, our_address

Kinds = Mapping[str, Kind[Any]]
"""All kinds by name."""

RESOLVED_AS_FAILED = "resolve, failed"
"""The audit's action for a person's finding that the destination did not do it."""

_WAITS = {
    WaitReason.PENDING_AT_B2COPY: "{destination} has not finished it",
    WaitReason.BACKOFF: "the last attempt brought no answer that decides it",
    WaitReason.RATE_LIMITED: "the rate limit is reached, or {destination} asked us to wait",
    WaitReason.CIRCUIT_OPEN: "{destination} is unavailable, and only a probe is sent every two seconds",
    WaitReason.NO_SESSION: "there is no access token",
    WaitReason.NO_ACCESS: "{destination} refuses our access; our requests come from {address}",
    WaitReason.NEXT_STEP: "its next step is not due yet",
    WaitReason.BEHIND_ENTITY: "an earlier operation of {entity} goes first",
    WaitReason.BEHIND_PARENT: "{parent} has not succeeded yet",
}
_WAIT_REMEDIES = {
    WaitReason.NO_SESSION: "`b2copy-sync session show` says why. It continues by itself once a login succeeds.",
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
_REPLAY = '`b2copy-sync failed replay {key} --why "..."`'
_CORRECT = '`b2copy-sync failed correct {key} NAME=VALUE --why "..."`'
_FAILED_REMEDIES = {
    FailureReason.REJECTED: f"Correct what {{destination}} names, then: {_REPLAY}. If the payload is wrong: {_CORRECT}",
    FailureReason.EXHAUSTED: f"Find out at {{destination}} why, then: {_REPLAY}",
    FailureReason.EXPIRED: f"If it is still wanted: {_REPLAY}",
    FailureReason.BAD_PAYLOAD: f"Nothing of it was sent. Correct its payload: {_CORRECT}",
    FailureReason.INTERNAL: f"Once the fault is corrected: {_REPLAY}",
}
_MESSAGE_REMEDY = "Request it again with the payload corrected. Nothing of this one was sent."
_KIND_REMEDY = f"Clear up at {{destination}} what it says, then: {_REPLAY}"
_UNRESOLVED_REMEDIES = {
    OnUnknown.START_OR_GET: f"A replay does no harm, because the same call returns how it stands: {_REPLAY}",
    OnUnknown.READ_BACK: f"A replay does no harm, because it looks first whether it was done: {_REPLAY}",
    OnUnknown.REPEAT: f"A replay does no harm, because its sender allowed it: {_REPLAY}",
    OnUnknown.STOP: (
        "Find out at {destination} whether {step} was done. If it was:"
        ' `b2copy-sync failed resolve {key} --succeeded --why "..."`. If it was not:'
        ' `b2copy-sync failed replay {key} --it-was-not-done --why "..."`'
    ),
}


def standing(
    operation: Operation, kinds: Kinds, pause: AuditEntry | None = None, audit: Sequence[AuditEntry] = ()
) -> str:
    """Return how an operation stands, and why. `pause` is the pause of its lane, if there is one."""
    now = time.time() * 1000
    is_due = operation.due_at is not None and operation.due_at <= now
    paused = f"its lane is paused {paused_by(pause)}" if pause and is_due else ""
    match operation.state:
        case State.QUEUED:
            return f"queued: {paused or 'no worker has taken it yet'}"
        case State.WAITING if operation.wait_reason:
            due = paused or _due(operation, now)
            return f"waiting ({operation.wait_reason}): {_filled(_WAITS[operation.wait_reason], operation)}; {due}"
        case State.FAILED if operation.failure_reason:
            return f"failed ({operation.failure_reason}): {_why_failed(operation, kinds, audit)}"
    return str(operation.state)


def remedy(operation: Operation) -> str:
    """Return what a person can do about an operation that failed or waits; empty if there is nothing to do."""
    if operation.wait_reason in _WAIT_REMEDIES:
        return _filled(_WAIT_REMEDIES[operation.wait_reason], operation)
    reason = operation.failure_reason
    if reason is None:
        return ""
    if operation.kind == MESSAGE_KIND:
        return _MESSAGE_REMEDY
    if reason == FailureReason.UNRESOLVED:
        must_look = operation.outcome_unknown and operation.on_unknown == OnUnknown.STOP
        by_rule = OnUnknown.STOP if must_look else operation.on_unknown
        if by_rule == OnUnknown.STOP and not must_look:
            return _filled(_FAILED_REMEDIES[FailureReason.EXHAUSTED], operation)
        return _filled(_UNRESOLVED_REMEDIES[by_rule], operation)
    known = reason in FailureReason.__members__.values()
    return _filled(_FAILED_REMEDIES[FailureReason(reason)] if known else _KIND_REMEDY, operation)


def paused_by(pause: AuditEntry) -> str:
    """Return since when, by whom and why something is paused."""
    return f"since {clock(pause.at)} UTC by {pause.actor}: {pause.note}"


def _why_failed(operation: Operation, kinds: Kinds, audit: Sequence[AuditEntry]) -> str:
    reason = operation.failure_reason or ""
    if audit and audit[-1].action == RESOLVED_AS_FAILED:
        return f"{audit[-1].actor} found that it was not done: {audit[-1].note}"
    kind = kinds.get(operation.kind)
    if kind is not None and reason in kind.failure_reasons:
        return kind.failure_reasons[reason]
    if reason in FailureReason.__members__.values():
        return _filled(_FAILED[FailureReason(reason)], operation)
    return "its kind is not known to this version"


def _due(operation: Operation, now: float) -> str:
    seconds = ((operation.due_at or 0) - now) / 1000
    return f"next look in {seconds:.0f} s" if seconds >= 1 else "due now"


def _filled(sentence: str, operation: Operation) -> str:
    names = {"b2copy": "B2COPY", "crm": "the CRM"}
    return sentence.format(
        destination=names.get(operation.destination, operation.destination),
        entity=operation.entity,
        parent=operation.parent,
        key=quote(operation.key),
        step=operation.unknown_step or "it",
        address=our_address(),
    )
