"""Purge: remove final operations and their attempts when they are old enough. The audit stays, and says who purged.

A failed operation of which nobody knows what the destination did stays, until a person has resolved it. So does the
parent of an open operation, and a parent that succeeded of a failed operation, because that may be replayed. So does
every operation that succeeded of a kind that parents are of: without its row, a child that is requested years later
would wait for it and never start.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Boolean, bindparam, delete, exists, func, select

from worker.ledger.audit import record_audit
from worker.ledger.database import Ledger
from worker.ledger.schema import c, in_list, now_ms, operations, sql_literal
from worker.operation import WITHOUT_ANSWER, FailureReason, Phase, State

# The same as `may_have_been_done`, and every operation that is unresolved.
_is_undecided = (c.state == sql_literal(State.FAILED)) & (
    c.outcome_unknown
    | (c.failure_reason == sql_literal(FailureReason.UNRESOLVED))
    | ((c.phase == sql_literal(Phase.POLL)) & c.failure_reason.in_(map(sql_literal, WITHOUT_ANSWER)))
)
_child = operations.alias("child")
_has_open_child = exists().where(_child.c.parent == c.key, _child.c.due_at.is_not(None))
# Not correlated: no index finds the failed children of one parent.
_parents_of_failed = select(_child.c.parent).where(
    _child.c.state == sql_literal(State.FAILED), _child.c.parent.is_not(None)
)
_is_parent = (c.state == sql_literal(State.SUCCEEDED)) & (in_list(c.kind, "parents") | c.key.in_(_parents_of_failed))
_is_old = (
    (c.ended_at < now_ms() - bindparam("age"))
    & (bindparam("undecided", type_=Boolean) | ~_is_undecided)
    & ~_is_parent
    & ~_has_open_child
)
_OLD = select(c.id).where(_is_old).order_by(c.ended_at).limit(bindparam("batch")).with_for_update(skip_locked=True)
# Attempts are deleted with their operation (ON DELETE CASCADE).
_PURGE = delete(operations).where(c.id.in_(_OLD.scalar_subquery()))
_COUNT = select(func.count()).where(_is_old)


def purge(
    ledger: Ledger,
    older_than_s: float,
    batch: int = 1000,
    *,
    by: str = "b2copy-sync",
    undecided: bool = False,
    parents: Sequence[str] = (),
) -> int:
    """Remove operations that ended more than `older_than_s` seconds ago, in short transactions of `batch`.

    Returns how many. An open operation is never purged, however old it is. A failed one of which nobody knows what the
    destination did is purged only if `undecided`, and one that succeeded only if its kind is none of `parents`. Each
    transaction adds an entry to the audit: `by` whom, and how many.
    """
    purged = 0
    while True:
        with ledger.writing() as connection:
            asked = _asked(older_than_s, undecided, parents) | {"batch": batch}
            gone = connection.execute(_PURGE, asked).rowcount
            if gone:
                note = f"{gone} operations that had ended more than {older_than_s:.0f} s before"
                record_audit(connection, "purge", by, note, "operations")
        purged += gone
        if gone < batch:
            return purged


def count_purgeable(
    ledger: Ledger, older_than_s: float, *, undecided: bool = False, parents: Sequence[str] = ()
) -> int:
    """Count what `purge` would remove."""
    with ledger.reading() as connection:
        return connection.execute(_COUNT, _asked(older_than_s, undecided, parents)).scalar_one()


def _asked(older_than_s: float, undecided: bool, parents: Sequence[str]) -> dict[str, Any]:
    return {"age": round(older_than_s * 1000), "undecided": undecided, "parents": list(parents)}
