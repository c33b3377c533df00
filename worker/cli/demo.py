"""`b2copy-sync demo`: the fees of sample withdrawals, processed on this machine alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from worker.cli import output
from worker.cli.exit_codes import Exit, Stop
from worker.cli.options import Json

if TYPE_CHECKING:
    from worker.demo.book import BookReport
    from worker.demo.endings import Report
    from worker.demo.view import View


def demo(
    story: Annotated[
        Literal["withdrawals", "book"],
        typer.Option(help="What is shown: the fees of withdrawals, or ten clients from their registration on."),
    ] = "withdrawals",
    csv: Annotated[
        Path | None,
        typer.Option(help="Withdrawals, each row with how it must end.", show_default="200 sample withdrawals"),
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Only the first N rows.")] = None,
    console: Annotated[
        bool, typer.Option("--console", help="Open the operations console, and keep it open until Ctrl-C.")
    ] = False,
    json: Json = False,
) -> None:
    """Process the fees of sample withdrawals with a broker, a sandbox B2COPY, a worker and a beat of its own.

    It ignores and does not touch what your environment variables name. Exit code 0 only if every withdrawal ended as
    its row says it must, with one login, no call refused, and the session renewed before it expired.

    --story book registers ten clients, opens their accounts and has the fees of their withdrawals charged.
    """
    try:
        import aiohttp  # noqa: F401  the sandbox needs it; check before any process starts
    except ModuleNotFoundError:
        raise Stop(Exit.USAGE, "the demo needs the package aiohttp: pip install 'b2copy-sync[demo]'") from None

    from worker.demo.view import View
    from worker.testbed.processes import ProcessFailed

    if story == "book" and (csv or rows):
        raise Stop(Exit.USAGE, "--csv and --rows choose withdrawals: leave them out with --story book")
    view = View(output.err() if json else output.out())
    report: Report | BookReport
    try:
        if story == "book":
            from worker.demo.run_book import run_book

            report = run_book(view, console)
        else:
            report = _run_withdrawals(csv, rows, view, console)
    except ProcessFailed as error:
        raise Stop(Exit.FAILED, str(error)) from None
    if json:
        output.document(report.document())
    if not report.passed:
        raise typer.Exit(Exit.FAILED)


def _run_withdrawals(csv: Path | None, rows: int | None, view: "View", console: bool) -> "Report":
    from worker.demo.read_withdrawals import SAMPLE, read
    from worker.demo.run import run

    try:
        withdrawals = read(csv or SAMPLE, rows)
    except ValueError as error:
        raise Stop(Exit.USAGE, str(error)) from None
    return run(withdrawals, view, console)
