"""Open the ledger that the settings name, for a command that must not create one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.ledger import Ledger
    from worker.settings import LedgerSettings


@contextmanager
def existing_ledger(settings: "LedgerSettings | None" = None) -> Iterator["Ledger"]:
    """Open the ledger of the settings. Raises `SettingsError` if there is none: a mistyped URL must not create one."""
    from worker.ledger import open_ledger
    from worker.settings import LedgerSettings, load

    settings = settings or load(LedgerSettings)
    ledger = open_ledger(settings.database_url, with_notices=settings.webhook_url is not None)
    try:
        yield ledger
    finally:
        ledger.close()
