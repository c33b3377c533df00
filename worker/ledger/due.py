"""What is due, and which process wakes the workers for it."""

from collections.abc import Iterable

from sqlalchemy import BindParameter, bindparam, func, literal, select, union_all, update

from worker.ledger.claims import is_paused
from worker.ledger.database import Ledger
from worker.ledger.schema import c, now_ms, operations, sql_literal
from worker.ledger.schema import ledger as ledger_row
from worker.operation import Phase, State, WaitReason
from worker.queues import LANES

COUNT_LIMIT = 10_000
"""Counts stop here: a larger number changes no decision, and counting must not cost more with a larger backlog."""

_every: BindParameter[int] = bindparam("every")
# The second condition: if the database's clock is set back, dispatch must not wait until it has caught up.
_dispatchable = (ledger_row.c.dispatched_at <= now_ms() - _every) | (ledger_row.c.dispatched_at > now_ms() + _every)
_READ = select(ledger_row.c.id).where(_dispatchable)
_START = update(ledger_row).where(_dispatchable).values(dispatched_at=now_ms())

_MAKE_DUE = (
    update(operations)
    .where(
        c.state == sql_literal(State.WAITING),
        c.wait_reason == bindparam("because"),
        c.destination == bindparam("to"),
        c.due_at > now_ms(),
    )
    .values(due_at=now_ms())
)
_COUNT_WAITING = select(func.count()).where(
    c.state == sql_literal(State.WAITING), c.wait_reason == bindparam("because")
)


def try_start_dispatch(ledger: Ledger, every_s: float = 1.0) -> bool:
    """Return True for one caller in the whole fleet per `every_s` seconds: the caller must send the wake-ups."""
    asked = {"every": round(every_s * 1000)}
    with ledger.reading() as connection:
        if connection.execute(_READ, asked).first() is None:
            return False
    with ledger.writing() as connection:
        return connection.execute(_START, asked).rowcount == 1


def count_due(ledger: Ledger, lanes: Iterable[str] = LANES) -> dict[str, int]:
    """Count what may be claimed now, per lane, up to `COUNT_LIMIT` each. A paused lane has nothing due."""
    counts = [
        select(literal(lane).label("lane"), func.count().label("count")).select_from(
            select(c.id)
            .where(c.lane == lane, c.phase == sql_literal(phase), c.due_at <= now_ms(), ~is_paused(lane))
            .limit(COUNT_LIMIT)
            .subquery()
        )
        for lane in lanes
        for phase in Phase
    ]
    found: dict[str, int] = {}
    with ledger.reading() as connection:
        for lane, count in connection.execute(union_all(*counts)):
            found[lane] = min(COUNT_LIMIT, found.get(lane, 0) + count)
    return found


def count_waiting(ledger: Ledger, reason: WaitReason) -> int:
    """Count the operations that wait for this reason."""
    with ledger.reading() as connection:
        return connection.execute(_COUNT_WAITING, {"because": reason}).scalar_one()


def make_due(ledger: Ledger, destination: str, reason: WaitReason) -> int:
    """Make everything of a destination that waits for this reason due now. Returns how many operations."""
    with ledger.writing() as connection:
        return connection.execute(_MAKE_DUE, {"because": reason, "to": destination}).rowcount
