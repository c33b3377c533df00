"""`migrate`: make or update the ledger's tables."""

from typing import Annotated, Literal

import typer

from worker.cli import output
from worker.cli.exit_codes import Exit, Stop
from worker.cli.options import By, Json


def migrate(
    by: By,
    four_eyes: Annotated[
        Literal["off", "money", "all"] | None,
        typer.Option(help="Set the ledger's rule, also a less strict one. Without it, B2COPY_FOUR_EYES may raise it."),
    ] = None,
    b2copy_host: Annotated[
        str | None,
        typer.Option(
            "--b2copy-host",
            metavar="URL",
            help="The same B2COPY has this address now, and the ledger belongs to it. All workers must be stopped.",
        ),
    ] = None,
    ignore_running_workers: Annotated[
        bool,
        typer.Option(
            "--ignore-running-workers",
            help="Migrate although workers were seen that stand in the way, because they do not run any more.",
        ),
    ] = False,
    why: Annotated[
        str,
        typer.Option(
            "--why",
            help="Your reason, which is stored: needed with --four-eyes, --b2copy-host and --ignore-running-workers.",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Make the ledger's tables, or bring them to this version.

    Needs B2COPY_DATABASE_URL alone. Does nothing if they are up to date; safe while others migrate too, and while
    workers run: those of the version before go on. A migration that older code cannot follow is refused while a worker
    with such code runs, and the message names it.

    The ledger also holds the rule which decisions need a second person. Nobody's own environment relaxes it: only
    `migrate --four-eyes` does, which on PostgreSQL needs the role that owns the tables.

    And the ledger belongs to the B2COPY of the first worker that started on it. A worker with another B2COPY_HOST does
    not start. --b2copy-host is for a B2COPY that has moved to another address, not for another B2COPY.
    """
    from pydantic import TypeAdapter, ValidationError

    from worker.ledger.migrations import migrate as migrate_to_head
    from worker.ledger.schema import HEAD
    from worker.settings import BaseUrl, LedgerSettings, load

    settings = load(LedgerSettings)
    if four_eyes is not None and not why.strip():
        raise Stop(Exit.USAGE, "--four-eyes changes who may decide: give a reason with --why")
    if ignore_running_workers and not why.strip():
        raise Stop(Exit.USAGE, "--ignore-running-workers can break workers that do run: give a reason with --why")
    if b2copy_host is not None:
        if not why.strip():
            raise Stop(Exit.USAGE, "--b2copy-host moves every open operation to that host: give a reason with --why")
        try:
            b2copy_host = TypeAdapter(BaseUrl).validate_python(b2copy_host)
        except ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise Stop(Exit.USAGE, f"--b2copy-host {problem}") from None
    before = migrate_to_head(
        settings.database_url, settings.four_eyes, four_eyes, by, why, ignore_running_workers, b2copy_host
    )
    if as_json:
        output.document({"before": before, "after": max(before or HEAD, HEAD)})
    elif before is None:
        output.line(f"the ledger is made, at version {HEAD}")
    elif before >= HEAD:
        output.line(f"the ledger is at version {before} already")
    else:
        output.line(f"the ledger was brought from version {before} to {HEAD}")
