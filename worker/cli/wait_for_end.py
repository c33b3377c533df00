"""Wait for the end of an accepted operation, show how far it is, and exit as it ended."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import output
from worker.cli.exit_codes import Exit, Stop
from worker.cli.operation_view import STYLES
from worker.cli.options import duration
from worker.operation import FINAL, State

if TYPE_CHECKING:
    from worker.operation import Operation, Recorded

_LOOK_EVERY_S = 0.2  # seconds
_NO_WORKER_S = 5.0  # seconds in the queue after which a worker should have taken it


def _with_wait(context: typer.Context, timeout_s: float | None) -> float | None:
    if timeout_s is not None and not context.params.get("wait"):
        raise typer.BadParameter("needs --wait: without it, the command does not wait")
    return timeout_s


# Eager: it is read before --timeout, wherever it stands.
Wait = Annotated[bool, typer.Option("--wait", is_eager=True, help="Wait until it has succeeded or failed.")]
Timeout = Annotated[
    float | None,
    typer.Option(
        parser=duration,
        metavar="DURATION",
        help="Wait no longer than this, with --wait.",
        show_default="no limit",
        callback=_with_wait,
    ),
]


def follow(recorded: "Recorded", wait: bool, timeout_s: float | None, as_json: bool) -> None:
    """Print how an accepted operation stands; with `wait`, once it has ended. Exits accordingly."""
    try:
        _follow(recorded, wait, timeout_s, as_json)
    except output.NotWritten as error:
        raise Stop(error.code, *error.lines, f"{recorded.key} is accepted: b2copy-sync status {recorded.key}") from None


def _follow(recorded: "Recorded", wait: bool, timeout_s: float | None, as_json: bool) -> None:
    from tasks.registry import ALL_KINDS
    from worker.instances import ledger
    from worker.ledger import find
    from worker.report.operation_report import report_on, summary

    if not (as_json or wait):
        output.line(f"{recorded.key} is {'accepted' if recorded.created else 'known already'}")
    operation = _wait_for_end(recorded.key, timeout_s) if wait else find(ledger(), recorded.key)
    if operation is None:
        raise Stop(Exit.NOT_FOUND, f"{recorded.key} has been purged")
    report = report_on(ledger(), operation, ALL_KINDS)
    if as_json:
        output.document({**summary(report), "created": recorded.created})
    elif wait or not recorded.created:
        is_explained = report.server_message and operation.state != State.SUCCEEDED
        message = f": {report.server_message}" if is_explained else ""
        output.line(f"{operation.key} {report.standing}{message}", style=STYLES.get(operation.state, ""))
        if report.remedy:
            output.note(report.remedy)
    if operation.state in FINAL and operation.state != State.SUCCEEDED:
        raise typer.Exit(Exit.NOT_SUCCEEDED)
    if wait and operation.state not in FINAL:
        if not as_json:
            output.note(f"not finished yet; the operation continues: b2copy-sync status {operation.key}")
        raise typer.Exit(Exit.WAITING)


def _wait_for_end(key: str, timeout_s: float | None) -> "Operation | None":
    """Return the operation when it has ended, when time is up, or None when it has been purged."""
    try:
        return _watch(key, timeout_s)
    except KeyboardInterrupt:
        raise Stop(Exit.WAITING, f"the operation continues: b2copy-sync status {key}") from None


def _watch(key: str, timeout_s: float | None) -> "Operation | None":
    """Show on stderr how far it is: on a terminal one line that changes, elsewhere a line for each change."""
    from tasks.registry import ALL_KINDS
    from worker.instances import ledger
    from worker.ledger import find
    from worker.report.operation_report import pause_of
    from worker.report.sentences import standing

    began, shown = time.monotonic(), ""
    with output.err().status("") as spinner:
        while (operation := find(ledger(), key)) is not None and operation.state not in FINAL:
            waited_s = time.monotonic() - began
            if timeout_s is not None and waited_s >= timeout_s:
                break
            pause = pause_of(ledger(), operation)
            text = standing(operation, ALL_KINDS, pause)
            if operation.state == State.QUEUED and pause is None and waited_s > _NO_WORKER_S:
                text += "; is one running? (b2copy-sync doctor)"
            if output.err().is_terminal:
                spinner.update(output.safe(f"{key} {text}"))  # a plain str would be read as markup
            elif (without_countdown := text.partition(";")[0]) != shown:
                shown = without_countdown
                output.note(f"{key} {text}")
            time.sleep(_LOOK_EVERY_S)
    return operation
