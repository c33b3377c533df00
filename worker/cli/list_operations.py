"""`list`: which operations there are, by account, request id, state, kind, age or batch."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli import output
from worker.cli.exit_codes import Exit, Stop
from worker.cli.open_ledger import existing_ledger
from worker.cli.operation_view import STYLES, note_unknown_kind
from worker.cli.options import AnyLane, AnyReason, Json, duration
from worker.operation import State

if TYPE_CHECKING:
    from worker.report.operation_report import OperationReport


def list_(
    account: Annotated[
        str | None, typer.Option(help="Only those that name this MT login, or any other text of their payload.")
    ] = None,
    request_id: Annotated[str | None, typer.Option(help="Only those of this request id, whatever their kind.")] = None,
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    still_open: Annotated[bool, typer.Option("--open", help="Only those that have not ended.")] = False,
    reason: Annotated[
        AnyReason | None,
        typer.Option(metavar="REASON", help="Only those that wait or failed for this reason, e.g. no_session."),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind, e.g. fees.process.")] = None,
    lane: Annotated[AnyLane | None, typer.Option(help="Only this lane.")] = None,
    batch: Annotated[str | None, typer.Option(help="Only those of this import or batch.")] = None,
    older: Annotated[
        float | None,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="Only those without an attempt or a decision for longer: 90s, 5m, 72h. An operation that is retried"
            " every few seconds is not among them: see --age.",
        ),
    ] = None,
    age: Annotated[
        float | None,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="Only those that have not ended, are not pending at B2COPY now, and are older by our clock. The time"
            " that they were pending or paused does not count.",
        ),
    ] = None,
    after: Annotated[
        int | None,
        typer.Option(metavar="ID", min=0, max=2**63 - 1, help="Show the page after this id: a page ends with it."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Show no more than this many.")] = 50,
    as_json: Json = False,
) -> None:
    """List operations, newest first.

    A page looks at some thousands of operations, so that it is quick on every ledger. If there may be more that match,
    it ends with the --after of the next page.
    """
    from tasks.registry import ALL_KINDS
    from worker.ledger.batches import find_batch
    from worker.ledger.operation_lists import OPEN, Filter, list_operations
    from worker.report.operation_report import report_on, summary

    if state is not None and still_open:
        raise typer.BadParameter("a state and --open are two filters: use one of them", param_hint="--open")
    is_open = still_open or (age is not None and state is None)
    states: tuple[State, ...] = OPEN if is_open else () if state is None else (state,)
    older_ms = None if older is None else round(older * 1000)
    age_ms = None if age is None else round(age * 1000)
    wanted = Filter(
        states=states, lane=lane, kind=kind, reason=reason, account=account, request_id=request_id, batch=batch,
        older_ms=older_ms, age_ms=age_ms,
    )  # fmt: skip
    with existing_ledger() as ledger:
        page = list_operations(ledger, wanted, after, limit)
        reports = [report_on(ledger, operation, ALL_KINDS) for operation in page.operations]
        if batch is not None and not reports and find_batch(ledger, batch) is None:
            unknown = f"no import or batch is called {batch}: `b2copy-sync import status` lists the imports"
            raise Stop(Exit.NOT_FOUND, unknown)
    if as_json:
        output.document({"operations": [summary(report) for report in reports], "next": page.next})
        return
    if reports:
        show_table(reports)
    else:
        output.line("no operations that match")
        note_unknown_kind(kind)
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
