"""The ledger as a whole: open it, migrate it, purge it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import say
from worker.cli.exits import Exit, Stop
from worker.cli.options import Json, duration

if TYPE_CHECKING:
    from worker.ledger import Ledger
    from worker.settings import LedgerSettings


@contextmanager
def existing_ledger(settings: "LedgerSettings | None" = None) -> Iterator["Ledger"]:
    """Open the ledger of the settings. One that is not there is never made by looking for it: raises `Stop`."""
    from worker.ledger import open_ledger
    from worker.settings import LedgerSettings, load

    url = (settings or load(LedgerSettings)).database_url
    if version_of(url) is None:
        raise Stop(Exit.USAGE, "B2COPY_DATABASE_URL: there is no ledger yet; `b2copy-sync migrate` makes it")
    ledger = open_ledger(url)
    try:
        yield ledger
    finally:
        ledger.close()


def version_of(url: str) -> str | None:
    """Return the schema version at `url`, or None if there is no ledger. Makes nothing, not even an SQLite file."""
    from sqlalchemy.engine import make_url

    from worker.ledger.store import connect, schema_version

    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not (parsed.database and Path(parsed.database).exists()):
        return None
    engine = connect(url)
    try:
        return schema_version(engine)
    finally:
        engine.dispose()


def migrate(as_json: Json = False) -> None:
    """Make the ledger's tables, or bring them to this version.

    Needs B2COPY_DATABASE_URL alone. Does nothing if they are there; safe while others migrate too.
    """
    from worker.ledger.migrations import migrate as bring_up
    from worker.settings import LedgerSettings, load

    url = load(LedgerSettings).database_url
    before = version_of(url)
    bring_up(url)
    after = version_of(url)
    if as_json:
        say.document({"before": before, "after": after})
    elif before == after:
        say.line(f"the ledger is at version {after} already")
    elif before is None:
        say.line(f"the ledger is made, at version {after}")
    else:
        say.line(f"the ledger was brought from version {before} to {after}")


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
    as_json: Json = False,
) -> None:
    """Remove operations that ended long ago, with their evidence.

    What is queued, running or waiting is never purged, however old.
    """
    from worker.ledger import purge as remove
    from worker.ledger.retention import old
    from worker.settings import LedgerSettings, load

    settings = load(LedgerSettings)
    age = older_than or settings.retention
    if age < settings.retention and not (yes or dry_run):
        kept = say.span(settings.retention)
        raise Stop(Exit.USAGE, f"B2COPY_RETENTION keeps evidence for {kept}: --yes removes it after {say.span(age)}")
    with existing_ledger(settings) as ledger:
        count = old(ledger, age) if dry_run else remove(ledger, age)
    if as_json:
        say.document({"older_than_seconds": age, "dry_run": dry_run, "operations": count})
    else:
        done = "would be removed" if dry_run else "removed"
        say.line(f"{say.count(count)} that ended more than {say.span(age)} ago {done}")
