"""`failed`: what people decide about operations: those that failed, and one that is to be cancelled."""

from typing import Annotated

import typer

from worker.cli import operation_view, output
from worker.cli.correct import correct
from worker.cli.exit_codes import EXITS
from worker.cli.find_by_name import look_up
from worker.cli.open_ledger import existing_ledger
from worker.cli.options import ByKind, ByLane, ByReason, Json, Key, Since
from worker.cli.replay import replay
from worker.cli.resolve_and_cancel import cancel, resolve
from worker.operation import State

app = typer.Typer(
    help=(
        "Decide about operations: list those that failed, see why, replay, correct or resolve them; cancel one that has"
        " not ended."
    ),
    no_args_is_help=True,
    epilog=EXITS,
)


def list_(
    reason: ByReason = None,
    kind: ByKind = None,
    lane: ByLane = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Show no more than this many, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List failed operations, newest first, with the last message of the other side."""
    from tasks.registry import ALL_KINDS
    from worker.ledger import search
    from worker.report.format_values import clock
    from worker.report.operation_report import report_on, summary

    with existing_ledger() as ledger:
        found = search(
            ledger, state=State.FAILED, failure_reason=reason, kind=kind, lane=lane, since=since, limit=limit + 1
        )
        reports = [report_on(ledger, operation, ALL_KINDS) for operation in found[:limit]]
    more = len(found) > limit
    if as_json:
        output.document({"failed": [summary(report) for report in reports], "more": more})
        return
    if not reports:
        output.line("no failed operations" + (" that match" if reason or kind or lane or since else ""))
        operation_view.note_unknown_kind(kind)
        return
    output.table(
        ("Key", "Lane", "Reason", "Failed (UTC)", "Last message"),
        [
            (
                one.operation.key,
                one.operation.lane,
                str(one.operation.failure_reason),
                clock(one.operation.state_since),
                one.server_message,
            )
            for one in reports
        ],
    )
    if more:
        output.note(f"these are the newest {limit}: --limit shows more")


def show(key: Key, as_json: Json = False) -> None:
    """Show a failed operation with all evidence, and what can be done about it."""
    from tasks.registry import ALL_KINDS
    from worker.report.operation_report import document, report_on

    with existing_ledger() as ledger:
        report = report_on(ledger, look_up(ledger, key), ALL_KINDS)
    if as_json:
        output.document(document(report))
        return
    operation_view.show(report)
    if report.operation.state != State.FAILED:
        output.note(f"it has not failed: it is {report.operation.state}")


for name, command in (
    ("list", list_),
    ("show", show),
    ("replay", replay),
    ("correct", correct),
    ("resolve", resolve),
    ("cancel", cancel),
):
    app.command(name, epilog=EXITS)(command)
