"""What happened to an operation, as one list: requested, attempts, waits, decisions, end."""

import json
from dataclasses import dataclass
from typing import Any

from worker.operation import AttemptRecord, AuditEntry, Step
from worker.report.format_values import clock, span
from worker.report.operation_report import OperationReport

_VALUE_LIMIT = 100  # characters of a value that a decision changed
WAIT_SHOWN_MS = 1_000  # ms; shorter gaps between two attempts are not shown as waits

_DECIDED = {
    "replay": "replayed",
    "replay, was not done": "replayed, was not done",
    "resolve, succeeded": "found done",
    "resolve, failed": "found not done",
    "resolve, cancelled": "closed",  # a message that could not be used
    "cancel": "cancelled",
    "stop_asking": "stopped asking",
}
"""The word for a decision, by its action in the audit. Other actions are shown as they are."""


@dataclass(frozen=True)
class Event:
    """Something that happened at `at` (ms since the epoch). `what` is a word or a few, `text` the message or note."""

    at: int
    what: str
    by: str = ""
    text: str = ""
    http_status: int | None = None
    duration_ms: int | None = None
    steps: tuple[Step, ...] = ()
    kind: str = "attempt"


def timeline(report: OperationReport) -> list[Event]:
    """Return all events, oldest first."""
    operation = report.operation
    events = [Event(operation.requested_at, "requested", operation.requested_by, kind="request")]
    events += [_attempt(attempt) for attempt in report.attempts]
    events += [_decision(entry) for entry in _decisions(report)]
    if operation.ended_at:
        events.append(Event(operation.ended_at, str(operation.state), text=operation.failure_reason or "", kind="end"))
    events.sort(key=lambda event: event.at)
    return _with_waits(events, report.attempts)


def _decisions(report: OperationReport) -> list[AuditEntry]:
    """Return the decisions about the operation, and those about its batch while it was open."""
    ended = report.operation.ended_at
    of_batch = [
        entry
        for entry in report.batch_audit
        if entry.at >= report.operation.requested_at and (ended is None or entry.at <= ended)
    ]
    return report.audit + of_batch


def _decision(entry: AuditEntry) -> Event:
    text = f"{entry.note} ({changes})" if (changes := _changed_fields(entry)) else entry.note
    return Event(entry.at, _DECIDED.get(entry.action, entry.action), entry.actor, text, kind="decision")


def _changed_fields(entry: AuditEntry) -> str:
    """Return the fields of the payload that the decision changed, with their values before and after."""
    before, after = ((entry.detail or {}).get(part, {}).get("payload") or {} for part in ("before", "after"))
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ", ".join(f"{name} {_short(before.get(name))} -> {_short(after.get(name))}" for name in changed)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _VALUE_LIMIT else f"{text[:_VALUE_LIMIT]}..."


def _attempt(attempt: AttemptRecord) -> Event:
    what = attempt.outcome
    if attempt.times > 1:
        what += f" x{attempt.times}" + (f" until {clock(attempt.last_at)[11:]}" if attempt.last_at else "")
    if attempt.late:
        what += " (after its lease had ended)"
    by = f"{attempt.worker} {attempt.version}".strip()
    steps = attempt.steps
    return Event(
        attempt.started_at, what, by, attempt.message or "", attempt.http_status, attempt.duration_ms, steps=steps
    )


def _with_waits(events: list[Event], attempts: list[AttemptRecord]) -> list[Event]:
    """Add a wait where more than a second passed between the end of one event and the start of an attempt."""
    ends = {attempt.started_at: attempt.last_at or attempt.started_at + attempt.duration_ms for attempt in attempts}
    with_waits: list[Event] = []
    until: int | None = None
    for event in events:
        if until is not None and event.kind == "attempt" and event.at - until >= WAIT_SHOWN_MS:
            gap_s = (event.at - until) / 1000
            with_waits.append(Event(until, f"waited {span(gap_s)}", kind="wait"))
        with_waits.append(event)
        until = max(until or 0, ends.get(event.at, event.at) if event.kind == "attempt" else event.at)
    return with_waits
