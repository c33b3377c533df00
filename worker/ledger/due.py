"""What is due, and which process wakes the workers for it."""

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import BindParameter, Connection, Select, bindparam, case, func, select, union_all, update

from worker.ledger.claims import LEASE_S, is_paused
from worker.ledger.database import Ledger
from worker.ledger.schema import c, is_in_line, now_ms, operations, sql_literal
from worker.ledger.schema import ledger as ledger_row
from worker.operation import Phase, State, WaitReason
from worker.queues import LANES

DISPATCH_EVERY_S = 0.25  # seconds between two dispatches in the whole fleet: a poll or a request is so late at most
_EARLY_S = 0.02  # seconds; a timer that comes a moment too early must not wait for its next time

COUNT_LIMIT = 10_000
"""Counts stop here: a larger number changes no decision, and counting must not cost more with a larger backlog."""

_every: BindParameter[int] = bindparam("every")
# The second condition: if the database's clock is set back, dispatch must not wait until it has caught up.
_went_back = ledger_row.c.dispatched_at > now_ms() + _every
_dispatchable = (ledger_row.c.dispatched_at <= now_ms() - _every) | _went_back
_READ = select(ledger_row.c.id).where(_dispatchable)
_START = update(ledger_row).where(_dispatchable).values(dispatched_at=now_ms())

# If the database's clock was set back, what was due stays due: nothing may stand still until the clock has caught up.
_WENT_BACK = select(ledger_row.c.id).where(_went_back)
_latest = now_ms() + case(
    (c.state == sql_literal(State.QUEUED), 0),
    (c.state == sql_literal(State.RUNNING), round(LEASE_S * 1000)),
    else_=c.last_wait_ms,
)
_BRING_FORWARD = update(operations).where(c.due_at > _latest, is_in_line()).values(due_at=_latest)

_MAKE_DUE = (
    update(operations)
    .where(
        c.state == sql_literal(State.WAITING),
        c.wait_reason == bindparam("because"),
        c.destination == bindparam("to"),
        c.due_at > now_ms(),
        is_in_line(),
    )
    .values(due_at=now_ms())
)


class Due(NamedTuple):
    """How many operations may be claimed now, up to `COUNT_LIMIT`, and for how long the first has been due."""

    operations: int
    late_s: float


def _due(lane: str, phase: Phase) -> Select[str, int, int]:
    first = (
        select(c.due_at)
        .where(c.lane == sql_literal(lane), c.phase == sql_literal(phase), c.due_at <= now_ms(), ~is_paused(lane))
        .order_by(c.due_at)
        .limit(COUNT_LIMIT)
        .subquery()
    )
    return select(sql_literal(lane), func.count(), now_ms() - func.min(first.c.due_at)).select_from(first)


_DUE = {(lane, phase): _due(lane, phase) for lane in LANES for phase in Phase}
_OPEN = union_all(
    *(
        select(sql_literal(lane), func.count()).select_from(
            select(c.due_at)
            .where(c.lane == sql_literal(lane), c.phase == sql_literal(phase), c.due_at.is_not(None))
            .limit(COUNT_LIMIT)
            .subquery()
        )
        for lane in LANES
        for phase in Phase
    )
)
_COUNT_WAITING = select(func.count()).where(
    c.state == sql_literal(State.WAITING), c.wait_reason == bindparam("because")
)


def try_start_dispatch(ledger: Ledger, every_s: float = DISPATCH_EVERY_S) -> bool:
    """Return True for one caller in the whole fleet per `every_s` seconds: the caller must send the wake-ups."""
    asked = {"every": round((every_s - _EARLY_S) * 1000)}
    with ledger.reading() as connection:
        if connection.execute(_READ, asked).first() is None:
            return False

    def work(connection: Connection) -> bool:
        went_back = connection.execute(_WENT_BACK, asked).first() is not None
        if connection.execute(_START, asked).rowcount == 0:
            return False
        if went_back:
            connection.execute(_BRING_FORWARD)
        return True

    return ledger.write(work)


def read_due(connection: Connection, lanes: Iterable[str] = LANES) -> dict[str, Due]:
    """Read what may be claimed now, per lane, from the index alone. A paused lane has nothing due."""
    found = {lane: Due(0, 0.0) for lane in lanes}
    asked = union_all(*(_DUE[lane, phase] for lane in found for phase in Phase))
    for lane, count, late_ms in connection.execute(asked):
        known = found[lane]
        found[lane] = Due(min(COUNT_LIMIT, known.operations + count), max(known.late_s, (late_ms or 0) / 1000))
    return found


def read_open(connection: Connection) -> dict[str, int]:
    """Read how many operations of each lane have not ended, up to `COUNT_LIMIT` each."""
    found = dict.fromkeys(LANES, 0)
    for lane, count in connection.execute(_OPEN):
        found[lane] = min(COUNT_LIMIT, found[lane] + count)
    return found


def count_due(ledger: Ledger, lanes: Iterable[str] = LANES) -> dict[str, int]:
    """Count what may be claimed now, per lane, up to `COUNT_LIMIT` each. A paused lane has nothing due."""
    with ledger.reading() as connection:
        return {lane: due.operations for lane, due in read_due(connection, lanes).items()}


def count_waiting(ledger: Ledger, reason: WaitReason) -> int:
    """Count the operations that wait for this reason."""
    with ledger.reading() as connection:
        return connection.execute(_COUNT_WAITING, {"because": reason}).scalar_one()


def make_due(ledger: Ledger, destination: str, reason: WaitReason) -> int:
    """Make everything of a destination that waits for this reason due now. Returns how many operations."""
    with ledger.writing() as connection:
        return connection.execute(_MAKE_DUE, {"because": reason, "to": destination}).rowcount
