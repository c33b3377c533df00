"""What is due, and which process wakes the workers for it."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import BindParameter, Connection, Select, bindparam, case, func, null, select, union_all, update

from worker.ledger.claims import LEASE_S, is_paused
from worker.ledger.database import Ledger
from worker.ledger.schema import c, is_in_line, now_ms, operations, sql_literal
from worker.ledger.schema import ledger as ledger_row
from worker.operation import Phase, State, WaitReason
from worker.queues import LANES, MONEY, NOTIFY, destination_of

# Seconds between two dispatches in the whole fleet: a poll waits at most this long for one, or twice as long while all
# workers have left a row of the SQL API to each other.
DISPATCH_EVERY_S = 0.25
_EARLY_S = 0.02  # seconds; a timer that comes a moment too early must not wait for its next time
# Seconds; the webhook asks for no longer wait after a 429 (worker/webhook/endpoint.py). A notice that waits longer does
# so by its own schedule.
NOTICE_HOLD_MAX_S = 3600.0

COUNT_LIMIT = 10_000
"""Counts stop here: a larger number changes no decision, and counting must not cost more with a larger backlog."""

PERMIT_WAIT_MAX_MS = 10_000
"""ms; a wait for a permit of our own rate limit is no longer: `BACKOFF_MAX_S` of flow/retry_policy.py."""

_every: BindParameter[int] = bindparam("every")
# The database's clock was set back. Dispatch must not wait until the clock has caught up.
_went_back = ledger_row.c.dispatched_at > now_ms() + _every
_is_time = ledger_row.c.dispatched_at <= now_ms() - _every
_READ = select(_went_back).where(_is_time | _went_back)
_START = update(ledger_row).where(_is_time).values(dispatched_at=now_ms())

# If the database's clock was set back, what was due stays due: nothing may stand still until the clock has caught up.
_START_AFTER_SET_BACK = update(ledger_row).where(_went_back).values(dispatched_at=now_ms())
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
    oldest_s: float


def _due(lane: str, phase: Phase) -> Select[str, int, int]:
    first = (
        select(c.due_at)
        .where(c.lane == sql_literal(lane), c.phase == sql_literal(phase), c.due_at <= now_ms(), ~is_paused(lane))
        .order_by(c.due_at)
        .limit(COUNT_LIMIT)
        .subquery()
    )
    return select(sql_literal(lane), func.count(), now_ms() - func.min(first.c.due_at)).select_from(first)


def _worked(lane: str, phase: Phase, *, is_due: bool) -> Select[str, int, int]:
    """Select how many ms ago a worker last claimed or settled what is open, and until when a 429 holds a destination.

    Of what is due and what is not due yet, the operations are read whose `due_at` is next to now.
    """
    was_claimed = (c.state != sql_literal(State.QUEUED)) & (c.state_since <= now_ms())  # else the clock was set back
    # An operation also waits as rate_limited while our own rate limit is used up. Then others are sent.
    is_limited = (c.wait_reason == sql_literal(WaitReason.RATE_LIMITED)) & (c.due_at > now_ms())
    is_held = is_limited & (c.last_wait_ms > PERMIT_WAIT_MAX_MS)
    next_to_now = (
        select(case((was_claimed, c.state_since)).label("worked_at"), case((is_held, c.due_at)).label("held_until"))
        .where(c.lane == sql_literal(lane), c.phase == sql_literal(phase))
        .where(c.due_at <= now_ms() if is_due else (c.due_at > now_ms()) & is_in_line())
        .order_by(c.due_at.desc() if is_due else c.due_at)
        .limit(COUNT_LIMIT)
        .subquery()
    )
    return select(sql_literal(lane), now_ms() - func.max(next_to_now.c.worked_at), func.max(next_to_now.c.held_until))


_DUE = union_all(*(_due(lane, phase) for lane in LANES for phase in Phase))
_newest_ended = (
    select(c.lane, c.state, c.ended_at)
    .where(c.ended_at <= now_ms())
    .order_by(c.ended_at.desc())
    .limit(COUNT_LIMIT)
    .subquery()
)
_WORKED = union_all(
    *(_worked(lane, phase, is_due=is_due) for lane in LANES for phase in Phase for is_due in (False, True)),
    select(_newest_ended.c.lane, now_ms() - func.max(_newest_ended.c.ended_at), null())
    .where(_newest_ended.c.state != sql_literal(State.CANCELLED))
    .group_by(_newest_ended.c.lane),
)
_rate_limited = (
    select(c.lane, c.due_at, c.last_wait_ms)
    .where(c.state == sql_literal(State.WAITING), c.wait_reason == sql_literal(WaitReason.RATE_LIMITED))
    .limit(COUNT_LIMIT)
    .subquery()
)
_NOTICES_HELD = select(func.min(_rate_limited.c.due_at) - now_ms()).where(
    _rate_limited.c.lane == sql_literal(NOTIFY),
    _rate_limited.c.due_at > now_ms() - bindparam("worked_ms"),
    _rate_limited.c.last_wait_ms <= round(NOTICE_HOLD_MAX_S * 1000),
)
_COUNT_WAITING = select(func.count()).where(
    c.state == sql_literal(State.WAITING), c.wait_reason == bindparam("because")
)


def try_start_dispatch(ledger: Ledger, every_s: float = DISPATCH_EVERY_S) -> bool:
    """Return True for one caller in the whole fleet per `every_s` seconds: the caller must send the wake-ups."""
    asked = {"every": round((every_s - _EARLY_S) * 1000)}
    with ledger.reading() as connection:
        went_back = connection.execute(_READ, asked).scalar()
    if went_back is None:
        return False
    if not went_back:
        # One statement: a process that is suspended in a transaction would keep the row's lock, and nobody dispatches.
        return ledger.write(lambda connection: connection.execute(_START, asked).rowcount > 0, one_statement=True)

    def work(connection: Connection) -> bool:
        if connection.execute(_START_AFTER_SET_BACK, asked).rowcount == 0:
            return False
        connection.execute(_BRING_FORWARD)
        return True

    return ledger.write(work)


def read_due(connection: Connection) -> dict[str, Due]:
    """Read what may be claimed now, per lane, from the index alone. A paused lane has nothing due."""
    found = {lane: Due(0, 0.0) for lane in LANES}
    for lane, count, due_ms in connection.execute(_DUE):
        known = found[lane]
        found[lane] = Due(min(COUNT_LIMIT, known.operations + count), max(known.oldest_s, (due_ms or 0) / 1000))
    return found


def read_late_s(connection: Connection, oldest_due_s: Mapping[str, float]) -> dict[str, float]:
    """Return for how long something has been due in each lane and no worker has worked on the lane.

    `oldest_due_s`: for how long the longest-due operation of each lane has been due; 0 if nothing is due. It alone does
    not say that nobody works: the last operation of a backlog waits until all others were sent.

    A worker works on a lane if it claims or settles operations. The money lane may take all permits of the rate limit.
    So while workers work on its backlog, the other lanes of its destination are not late. While a 429 holds B2COPY,
    none of its lanes is. The lane of notices is late from the end of the hold that `_notices_held_s` reads.
    """
    worked_s: dict[str, float] = {}
    held: set[str] = set()
    for lane, worked_ms, held_until in connection.execute(_WORKED) if any(oldest_due_s.values()) else ():
        if worked_ms is not None:
            worked_s[lane] = min(worked_s.get(lane, math.inf), max(0, worked_ms) / 1000)
        if held_until is not None and lane != NOTIFY:
            held.add(destination_of(lane))
    late_s = {}
    for lane, due_s in oldest_due_s.items():
        destination = destination_of(lane)
        goes_first = MONEY if oldest_due_s.get(MONEY) and destination_of(MONEY) == destination else lane
        ages_s = [worked_s[one] for one in (lane, goes_first) if one in worked_s]
        late_s[lane] = 0.0 if destination in held else min([due_s, *ages_s])
    if late_s.get(NOTIFY) and NOTIFY in worked_s:
        late_s[NOTIFY] = min(late_s[NOTIFY], max(0.0, -_notices_held_s(connection, worked_s[NOTIFY])))
    return late_s


def _notices_held_s(connection: Connection, worked_s: float) -> float:
    """Return for how many seconds a 429 still holds the CRM; negative since the hold has ended, -inf if there was none.

    `worked_s`: how many seconds ago a worker last worked on the lane of notices.

    A notice that got a 429 waits for at least its `Retry-After`, and longer if its own schedule says so. Therefore the
    first of these notices that became due, or will, after the last work tells when the hold ends. It is an estimate: if
    the schedule of each is longer than the hold, the lane is excused for longer, and if that of each is longer than
    `NOTICE_HOLD_MAX_S`, it is not excused.
    """
    held_ms = connection.execute(_NOTICES_HELD, {"worked_ms": round(worked_s * 1000)}).scalar()
    return -math.inf if held_ms is None else held_ms / 1000


def count_due(ledger: Ledger) -> dict[str, int]:
    """Count what may be claimed now, per lane, up to `COUNT_LIMIT` each. A paused lane has nothing due."""
    with ledger.reading() as connection:
        return {lane: due.operations for lane, due in read_due(connection).items()}


def count_waiting(ledger: Ledger, reason: WaitReason) -> int:
    """Count the operations that wait for this reason."""
    with ledger.reading() as connection:
        return connection.execute(_COUNT_WAITING, {"because": reason}).scalar_one()


def make_due(ledger: Ledger, destination: str, reason: WaitReason) -> int:
    """Make everything of a destination that waits for this reason due now. Returns how many operations."""
    asked = {"because": reason, "to": destination}
    return ledger.write(lambda connection: connection.execute(_MAKE_DUE, asked).rowcount)  # again after a deadlock
