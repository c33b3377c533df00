"""Is the ledger reachable, and is what is due being done? For a monitoring script, and at a glance."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from worker.cli import say
from worker.cli.exits import Exit
from worker.cli.ledger import existing_ledger
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
    from worker.ledger import raised
    from worker.ledger.census import census

    with existing_ledger() as ledger:
        found = census(ledger)
        pauses = [flag for name, flag in raised(ledger).items() if name.startswith("pause:")]
    failed = sum(found.failed.values())
    problems = [
        f"lane {lane}: something has been due for {say.span(seconds)}: is a worker running?"
        for lane, seconds in found.late.items()
        if seconds > late
    ]
    if max_failed is not None and failed > max_failed:
        problems.append(f"failed: {failed} (b2copy-sync failed list)")
    if as_json:
        say.document(
            {
                "well": not problems,
                "problems": problems,
                "due": found.due,
                "late_seconds": found.late,
                "waiting": found.waiting,
                "failed": found.failed,
                "paused": [flag.subject.removeprefix("pause:") for flag in pauses],
            }
        )
    else:
        lanes = [f"{lane} {count} (late {say.span(found.late[lane])})" for lane, count in found.due.items() if count]
        say.line(f"due:     {', '.join(lanes) or 'none'}")
        say.line(f"waiting: {_counts(found.waiting)}")
        say.line(f"failed:  {_counts(found.failed)}")
        for flag in pauses:
            say.line(f"paused:  {flag.subject.removeprefix('pause:')}, by {flag.who}: {flag.why}", style="yellow")
        for problem in problems:
            say.line(f"UNWELL   {problem}", style="red")
    if problems:
        raise typer.Exit(Exit.FAILED)


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
