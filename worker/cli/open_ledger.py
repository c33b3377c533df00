"""Open the ledger that the settings name, for a command that must not create one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker.cli.exits import Exit, Stop

if TYPE_CHECKING:
    from worker.ledger import Ledger
    from worker.settings import LedgerSettings


@contextmanager
def existing_ledger(settings: "LedgerSettings | None" = None) -> Iterator["Ledger"]:
    """Open the ledger of the settings. Raises `Stop` if there is none: a mistyped URL must not create one."""
    from worker.doctor.ledger import version_at
    from worker.ledger import open_ledger
    from worker.settings import LedgerSettings, load

    url = (settings or load(LedgerSettings)).database_url
    if version_at(url) is None:
        raise Stop(Exit.USAGE, "B2COPY_DATABASE_URL: there is no ledger yet; `b2copy-sync migrate` makes it")
    ledger = open_ledger(url)
    try:
        yield ledger
    finally:
        ledger.close()
