"""`migrate`: make or update the ledger's tables."""

from worker.cli import output
from worker.cli.options import Json


def migrate(as_json: Json = False) -> None:
    """Make the ledger's tables, or bring them to this version.

    Needs B2COPY_DATABASE_URL alone. Does nothing if they are up to date; safe while others migrate too.
    """
    from worker.ledger.database import version_of
    from worker.ledger.migrations import migrate as migrate_to_head
    from worker.settings import LedgerSettings, load

    url = load(LedgerSettings).database_url
    before = version_of(url)
    migrate_to_head(url)
    after = version_of(url)
    if as_json:
        output.document({"before": before, "after": after})
    elif before == after:
        output.line(f"the ledger is at version {after} already")
    elif before is None:
        output.line(f"the ledger is made, at version {after}")
    else:
        output.line(f"the ledger was brought from version {before} to {after}")
