"""Print an operation as `worker.report` describes it."""

import json
from typing import TYPE_CHECKING, Any

from worker.cli import output

if TYPE_CHECKING:
    from rich.text import Text

    from worker.operation import Step
    from worker.report.operation_report import OperationReport

STYLES = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "waiting": "cyan", "running": "cyan"}

_FACT_LIMIT = 500  # characters of a payload or result that are shown

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
    """Return everything that happened, oldest first: a row for each event, and one for each step of an attempt."""
    from worker.report.format_values import clock, span
    from worker.report.timeline import timeline

    rows: list[Cells] = []
    for event in timeline(report):
        what = output.safe(event.what, STYLES[report.operation.state] if event.kind == "end" else "")
        took = "" if event.duration_ms is None else span(event.duration_ms / 1000)
        rows.append((clock(event.at), what, str(event.http_status or ""), took, event.by, event.text))
        rows += [("", *_step(step)) for step in event.steps]
    return rows


def _step(step: "Step") -> Cells:
    from worker.report.format_values import span

    return f"- {step.name}: {step.outcome}", str(step.http_status or ""), span(step.duration_ms / 1000), "", ""


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _FACT_LIMIT else text[:_FACT_LIMIT] + " ... (all of it: --json)"
