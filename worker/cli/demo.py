"""`b2copy-sync demo`: the main job, on this machine alone."""

from pathlib import Path
from typing import Annotated

import typer

from worker.cli import output
from worker.cli.exits import Exit, Stop
from worker.cli.options import Json

SAMPLE = Path(__file__).parents[2] / "deploy" / "demo" / "withdrawals.csv"


def demo(
    csv: Annotated[Path, typer.Option(help="Withdrawals, each row with how it must end.", show_default=False)] = SAMPLE,
    rows: Annotated[int | None, typer.Option(min=1, help="Only the first N rows.")] = None,
    json: Json = False,
) -> None:
    """Process the fees of sample withdrawals on a broker, a sandbox B2COPY, a worker and a beat of its own.

    Nothing that the environment names is touched. Exit code 0 only if every withdrawal ended as its row says it must,
    with one login, no call refused, and the session renewed ahead of expiry.
    """
    import aiohttp  # noqa: F401  the sandbox process needs it: if it is absent, say so before anything starts

    from worker.demo.play import play
    from worker.demo.rows import read
    from worker.demo.view import View
    from worker.testbed.processes import ProcessFailed

    try:
        withdrawals = read(csv, rows)
    except ValueError as error:
        raise Stop(Exit.USAGE, str(error)) from None
    try:
        report = play(withdrawals, View(output.err() if json else output.out()))
    except ProcessFailed as error:
        raise Stop(Exit.FAILED, str(error)) from None
    if json:
        output.document(report.told())
    if not report.passed:
        raise typer.Exit(Exit.FAILED)
