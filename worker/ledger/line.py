"""Order: an entity's operations one after the other, a child after its parent.

An operation that may not go yet is parked: it waits `behind_entity` or `behind_parent` and is made due by whoever ends
what it waits for, in the same transaction. The statements touch rows by entity or parent alone, whatever state their
snapshot shows, so that on PostgreSQL they queue behind a transaction that is just parking the same row and find it
parked. `RECHECK` is a safety net under that.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, case, exists, func, select, update

from worker.ledger.operation import State, Why
from worker.ledger.schema import among, operations, place, word

RECHECK = 30_000
"""ms after which a parked operation is looked at again, should nobody have released it."""

_row = operations.c

_ahead = operations.alias("ahead")
_parent = operations.alias("parent")
_ahead_place = func.coalesce(_ahead.c.position, _ahead.c.id)
_earlier = exists().where(
    _ahead.c.entity == _row.entity,
    _ahead.c.due_at.is_not(None),
    _ahead_place < place,
    _ahead.c.id != _row.id,
)
# A replay may have moved it to the end of the line while it was held, or an earlier one was committed later.
_held = exists().where(_ahead.c.entity == _row.entity, _ahead.c.state == word(State.RUNNING), _ahead.c.id != _row.id)

_BLOCKED = (
    select(
        _row.id,
        case(
            (
                _row.parent.is_not(None) & func.coalesce(_parent.c.state != word(State.SUCCEEDED), True),
                word(Why.BEHIND_PARENT),
            ),
            (_row.entity.is_not(None) & (_earlier | _held), word(Why.BEHIND_ENTITY)),
        ).label("why"),
    )
    .select_from(operations.outerjoin(_parent, _parent.c.key == _row.parent))
    .where(among(_row.id, "ids"))
)

# FOR UPDATE: should the next one be cancelled this very moment, PostgreSQL waits for that and goes on to the one after.
_next = (
    select(_ahead.c.id)
    .where(
        _ahead.c.entity == bindparam("line"),
        _ahead.c.due_at.is_not(None),
        _ahead.c.state != word(State.RUNNING),
    )
    .order_by(_ahead_place, _ahead.c.id)
    .limit(1)
    .with_for_update()
    .scalar_subquery()
)
_RELEASE_NEXT = update(operations).where(_row.id == _next).values(due_at=bindparam("now"))

_RELEASE_CHILDREN = (
    update(operations)
    .where(
        among(_row.parent, "parents"),
        _row.due_at.is_not(None),
        _row.state != word(State.RUNNING),
    )
    .values(due_at=bindparam("now"))
)


def blocked(connection: Connection, candidates: Sequence[Row[Any]]) -> dict[int, Why]:
    """Return those of the candidates that may not go yet, and why. Costs nothing without entities and parents."""
    # What has been sent once has been past its parent; what was held when its lease lapsed still holds its entity.
    asked = [row.id for row in candidates if row.state != State.RUNNING and (row.entity or row.parent)]
    if not asked:
        return {}
    return {id_: Why(why) for id_, why in connection.execute(_BLOCKED, {"ids": asked}) if why is not None}


def release_line(connection: Connection, entities: Iterable[str], now: int) -> None:
    """Make the next operation of each of these entities due."""
    if lines := [{"line": entity, "now": now} for entity in sorted(set(entities))]:
        connection.execute(_RELEASE_NEXT, lines)


def release_children(connection: Connection, parents: Sequence[str], now: int) -> None:
    """Make the children of these operations due."""
    if parents:
        connection.execute(_RELEASE_CHILDREN, {"parents": list(parents), "now": now})
