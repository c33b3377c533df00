"""Is the ledger reachable, and is what is due being done? For a monitoring script, and at a glance."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from worker.cli import output
from worker.cli.exits import Exit
from worker.cli.open_ledger import existing_ledger
from worker.cli.options import Json, duration


def health(
    late: Annotated[
        float, typer.Option(parser=duration, metavar="DURATION", help="Unwell if something is due for longer.")
    ] = 60.0,
    max_failed: Annotated[
        int | None, typer.Option(min=0, help="Unwell if more have failed.", show_default="any number is well")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell how the ledger stands: what is due and how late, what waits and why, what has failed.

    Asks the database alone. Exit code 1 if it cannot be reached, if something has been due for long and is not being
    done (no worker runs?), or if too many have failed.
    """
    from worker.ledger import active_flags
    from worker.ledger.statistics import statistics

    with existing_ledger() as ledger:
        found = statistics(ledger)
        pauses = [flag for name, flag in active_flags(ledger).items() if name.startswith("pause:")]
    failed = sum(found.failed.values())
    problems = [
        f"lane {lane}: something has been due for {output.span(seconds)}: is a worker running?"
        for lane, seconds in found.late_s.items()
        if seconds > late
    ]
    if max_failed is not None and failed > max_failed:
        problems.append(f"failed: {failed} (b2copy-sync failed list)")
    if as_json:
        output.document(
            {
                "well": not problems,
                "problems": problems,
                "due": found.due,
                "late_seconds": found.late_s,
                "waiting": found.waiting,
                "failed": found.failed,
                "paused": [flag.subject.removeprefix("pause:") for flag in pauses],
            }
        )
    else:
        lanes = [
            f"{lane} {count} (late {output.span(found.late_s[lane])})" for lane, count in found.due.items() if count
        ]
        output.line(f"due:     {', '.join(lanes) or 'none'}")
        output.line(f"waiting: {_counts(found.waiting)}")
        output.line(f"failed:  {_counts(found.failed)}")
        for flag in pauses:
            output.line(f"paused:  {flag.subject.removeprefix('pause:')}, by {flag.actor}: {flag.note}", style="yellow")
        for problem in problems:
            output.line(f"UNWELL   {problem}", style="red")
    if problems:
        raise typer.Exit(Exit.FAILED)


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
