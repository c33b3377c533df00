"""Retention: final operations go, with their evidence, when they are old enough."""

from sqlalchemy import bindparam, delete, func, select

from worker.ledger.schema import now_ms, operations
from worker.ledger.store import Ledger

_row = operations.c
_OLD = (
    select(_row.id)
    .where(_row.ended_at < now_ms() - bindparam("age"))
    .order_by(_row.ended_at)
    .limit(bindparam("batch"))
    .with_for_update(skip_locked=True)
)
# Attempts and decisions go with their operation (ON DELETE CASCADE).
_PURGE = delete(operations).where(_row.id.in_(_OLD.scalar_subquery()))
_COUNT = select(func.count()).where(_row.ended_at < now_ms() - bindparam("age"))


def purge(ledger: Ledger, older_than: float, batch: int = 1000) -> int:
    """Remove operations that ended more than `older_than` seconds ago, in short transactions of `batch`.

    Returns how many. What is open is never purged, however old.
    """
    purged = 0
    while True:
        with ledger.writing() as connection:
            gone = connection.execute(_PURGE, {"age": round(older_than * 1000), "batch": batch}).rowcount
        purged += gone
        if gone < batch:
            return purged


def old(ledger: Ledger, older_than: float) -> int:
    """Count what `purge` would remove."""
    with ledger.reading() as connection:
        return connection.execute(_COUNT, {"age": round(older_than * 1000)}).scalar_one()
