"""`health`: is what is due being done? `--live` and `--ready` are for health probes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli import output
from worker.cli.exit_codes import Exit
from worker.cli.open_ledger import existing_ledger
from worker.cli.options import Json, duration
from worker.report.thresholds import DUE_LATE_S, MONEY_LATE_S

if TYPE_CHECKING:
    from worker.report.health import Health


def health(
    live: Annotated[
        bool, typer.Option("--live", help="Only: has the worker touched B2COPY_HEARTBEAT_FILE within 30 s?")
    ] = False,
    ready: Annotated[
        bool, typer.Option("--ready", help="Only: do ledger and Redis answer, and is the login not refused?")
    ] = False,
    late: Annotated[
        float,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="Unhealthy if no worker works on what is due, or takes a row of b2copy_requests, for longer.",
            show_default=f"{DUE_LATE_S:.0f}s",
        ),
    ] = DUE_LATE_S,
    money_late: Annotated[
        float,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="Unhealthy if an operation of the lane money is older than this.",
            show_default=f"{MONEY_LATE_S:.0f}s",
        ),
    ] = MONEY_LATE_S,
    max_failed: Annotated[
        int | None, typer.Option(min=0, help="Unhealthy if more have failed.", show_default="any number is healthy")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how the ledger stands: what is due and how late, what waits and why, what has failed.

    Asks the database alone. Exit code 1 if it cannot be reached, if something is due and no worker has worked on its
    lane for long (no worker runs?), if no worker takes a row of b2copy_requests, if no worker has looked at the ledger
    for 15 seconds, if the oldest operation in the lane money is too old, or if too many have failed. The time that an
    operation was pending at B2COPY or paused does not count.

    --live asks nobody: it looks at a file, for a health probe that finds a frozen worker. --ready asks ledger and
    Redis.
    """
    if live and ready:
        raise typer.BadParameter("--live and --ready are two health probes: use one of them", param_hint="--live")
    if live or ready:
        _probe(live, as_json)
        return
    from worker.report.health import document, health_of

    with existing_ledger() as ledger:
        found = health_of(ledger, late, max_failed, money_late)
    if as_json:
        output.document(document(found))
    else:
        _print(found)
    if found.problems:
        raise typer.Exit(Exit.FAILED)


def _probe(live: bool, as_json: bool) -> None:
    if live:
        import os

        from worker.watch import heartbeat

        problem = heartbeat.problem(os.environ.get(heartbeat.VARIABLE, ""))
    else:
        from worker.doctor.readiness import not_ready
        from worker.settings import Settings, load

        problem = not_ready(load(Settings))
    if as_json:
        output.document({"live" if live else "ready": not problem, "problem": problem or None})
    elif problem:
        output.note(problem)
    if problem:
        raise typer.Exit(Exit.FAILED)


def _print(found: "Health") -> None:
    from worker.report.format_values import span
    from worker.report.sentences import paused_by

    late_s = found.statistics.late_s
    due = [f"{lane} {count} (late {span(late_s[lane])})" for lane, count in found.statistics.due.items() if count]
    output.line(f"due:     {', '.join(due) or 'none'}")
    output.line(f"oldest:  {', '.join(f'{lane} {span(age_s)}' for lane, age_s in found.oldest_s.items()) or 'none'}")
    if found.requests_age_s is not None:
        output.line(f"requests: the oldest row of b2copy_requests waits for {span(found.requests_age_s)}")
    output.line(f"waiting: {_counts(found.statistics.waiting)}")
    output.line(f"failed:  {_counts(found.statistics.failed)}")
    for pause in found.pauses:
        output.line(f"paused:  {pause.subject.removeprefix('pause:')} {paused_by(pause)}", style="yellow")
    for note in found.notes:
        output.line(f"note:    {note}", style="yellow")
    for problem in found.problems:
        output.line(f"PROBLEM  {problem}", style="red")


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
