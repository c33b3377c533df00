"""What is due, and whose turn it is to wake it."""

from collections.abc import Iterable

from sqlalchemy import BindParameter, bindparam, func, literal, select, union_all, update

from worker.ledger.lease import is_paused
from worker.ledger.operation import LANES, State, Why
from worker.ledger.schema import ledger as ledger_row
from worker.ledger.schema import now_ms, operations, word
from worker.ledger.store import Ledger

COUNT_LIMIT = 10_000
"""Counts stop here: more needs no other treatment, and counting must not grow with the backlog."""

_row = operations.c
_every: BindParameter[int] = bindparam("every")
# The second half: should the database's clock be set back, dispatch must not wait for it to catch up.
_dispatchable = (ledger_row.c.dispatched_at <= now_ms() - _every) | (ledger_row.c.dispatched_at > now_ms() + _every)
_LOOK = select(ledger_row.c.id).where(_dispatchable)
_TAKE_TURN = update(ledger_row).where(_dispatchable).values(dispatched_at=now_ms())

_RELEASE = (
    update(operations)
    .where(_row.state == word(State.WAITING), _row.why == bindparam("because"), _row.due_at > now_ms())
    .values(due_at=now_ms())
)
_BACKLOG = select(func.count()).where(_row.state == word(State.WAITING), _row.why == bindparam("because"))


def dispatch_turn(ledger: Ledger, every: float = 1.0) -> bool:
    """Tell whether it is this caller's turn to wake what is due: once in `every` seconds, one in the whole fleet."""
    asked = {"every": round(every * 1000)}
    with ledger.reading() as connection:
        if connection.execute(_LOOK, asked).first() is None:
            return False
    with ledger.writing() as connection:
        return connection.execute(_TAKE_TURN, asked).rowcount == 1


def due(ledger: Ledger, lanes: Iterable[str] = LANES) -> dict[str, int]:
    """Count what may be claimed now, per lane, up to `COUNT_LIMIT` each. A paused lane has nothing due."""
    counts = [
        select(literal(lane).label("lane"), func.count().label("count")).select_from(
            select(_row.id)
            .where(_row.lane == lane, _row.turn == turn, _row.due_at <= now_ms(), ~is_paused(lane))
            .limit(COUNT_LIMIT)
            .subquery()
        )
        for lane in lanes
        for turn in (0, 1)
    ]
    found: dict[str, int] = {}
    with ledger.reading() as connection:
        for lane, count in connection.execute(union_all(*counts)):
            found[lane] = min(COUNT_LIMIT, found.get(lane, 0) + count)
    return found


def backlog(ledger: Ledger, why: Why) -> int:
    """Count what waits for this reason."""
    with ledger.reading() as connection:
        return connection.execute(_BACKLOG, {"because": why}).scalar_one()


def release(ledger: Ledger, why: Why) -> int:
    """Make everything that waits for this reason due now. Returns how many."""
    with ledger.writing() as connection:
        return connection.execute(_RELEASE, {"because": why}).rowcount
