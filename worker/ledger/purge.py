"""Purge: remove final operations and their attempts when they are old enough. The audit stays."""

from sqlalchemy import bindparam, delete, func, select

from worker.ledger.database import Ledger
from worker.ledger.schema import c, now_ms, operations

_OLD = (
    select(c.id)
    .where(c.ended_at < now_ms() - bindparam("age"))
    .order_by(c.ended_at)
    .limit(bindparam("batch"))
    .with_for_update(skip_locked=True)
)
# Attempts are deleted with their operation (ON DELETE CASCADE).
_PURGE = delete(operations).where(c.id.in_(_OLD.scalar_subquery()))
_COUNT = select(func.count()).where(c.ended_at < now_ms() - bindparam("age"))


def purge(ledger: Ledger, older_than_s: float, batch: int = 1000) -> int:
    """Remove operations that ended more than `older_than_s` seconds ago, in short transactions of `batch`.

    Returns how many. An open operation of any age is never purged.
    """
    purged = 0
    while True:
        with ledger.writing() as connection:
            gone = connection.execute(_PURGE, {"age": round(older_than_s * 1000), "batch": batch}).rowcount
        purged += gone
        if gone < batch:
            return purged


def count_purgeable(ledger: Ledger, older_than_s: float) -> int:
    """Count what `purge` would remove."""
    with ledger.reading() as connection:
        return connection.execute(_COUNT, {"age": round(older_than_s * 1000)}).scalar_one()
