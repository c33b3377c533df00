"""What several processes do at once in test_database.py; in a file of its own, which each of them imports quickly."""

from multiprocessing.synchronize import Barrier

from worker.ledger import open_ledger
from worker.ledger.migrations import migrate


def migrate_together(barrier: Barrier, ledger_url: str) -> None:
    barrier.wait(30)
    open_ledger(ledger_url, create=True).close()
    migrate(ledger_url)
