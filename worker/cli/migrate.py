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
    why: Annotated[str, typer.Option("--why", help="Your reason, for the evidence: needed with --four-eyes.")] = "",
    as_json: Json = False,
) -> None:
    """Make the ledger's tables, or bring them to this version.

    Needs B2COPY_DATABASE_URL alone. Does nothing if they are up to date; safe while others migrate too.

    The ledger also holds the rule which decisions need a second person. Nobody's own environment relaxes it: only
    `migrate --four-eyes` does, which on PostgreSQL needs the role that owns the tables.
    """
    from worker.ledger.database import version_of
    from worker.ledger.migrations import migrate as migrate_to_head
    from worker.settings import LedgerSettings, load

    settings = load(LedgerSettings)
    if four_eyes is not None and not why.strip():
        raise Stop(Exit.USAGE, "--four-eyes changes who may decide: give a reason with --why")
    before = version_of(settings.database_url)
    migrate_to_head(settings.database_url, settings.four_eyes, four_eyes, by, why)
    after = version_of(settings.database_url)
    if as_json:
        output.document({"before": before, "after": after})
    elif before == after:
        output.line(f"the ledger is at version {after} already")
    elif before is None:
        output.line(f"the ledger is made, at version {after}")
    else:
        output.line(f"the ledger was brought from version {before} to {after}")
