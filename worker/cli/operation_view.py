"""Print an operation as `worker.report` describes it."""

import json
from typing import TYPE_CHECKING, Any

from worker.cli import output

if TYPE_CHECKING:
    from rich.text import Text

    from worker.operation import AttemptRecord, Step
    from worker.report.operation_report import OperationReport

STYLES = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "waiting": "cyan", "running": "cyan"}

_FACT_LIMIT = 500  # characters of a payload or result that are shown
_ACTIONS = {
    "replay": "replayed",
    "replay, was not done": "replayed, was not done",
    "resolve, succeeded": "found done",
    "resolve, failed": "found not done",
    "cancel": "cancelled",
    "stop_asking": "polling stopped",
}

Cells = tuple["str | Text", ...]


def show(report: "OperationReport") -> None:
    """Print an operation with all its evidence."""
    from worker.report.format_values import clock, span

    operation = report.operation
    output.line(operation.key, style="bold")
    step = operation.unknown_step or "an earlier request"
    facts: list[tuple[str, str | Text | None]] = [
        ("state", output.safe(report.standing, STYLES.get(operation.state, ""))),
        *((name, _short(value)) for name, value in operation.payload.items() if value is not None),
        ("lane", operation.lane),
        ("entity", operation.entity),
        ("parent", operation.parent),
        ("batch", operation.batch),
        ("outcome", f"what {step} did is not known" if operation.outcome_unknown else None),
        ("progress", _short(operation.progress) if operation.progress else None),
        ("polls", str(operation.polls) if operation.polls else None),
        ("deadline", f"{clock(operation.deadline_at)} UTC" if operation.deadline_at else None),
        ("took", span((operation.ended_at - operation.requested_at) / 1000) if operation.ended_at else None),
        (
            "external wait",
            f"{span(operation.external_wait_ms / 1000)}, pending or paused" if operation.external_wait_ms else None,
        ),
        ("result", _short(operation.result) if operation.result else None),
    ]
    output.facts(facts)
    output.line()
    output.table(("When (UTC)", "What", "HTTP", "Took", "By", "Message"), _history(report))
    if report.remedy:
        output.line()
        output.line(report.remedy)


def note_unknown_kind(kind: str | None) -> None:
    """Say so if no kind is called that. It is no error: the ledger may hold operations of a kind that is gone."""
    from tasks.registry import ALL_KINDS
    from worker.operation import MESSAGE_KIND

    if kind is not None and kind not in (known := (*ALL_KINDS, MESSAGE_KIND)):
        output.note(f"no kind is called {kind}: there are {', '.join(known)}")


def _history(report: "OperationReport") -> list[Cells]:
    """Return everything that happened, oldest first."""
    from worker.report.format_values import clock

    operation = report.operation
    events: list[tuple[int, list[Cells]]] = [
        (operation.requested_at, [("requested", "", "", operation.requested_by, "")])
    ]
    events += [(attempt.started_at, _attempt(attempt)) for attempt in report.attempts]
    events += [
        (entry.at, [(_ACTIONS.get(entry.action, entry.action), "", "", entry.actor, entry.note)])
        for entry in report.audit
    ]
    if operation.ended_at:
        end = output.safe(str(operation.state), STYLES[operation.state])
        events.append((operation.ended_at, [(end, "", "", "", operation.failure_reason or "")]))
    events.sort(key=lambda event: event[0])
    return [(clock(at) if not number else "", *cells) for at, rows in events for number, cells in enumerate(rows)]


def _attempt(attempt: "AttemptRecord") -> list[Cells]:
    from worker.report.format_values import clock, span

    what = attempt.outcome
    if attempt.times > 1:
        what += f" x{attempt.times}" + (f" until {clock(attempt.last_at)[11:]}" if attempt.last_at else "")
    if attempt.late:
        what += " (after its lease had ended)"
    by = f"{attempt.worker} {attempt.version}".strip()
    status = str(attempt.http_status or "")
    took = span(attempt.duration_ms / 1000)
    return [(what, status, took, by, attempt.message or ""), *(_step(step) for step in attempt.steps)]


def _step(step: "Step") -> Cells:
    from worker.report.format_values import span

    return f"- {step.name}: {step.outcome}", str(step.http_status or ""), span(step.duration_ms / 1000), "", ""


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _FACT_LIMIT else text[:_FACT_LIMIT] + " ... (all of it: --json)"
