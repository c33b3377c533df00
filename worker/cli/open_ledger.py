"""Open the ledger that the settings name, for a command that must not create one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.ledger import Ledger
    from worker.report.sentences import Kinds
    from worker.settings import LedgerSettings


@contextmanager
def existing_ledger(settings: "LedgerSettings | None" = None) -> Iterator["Ledger"]:
    """Open the ledger of the settings. Raises `SettingsError` if there is none: a mistyped URL must not create one."""
    from worker.ledger import open_ledger
    from worker.report.four_eyes import under_rule
    from worker.settings import LedgerSettings, load

    settings = settings or load(LedgerSettings)
    ledger = under_rule(open_ledger(settings.database_url), settings.four_eyes, _kinds)
    try:
        yield ledger
    finally:
        ledger.close()


def _kinds() -> "Kinds":
    from tasks.registry import ALL_KINDS  # imports pydantic and every kind, which few commands need

    return ALL_KINDS
