"""Order: the operations of an entity one after the other, a child after its parent.

An operation that may not start yet is parked: it waits `behind_entity` or `behind_parent`. The transaction that ends
the operation ahead, or the parent, makes the parked operation due.

On PostgreSQL another transaction may be parking a row at the moment when an UPDATE here releases it. That UPDATE does
not require `state = 'waiting'`. So PostgreSQL lets it wait for the lock of the parking transaction, and it then makes
the parked row due. It cannot see a row that is recorded between this UPDATE and its commit. A claim may park that row
in the same moment, because it does not see the commit. So a parked operation is examined again, after a time that
`recheck_ms` says.

While a pause holds what an operation waits for, the operation does not expire, and that time does not count towards
its deadline: `find_blocked` says so each time that the operation is examined.

An operation of a paused or cancelled batch holds no other operation up. While a sweep resumes the batch, operations
that are still put aside hold up later ones of their entity, so that none overtakes them.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    Row,
    bindparam,
    case,
    exists,
    func,
    select,
    update,
)

from worker.ledger.pauses import paused_since
from worker.ledger.prepared_statements import Prepared
from worker.ledger.schema import (
    batches,
    c,
    due_now,
    flags,
    in_list,
    is_aside,
    is_held,
    is_in_line,
    operations,
    queue_position,
    sql_literal,
)
from worker.operation import State, WaitReason

FIRST_RECHECK_MS = 1_000  # ms; an operation that was just parked is examined again after this time
RECHECK_MS = 30_000  # ms; and then after times that double, up to this one

_ahead = operations.alias("ahead")
_parent = operations.alias("parent")
_child = operations.alias("child")
_ahead_position = func.coalesce(_ahead.c.position, _ahead.c.id)
# An operation goes before its child. The child may still have an earlier position: if it was recorded first, or if the
# operation was replayed and went to the end of the line. So what stands behind the child does not hold it up either.
_child_before = (
    exists()
    .where(
        _child.c.parent == c.key,
        _child.c.entity == c.entity,
        is_in_line(_child.c),
        ~is_held(_child.c),
        func.coalesce(_child.c.position, _child.c.id) <= _ahead_position,
    )
    .correlate(operations, _ahead)
)
_earlier = exists().where(
    _ahead.c.entity == c.entity,
    is_in_line(_ahead.c),  # the index holds no others, so any number that is put aside costs nothing
    _ahead_position < queue_position,
    _ahead.c.id != c.id,
    ~is_held(_ahead.c),  # its batch is not swept yet
    ~_child_before,
)
_comes_back = exists().where(
    _ahead.c.batch.in_(select(batches.c.id).where(batches.c.swept_to.is_not(None), batches.c.decision.is_(None))),
    _ahead.c.entity == c.entity,
    is_aside(_ahead.c),
    _ahead_position < queue_position,
)
# A running operation may have a later position: a replay moved it to the end of the line, or an operation with an
# earlier position was committed after this one was claimed.
_running = exists().where(
    _ahead.c.entity == c.entity, _ahead.c.state == sql_literal(State.RUNNING), _ahead.c.id != c.id
)
_is_any_paused = exists().where(flags.c.name.startswith("pause:")) | exists().where(batches.c.decision == "paused")


def _is_paused(of: Any) -> ColumnElement[bool]:
    """Return the SQL condition that a pause holds an operation, or may hold what it waits for."""
    is_behind = of.wait_reason.in_([sql_literal(WaitReason.BEHIND_PARENT), sql_literal(WaitReason.BEHIND_ENTITY)])
    is_itself = paused_since(of.lane).is_not(None) | is_held(of) | is_aside(of)
    return is_itself | func.coalesce(is_behind, False) & _is_any_paused


_parent_is_paused = _parent.c.due_at.is_not(None) & _is_paused(_parent.c)
# The first of the line holds up all others. Only it is read, because a line may be long.
_first_is_paused = (
    select(_is_paused(_ahead.c))
    .where(_ahead.c.entity == c.entity, is_in_line(_ahead.c), ~is_held(_ahead.c))
    .order_by(_ahead_position, _ahead.c.id)
    .limit(1)
    .correlate(operations)
    .scalar_subquery()
)

_BLOCKED = (
    select(
        c.id,
        case(
            (
                c.parent.is_not(None) & func.coalesce(_parent.c.state != sql_literal(State.SUCCEEDED), True),
                sql_literal(WaitReason.BEHIND_PARENT),
            ),
            (c.entity.is_not(None) & (_earlier | _running | _comes_back), sql_literal(WaitReason.BEHIND_ENTITY)),
        ).label("wait_reason"),
        (func.coalesce(_parent_is_paused, False) | func.coalesce(_first_is_paused, False)).label("by_pause"),
    )
    .select_from(operations.outerjoin(_parent, _parent.c.key == c.parent))
    .where(in_list(c.id, "ids"))
)

# FOR UPDATE: if another transaction is cancelling the next operation, PostgreSQL waits for it and takes the one after.
_next = (
    select(_ahead.c.id)
    .where(
        _ahead.c.entity == bindparam("line"),
        is_in_line(_ahead.c),
        _ahead.c.state != sql_literal(State.RUNNING),
        ~is_held(_ahead.c),
    )
    .order_by(_ahead_position, _ahead.c.id)
    .limit(1)
    .with_for_update()
    .scalar_subquery()
)
_now: BindParameter[int] = bindparam("now", type_=BigInteger)
_RELEASE_NEXT = update(operations).where(c.id == _next).values(due_at=due_now(_now))

# A parent behind its child in their line: the end of the operation ahead has made only the child due.
_RELEASE_PARENTS = (
    update(operations)
    .where(
        in_list(c.key, "parents"),
        c.wait_reason == sql_literal(WaitReason.BEHIND_ENTITY),
        is_in_line(),
        exists().where(_child.c.parent == c.key, _child.c.entity == c.entity, in_list(_child.c.id, "children")),
    )
    .values(due_at=due_now(_now))
)

_RELEASE_CHILDREN = Prepared(
    update(operations)
    .where(
        in_list(c.parent, "parents"),
        c.due_at.is_not(None),
        is_in_line(),
        c.state != sql_literal(State.RUNNING),
    )
    .values(due_at=due_now(_now))
)


class Blocked(NamedTuple):
    """Why an operation may not start yet. `by_pause`: a pause holds what the operation waits for."""

    wait_reason: WaitReason
    by_pause: bool


def find_blocked(connection: Connection, candidates: Sequence[Row[Any]]) -> dict[int, Blocked]:
    """Return the candidates that may not start yet, by id. Runs no SQL if none has an entity or a parent.

    A candidate in state running, whose lease has lapsed, is never blocked. Its parent had succeeded before it was first
    claimed, and no other operation of its entity may start before it ends.
    """
    asked = [row.id for row in candidates if row.state != State.RUNNING and (row.entity or row.parent)]
    if not asked:
        return {}
    return {
        id_: Blocked(WaitReason(reason), bool(by_pause))
        for id_, reason, by_pause in connection.execute(_BLOCKED, {"ids": asked})
        if reason is not None
    }


def recheck_ms(last_ms: int) -> int:
    """Return after how many ms an operation is examined again. `last_ms`: after how many the last time; 0 if never."""
    return min(RECHECK_MS, max(FIRST_RECHECK_MS, 2 * last_ms))


def release_line(connection: Connection, entities: Iterable[str], now: int) -> None:
    """Make the next operation of each of these entities due."""
    if lines := [{"line": entity, "now": now} for entity in sorted(set(entities))]:
        connection.execute(_RELEASE_NEXT, lines)


def release_children(connection: Connection, parents: Sequence[str], now: int) -> None:
    """Make the children of these operations due."""
    if parents:
        _RELEASE_CHILDREN.run(connection, parents=list(parents), now=now)


def release_parents(connection: Connection, children: Sequence[Row[Any]], now: int) -> None:
    """Make the parents of these parked operations due that stand behind them in the line of their entity."""
    asked = [(row.id, row.parent) for row in children if row.entity and row.parent]
    if asked:
        ids, parents = map(list, zip(*asked, strict=True))
        connection.execute(_RELEASE_PARENTS, {"children": ids, "parents": parents, "now": now})
