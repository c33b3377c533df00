"""`list`: which operations there are, by account, request id, state, kind, age or batch."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli import output
from worker.cli.open_ledger import existing_ledger
from worker.cli.operation_view import STYLES
from worker.cli.options import AnyLane, Json, duration
from worker.operation import MESSAGE_KIND, State

if TYPE_CHECKING:
    from worker.report.operation_report import OperationReport


def list_(
    account: Annotated[
        str | None, typer.Option(help="Only those that name this MT login, or any other text of their payload.")
    ] = None,
    request_id: Annotated[str | None, typer.Option(help="Only those of this request id, whatever their kind.")] = None,
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    still_open: Annotated[bool, typer.Option("--open", help="Only those that have not ended.")] = False,
    reason: Annotated[str | None, typer.Option(help="Only those that wait or failed for this reason.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind, e.g. fees.process.")] = None,
    lane: Annotated[AnyLane | None, typer.Option(help="Only this lane.")] = None,
    batch: Annotated[str | None, typer.Option(help="Only those of this import or batch.")] = None,
    older: Annotated[
        float | None,
        typer.Option(parser=duration, metavar="DURATION", help="Only those in their state for longer than this."),
    ] = None,
    after: Annotated[
        int | None,
        typer.Option(metavar="ID", min=0, max=2**63 - 1, help="Continue after this id, as the last page says."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Show no more than this many.")] = 50,
    as_json: Json = False,
) -> None:
    """List operations, newest first. Each page looks through a bounded part of the ledger, and says how to continue."""
    from tasks.registry import ALL_KINDS, KINDS
    from worker.ledger.operation_lists import OPEN, Filter, list_operations
    from worker.report.operation_report import report_on, summary

    if state is not None and still_open:
        raise typer.BadParameter("a state and --open are two filters: use one of them", param_hint="--open")
    states: tuple[State, ...] = OPEN if still_open else () if state is None else (state,)
    older_ms = None if older is None else round(older * 1000)
    wanted = Filter(
        states=states, lane=lane, kind=kind, reason=reason, account=account, request_id=request_id, batch=batch,
        older_ms=older_ms,
    )  # fmt: skip
    with existing_ledger() as ledger:
        page = list_operations(ledger, wanted, after, limit)
        reports = [report_on(ledger, operation, KINDS) for operation in page.operations]
    if as_json:
        output.document({"operations": [summary(report) for report in reports], "next": page.next})
        return
    if reports:
        show_table(reports)
    else:
        output.line("no operations that match")
        if kind is not None and kind not in (known := (*ALL_KINDS, MESSAGE_KIND)):
            output.note(f"no kind is called {kind}: there are {', '.join(known)}")
    if page.next is not None:
        output.note(f"there may be more: --after {page.next}")


def show_table(reports: "list[OperationReport]") -> None:
    """Print operations, one a line."""
    from worker.report.format_values import clock

    rows: list[tuple[Any, ...]] = [
        (
            one.operation.key,
            one.operation.lane,
            output.safe(one.operation.state, STYLES.get(one.operation.state, "")),
            str(one.operation.wait_reason or one.operation.failure_reason or ""),
            clock(one.operation.state_since),
            one.server_message,
        )
        for one in reports
    ]
    output.table(("Key", "Lane", "State", "Reason", "Since (UTC)", "Last message"), rows)
