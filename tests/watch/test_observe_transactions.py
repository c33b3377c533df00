"""Measuring the ledger's transactions disturbs none of them."""

from pathlib import Path

from sqlalchemy import text

from worker.ledger import open_ledger
from worker.watch.observe import observe_transactions


def test_a_transaction_that_began_before_it_was_observed_commits(tmp_path: Path) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", create=True)

    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_ledger SET dispatched_at = 7"))
        observe_transactions(ledger.engine)

    with ledger.reading() as connection:
        assert connection.execute(text("SELECT dispatched_at FROM b2copy_ledger")).scalar_one() == 7
    ledger.close()
