"""Purge: remove final operations and their attempts when they are old enough. The audit stays, and says who purged.

These stay, however old they are:

* a failed operation of which nobody knows what the destination did, until a person has resolved it
* the parent of an open operation
* the succeeded parent of a failed operation, because the failed one may be replayed
* a succeeded operation whose kind may have children (`parents`): without its row, a child that is requested years later
  would wait for it and never start
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Boolean, bindparam, delete, exists, func, select, tuple_

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
_is_old = c.ended_at < now_ms() - bindparam("age")
_is_removable = (bindparam("undecided", type_=Boolean) | ~_is_undecided) & ~_is_parent & ~_has_open_child
# Also what stays is in a window, so that the next window begins behind it and reads none of it again.
_WINDOW = (
    select(c.id, c.ended_at, _is_removable.label("is_removable"))
    .where(_is_old, tuple_(c.ended_at, c.id) > tuple_(bindparam("ended_at"), bindparam("id")))
    .order_by(c.ended_at, c.id)
    .limit(bindparam("batch"))
)
_FROM_THE_FIRST = {"ended_at": -(2**62), "id": 0}
_LOCKED = (
    select(c.id)
    .where(in_list(c.id, "ids"), _is_old, _is_removable)  # it may have been replayed meanwhile
    .order_by(c.id)
    .with_for_update(skip_locked=True)
)
# Attempts are deleted with their operation (ON DELETE CASCADE).
_PURGE = delete(operations).where(c.id.in_(_LOCKED.scalar_subquery()))
_COUNT = select(func.count()).where(_is_old, _is_removable)


def purge(
    ledger: Ledger,
    older_than_s: float,
    batch: int = 1000,
    *,
    by: str = "b2copy-sync",
    undecided: bool = False,
    parents: Sequence[str] = (),
) -> int:
    """Remove operations that ended more than `older_than_s` seconds ago, in short transactions. Returns how many.

    Each transaction looks at the next `batch` operations, in the order in which they ended, and removes those that may
    be removed. An open operation is never purged, however old it is. A failed one of which nobody knows what the
    destination did is purged only if `undecided`, and one that succeeded only if its kind is none of `parents`. Each
    transaction that removes something adds an entry to the audit: `by` whom, and how many.
    """
    purged = 0
    asked = _asked(older_than_s, undecided, parents)
    after = _FROM_THE_FIRST
    while True:
        with ledger.reading() as connection:
            window = connection.execute(_WINDOW, asked | after | {"batch": batch}).all()
        ids = [row.id for row in window if row.is_removable]
        if ids:
            with ledger.writing() as connection:
                gone = connection.execute(_PURGE, asked | {"ids": ids}).rowcount
                if gone:
                    note = f"{gone} operations that had ended more than {older_than_s:.0f} s before"
                    record_audit(connection, "purge", by, note, "operations")
            purged += gone
        if len(window) < batch:
            return purged
        after = {"ended_at": window[-1].ended_at, "id": window[-1].id}


def count_purgeable(
    ledger: Ledger, older_than_s: float, *, undecided: bool = False, parents: Sequence[str] = ()
) -> int:
    """Count what `purge` would remove."""
    with ledger.reading() as connection:
        return connection.execute(_COUNT, _asked(older_than_s, undecided, parents)).scalar_one()


def _asked(older_than_s: float, undecided: bool, parents: Sequence[str]) -> dict[str, Any]:
    return {"age": round(older_than_s * 1000), "undecided": undecided, "parents": list(parents)}
