"""What became of an operation; without a key, how the whole system stands."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import output
from worker.cli.exit_codes import Exit, Stop
from worker.cli.find_by_name import all_named, look_up
from worker.cli.open_ledger import existing_ledger
from worker.cli.operation_view import show
from worker.cli.options import Json, OptionalKey
from worker.current_user import current_user

if TYPE_CHECKING:
    from worker.ledger import Ledger
    from worker.operation import Operation
    from worker.report.operation_report import OperationReport
    from worker.session import State

_PATIENCE = 10.0  # seconds for a worker to take it and B2COPY to answer


def status(
    key: OptionalKey = None,
    poll_now: Annotated[
        bool,
        typer.Option(
            "--poll-now",
            help=(
                "Make a waiting operation due now: a worker asks B2COPY about it, or sends it if that was not done yet."
            ),
        ),
    ] = False,
    keep_watching: Annotated[
        bool, typer.Option("--watch", help="Without a KEY: show the overview until Ctrl-C, every two seconds.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show an operation with all evidence: every attempt, B2COPY's messages, why it waits, who decided what.

    An id that several operations have lists them all, also messages that could not be used and name it. Without a KEY:
    the overview of lanes, ages, rates, session, what waits and what failed.

    --json is the export for a regulator or a dispute. Exit code: 0 if there is such an operation, however it
    ended; 5 if there is none.
    """
    from tasks.registry import ALL_KINDS
    from worker.report.operation_report import document, report_on

    if key is None:
        if poll_now:
            raise typer.BadParameter("name the KEY of the operation", param_hint="--poll-now")
        _overview(keep_watching, as_json)
        return
    if keep_watching:
        raise typer.BadParameter("it shows the overview: leave KEY out", param_hint="--watch")
    with existing_ledger() as ledger:
        if len(named := all_named(ledger, key)) > 1:
            if poll_now:
                raise Stop(Exit.USAGE, f"{key} is the id of several operations: name one of {', '.join(named)}")
            _show_all([report_on(ledger, one, ALL_KINDS) for one in named.values()], as_json)
            return
        operation = next(iter(named.values())) if named else look_up(ledger, key)
        if poll_now:
            operation = _polled(ledger, operation)
        report = report_on(ledger, operation, ALL_KINDS)
    if as_json:
        output.document(document(report))
    else:
        show(report)


def _overview(keep_watching: bool, as_json: bool) -> None:
    from worker.cli import overview_view
    from worker.report.overview import SystemOverview, document, system_overview

    with existing_ledger() as ledger:

        def look() -> SystemOverview:
            return system_overview(ledger, _session_state)

        if as_json:
            output.document(document(look()))
        elif keep_watching:
            try:
                overview_view.watch(look)
            except KeyboardInterrupt:
                return
        else:
            overview_view.show(look())


def _session_state() -> "State":
    from worker.instances import usable_session

    output.mute_session()
    return usable_session().state()


def _show_all(reports: "list[OperationReport]", as_json: bool) -> None:
    from worker.cli.list_operations import show_table
    from worker.report.operation_report import summary

    if as_json:
        output.document({"operations": [summary(report) for report in reports]})
        return
    show_table(reports)
    output.note("several operations have this id: b2copy-sync status KEY shows one of them")


def _polled(ledger: "Ledger", operation: "Operation") -> "Operation":
    """Have a worker try a waiting operation, and return it as it stands when that is done."""
    from worker.ledger import attempts_of, find, poll_now
    from worker.messages.wake_up import wake
    from worker.operation import FINAL, State
    from worker.report.format_values import span

    def tried() -> int:
        return sum(attempt.times for attempt in attempts_of(ledger, operation.id))

    before = tried()
    if poll_now(ledger, operation.key, current_user(), "status --poll-now"):
        wake(operation.lane)
    elif (now := find(ledger, operation.key) or operation).state != State.RUNNING:  # else a worker tries it right now
        output.note(f"{operation.key} is {now.state}, it does not wait: nothing was made due")
        return now
    ends = time.monotonic() + _PATIENCE
    while (find(ledger, operation.key) or operation).state not in FINAL and tried() == before:
        if time.monotonic() > ends:
            output.note(f"not tried within {span(_PATIENCE)}: is a worker running? (b2copy-sync doctor)")
            break
        time.sleep(0.1)
    return find(ledger, operation.key) or operation  # only now: it may have been tried since it was read
