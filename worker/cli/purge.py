"""`purge`: remove operations that ended long ago."""

from typing import Annotated

import typer

from worker.cli import output
from worker.cli.exit_codes import Exit, Stop
from worker.cli.open_ledger import existing_ledger
from worker.cli.options import Json, duration
from worker.current_user import current_user


def purge(
    older_than: Annotated[
        float | None,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="Ended longer ago than this.",
            show_default="B2COPY_RETENTION, 400d",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Allow a time shorter than B2COPY_RETENTION.")] = False,
    undecided: Annotated[
        bool,
        typer.Option(
            "--undecided",
            help="Also remove failed operations whose outcome is unknown. Better resolve those before.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove operations that ended long ago, with their evidence.

    What is queued, running or waiting is never purged, however old. Nor is its parent, or a parent that succeeded of
    what has failed, because that may be replayed. Nor is a registration that succeeded, because an account may be
    opened after it years later. The audit stores who purged, and how many.
    """
    from tasks.registry import ALL_KINDS
    from worker.ledger import purge as remove
    from worker.ledger.purge import count_purgeable
    from worker.report.format_values import count, span
    from worker.settings import LedgerSettings, load

    settings = load(LedgerSettings)
    age = older_than or settings.retention
    if age < settings.retention and not (yes or dry_run):
        raise Stop(
            Exit.USAGE,
            f"B2COPY_RETENTION stores evidence for {span(settings.retention)}: --yes removes it after {span(age)}",
        )
    parents = [kind.name for kind in ALL_KINDS.values() if kind.is_parent]
    with existing_ledger(settings) as ledger:
        if dry_run:
            purged = count_purgeable(ledger, age, undecided=undecided, parents=parents)
        else:
            purged = remove(ledger, age, by=current_user(), undecided=undecided, parents=parents)
    if as_json:
        output.document({"older_than_s": age, "dry_run": dry_run, "operations": purged})
    else:
        done = "would be removed" if dry_run else "removed"
        output.line(f"{count(purged)} that ended more than {span(age)} ago {done}")
