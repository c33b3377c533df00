"""Purge: remove final operations and their attempts when they are old enough. The audit stays, and says who purged.

A failed operation of which nobody knows what the destination did stays, until a person has resolved it.
"""

from sqlalchemy import Boolean, bindparam, delete, func, select

from worker.ledger.audit import record_audit
from worker.ledger.database import Ledger
from worker.ledger.schema import c, now_ms, operations, sql_literal
from worker.operation import FailureReason, State

_is_undecided = (c.state == sql_literal(State.FAILED)) & (
    c.outcome_unknown | (c.failure_reason == sql_literal(FailureReason.UNRESOLVED))
)
_is_old = (c.ended_at < now_ms() - bindparam("age")) & (bindparam("undecided", type_=Boolean) | ~_is_undecided)
_OLD = select(c.id).where(_is_old).order_by(c.ended_at).limit(bindparam("batch")).with_for_update(skip_locked=True)
# Attempts are deleted with their operation (ON DELETE CASCADE).
_PURGE = delete(operations).where(c.id.in_(_OLD.scalar_subquery()))
_COUNT = select(func.count()).where(_is_old)


def purge(
    ledger: Ledger, older_than_s: float, batch: int = 1000, *, by: str = "b2copy-sync", undecided: bool = False
) -> int:
    """Remove operations that ended more than `older_than_s` seconds ago, in short transactions of `batch`.

    Returns how many. An open operation is never purged, however old it is. A failed one of which nobody knows what the
    destination did is purged only if `undecided`. Each transaction adds an entry to the audit: `by` whom, and how many.
    """
    purged = 0
    while True:
        with ledger.writing() as connection:
            asked = {"age": round(older_than_s * 1000), "batch": batch, "undecided": undecided}
            gone = connection.execute(_PURGE, asked).rowcount
            if gone:
                note = f"{gone} operations that had ended more than {older_than_s:.0f} s before"
                record_audit(connection, "purge", by, note, "operations")
        purged += gone
        if gone < batch:
            return purged


def count_purgeable(ledger: Ledger, older_than_s: float, *, undecided: bool = False) -> int:
    """Count what `purge` would remove."""
    with ledger.reading() as connection:
        return connection.execute(_COUNT, {"age": round(older_than_s * 1000), "undecided": undecided}).scalar_one()
