"""The ledger at a glance: what is open, how old it is, what ended lately, what failed.

No count looks at more than `COUNT_LIMIT` rows of a lane or of a group, so that the cost does not grow with the backlog.
Of a longer backlog the operations that are due first are counted, and `capped` says so.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Integer,
    Select,
    Subquery,
    Text,
    bindparam,
    case,
    func,
    literal,
    select,
    tuple_,
    union_all,
)

from worker.ledger import schema
from worker.ledger.claims import is_paused
from worker.ledger.database import Ledger
from worker.ledger.due import COUNT_LIMIT, read_late_s
from worker.ledger.pauses import paused_since
from worker.ledger.running_workers import RunningWorker, running_workers
from worker.ledger.schema import c, now_ms, operations, sql_literal
from worker.operation import Phase, State, WaitReason
from worker.queues import B2COPY, LANES


@dataclass(frozen=True, slots=True)
class Group:
    """How many operations have this lane, kind, state and reason. `reason`: why they wait or failed, or empty."""

    lane: str
    kind: str
    state: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class LaneOverview:
    """How a lane stands. Ages are in seconds; None if the lane holds nothing of the sort.

    `oldest_s`: the oldest open operation by our clock, which leaves out the time that it was pending at the destination
    or paused; what is pending there now is left out altogether. `oldest_pending_s`: the oldest operation that the
    destination has begun, since it was requested. `late_s`: for how long something has been due, also by a lease that
    has lapsed, and no worker has worked on the lane; nothing is due in a paused lane. `open`: how many operations are
    open, `due`: how many of them may be claimed now, `capped`: there are more.
    """

    lane: str
    open: int
    due: int
    capped: bool
    oldest_s: float | None
    oldest_pending_s: float | None
    late_s: float | None


@dataclass(frozen=True, slots=True)
class Overview:
    """`open` and `failed` count what is there now, `ended` what ended within the last `RECENT_S` seconds.

    `dispatch_age_s`: since any process last repeated the wake-ups; None if none ever did. `requests_age_s`: the oldest
    row of the requests table that no worker has taken; None if there is none. `left_request`: the first row that a
    worker has left for another one, its id and why; it does not count in `requests_age_s`. `batch_paused_s`: since the
    batch that has been paused longest was paused; None if none is. `held_s`: for how long no worker may send to B2COPY,
    because it has answered 429; the operations that wait for this show it, and 0 if none does. The CRM has no such
    time: its notices wait by a schedule of their own. `workers`: those that run.
    """

    at: int
    lanes: list[LaneOverview]
    open: list[Group]
    failed: list[Group]
    ended: list[Group]
    dispatch_age_s: float | None
    requests_age_s: float | None
    left_request: tuple[int, str] | None
    batch_paused_s: float | None
    held_s: float
    workers: list[RunningWorker]


class Oldest(NamedTuple):
    """An operation's key, and how old it is by one of the two clocks, in ms.

    The destination's clock counts the time for which it was pending there or paused, ours all other time.
    """

    key: str
    age_ms: int


RECENT_S = 300  # seconds
OLDEST_WINDOW = 5_000  # open operations of each phase that `oldest_open` reads, those that are due first

_is_pending = c.wait_reason.is_not_distinct_from(sql_literal(WaitReason.PENDING_AT_B2COPY))
_is_polled = (c.state == sql_literal(State.RUNNING)) & (c.phase == sql_literal(Phase.POLL)) & (c.due_at >= now_ms())
_can_stand_still = c.due_at < now_ms()  # also what a lost worker held


def _current_wait(lane: str | BindParameter[str] | Column[str]) -> ColumnElement[int]:
    """The present wait that is not ours, in ms: pending at the destination, put aside, or due and held by a pause.

    `resume` adds the same time to `external_wait_ms` when the pause of the lane or of the batch ends.
    """
    since = paused_since(lane)
    held_from = case((c.due_at > since, c.due_at), else_=since)  # NULL without a pause
    waited = case(
        (_is_pending, now_ms() - c.state_since),
        (schema.is_aside(), now_ms() - (c.due_at - schema.HELD_MS)),
        (_can_stand_still, now_ms() - held_from),
        else_=0,
    )
    return func.coalesce(waited, 0)


def our_age_ms(lane: str | BindParameter[str] | Column[str] = c.lane) -> ColumnElement[int | None]:
    """Return the SQL value for how old an open operation is by our clock, in ms.

    NULL while it is pending at the destination: it does not wait for us then, however long it did before.
    """
    ours = now_ms() - c.requested_at - c.external_wait_ms - _current_wait(lane)
    return case((~_is_pending & ~_is_polled, ours))


def _first(lane: str, phase: Phase) -> Subquery:
    """The operations of a lane and phase that are due first, as the index has them."""
    columns = (c.lane, c.kind, c.state, c.wait_reason, c.phase, c.requested_at, c.due_at)
    return (
        select(*columns, our_age_ms(lane).label("our_age_ms"))
        .where(c.lane == sql_literal(lane), c.phase == sql_literal(phase), c.due_at.is_not(None))
        .order_by(c.due_at)
        .limit(COUNT_LIMIT)
        .subquery()
    )


def _open_groups(first: Subquery) -> Select[Any]:
    f = first.c
    is_due = f.due_at <= now_ms()  # what runs is due when its lease has lapsed
    return select(
        f.lane, f.kind, f.state, f.wait_reason, f.phase, func.count(), func.max(f.our_age_ms),
        func.min(f.requested_at), func.min(case((is_due, f.due_at))), func.count(case((is_due, 1))),
    ).group_by(f.lane, f.kind, f.state, f.wait_reason, f.phase)  # fmt: skip


_OPEN = union_all(*(_open_groups(_first(lane, phase)) for lane in LANES for phase in Phase))
_waiting = [  # by the index over reasons: a longer backlog that is due first must not hide them
    select(c.lane, c.kind, c.state, c.wait_reason)
    .where(c.state == sql_literal(State.WAITING), c.wait_reason == sql_literal(reason))
    .limit(COUNT_LIMIT)
    .subquery()
    for reason in WaitReason
]
_WAITING = union_all(*(select(*one.c, func.count()).group_by(*one.c) for one in _waiting))
_FAILED_GROUPS = 1_000  # groups of failed operations that are counted: a row may hold any text as its kind
_group = (c.failure_reason, c.lane, c.kind)
_other = operations.alias("other")
_other_group = (_other.c.failure_reason, _other.c.lane, _other.c.kind)
_last_failed = (
    select(_other.c.id)
    .where(_other.c.failure_reason.is_not(None))
    .order_by(*(column.desc() for column in _other_group))
    .limit(1)
)
# The index over groups is read from group to group, `unresolved` first: no group hides another, however large it is.
_failed_groups = select(*_group).where(c.id == _last_failed.scalar_subquery()).cte("failed_groups", recursive=True)
_is_before = tuple_(*_other_group) < tuple_(*_failed_groups.c)
_next_failed = _last_failed.where(_is_before).correlate(_failed_groups).scalar_subquery()
_failed_groups = _failed_groups.union_all(select(*_group).join_from(_failed_groups, operations, c.id == _next_failed))
_of_group = (
    select(c.failure_reason)
    .where(tuple_(*_group) == tuple_(*_failed_groups.c))
    .limit(COUNT_LIMIT)
    .correlate(_failed_groups)
    .subquery()
)
_FAILED = select(
    _failed_groups.c.lane,
    _failed_groups.c.kind,
    _failed_groups.c.failure_reason,
    select(func.count()).select_from(_of_group).scalar_subquery(),
).limit(_FAILED_GROUPS)
_newest_ended = (
    select(c.lane, c.kind, c.state, c.failure_reason)
    .where(c.ended_at >= now_ms() - bindparam("recent", type_=Integer))
    .order_by(c.ended_at.desc())
    .limit(COUNT_LIMIT)
    .subquery()
)
_ENDED = select(_newest_ended, func.count()).group_by(*_newest_ended.c)
_decided = (
    select(schema.batches.c.decision, schema.batches.c.decided_at)
    .where(schema.batches.c.decision.is_not(None))
    .limit(COUNT_LIMIT)
    .subquery()
)
_limited = (
    select(c.destination, c.due_at)
    .where(c.state == sql_literal(State.WAITING), c.wait_reason == sql_literal(WaitReason.RATE_LIMITED))
    .limit(COUNT_LIMIT)
    .subquery()
)
_r = schema.requests.c
_is_left = _r.left_because.is_not(None) & (_r.left_because != sql_literal(schema.WAITS_FOR_US))
_LEFT = select(_r.id, _r.left_because).where(_is_left).order_by(_r.id).limit(1)
_NOW = select(
    now_ms(),
    select(schema.ledger.c.dispatched_at).scalar_subquery(),
    select(func.min(case((~_is_left, _r.requested_at)))).scalar_subquery(),
    select(func.min(_decided.c.decided_at)).where(_decided.c.decision == "paused").scalar_subquery(),
    select(func.max(_limited.c.due_at))
    .where(_limited.c.destination == sql_literal(B2COPY), schema.is_in_line(_limited.c))
    .scalar_subquery(),
    *(is_paused(lane) for lane in LANES),
)


_open_of_lane = (
    select(
        union_all(
            *(
                select(
                    select(
                        c.key,
                        our_age_ms(bindparam("lane", type_=Text)).label("our_ms"),
                        (c.external_wait_ms + _current_wait(bindparam("lane", type_=Text))).label("their_ms"),
                    )
                    .where(c.lane == bindparam("lane"), c.phase == sql_literal(phase), c.due_at.is_not(None))
                    .order_by(c.due_at)
                    .limit(OLDEST_WINDOW)
                    .subquery()
                )
                for phase in Phase
            )
        ).subquery()
    )
    .cte("w")
    .prefix_with("MATERIALIZED")
)
_OLDEST = union_all(
    *(
        select(
            select(literal(name), _open_of_lane.c.key, age_ms)
            .where(age_ms > 0)
            .order_by(age_ms.desc())
            .limit(1)
            .subquery()
        )
        for name, age_ms in (("ours", _open_of_lane.c.our_ms), ("theirs", _open_of_lane.c.their_ms))
    )
)


def oldest_open(ledger: Ledger, lane: str) -> tuple[Oldest | None, Oldest | None]:
    """Return the open operations of a lane that are oldest by our clock and by the destination's.

    None if none waits for us, or if none was pending at the destination or paused.
    """
    with ledger.reading() as connection:
        found = {name: Oldest(key, age_ms) for name, key, age_ms in connection.execute(_OLDEST, {"lane": lane})}
    return found.get("ours"), found.get("theirs")


def overview(ledger: Ledger) -> Overview:
    """Read the overview in one read-only transaction. The cost does not grow with what it holds."""
    with ledger.reading() as connection:
        now, dispatched_at, requested_at, batch_paused_at, held_until, *paused = connection.execute(_NOW).one()
        rows = connection.execute(_OPEN).all()
        waiting = connection.execute(_WAITING).all()
        failed = [
            Group(lane, kind, State.FAILED, reason, count) for lane, kind, reason, count in connection.execute(_FAILED)
        ]
        ended = [
            Group(lane, kind, state, reason or "", count)
            for lane, kind, state, reason, count in connection.execute(_ENDED, {"recent": RECENT_S * 1000})
        ]
        workers = running_workers(connection)
        left = connection.execute(_LEFT).first()
        lanes = [
            _lane(lane, now, is_lane_paused, [row for row in rows if row[0] == lane])
            for lane, is_lane_paused in zip(LANES, paused, strict=True)
        ]
        late_s = read_late_s(connection, {lane.lane: lane.late_s or 0.0 for lane in lanes})
    lanes = [replace(lane, late_s=None if lane.late_s is None else late_s[lane.lane]) for lane in lanes]
    counts: dict[tuple[str, str, str, str], int] = {}
    not_waiting = [
        (lane, kind, state, "", count) for lane, kind, state, _, _, count, *_ in rows if state != State.WAITING
    ]
    for lane, kind, state, reason, count in (*not_waiting, *waiting):  # the phases of one group
        group = (lane, kind, state, reason)
        counts[group] = counts.get(group, 0) + count
    if requested_at is not None and not isinstance(requested_at, int):  # SQLite takes any value
        requested_at = dispatched_at or now  # nobody has taken rows since
    return Overview(
        at=now,
        lanes=lanes,
        open=[Group(*group, count) for group, count in counts.items()],
        failed=failed,
        ended=ended,
        # 0 is what a new ledger holds. `doctor` writes one ms less to see whether it may write.
        dispatch_age_s=max(0.0, (now - dispatched_at) / 1000) if dispatched_at > 0 else None,
        requests_age_s=None if requested_at is None else max(0.0, (now - requested_at) / 1000),
        left_request=None if left is None else (left.id, left.left_because),
        batch_paused_s=None if batch_paused_at is None else max(0.0, (now - batch_paused_at) / 1000),
        held_s=max(0, (held_until or now) - now) / 1000,
        workers=workers,
    )


def _lane(lane: str, now: int, paused: bool, rows: Iterable[Any]) -> LaneOverview:
    counts = dict.fromkeys(Phase, 0)
    ours: list[int] = []
    due: list[int] = []
    pending: list[int] = []
    due_count = 0
    for _, _, _, _, phase, count, our_age, requested_at, due_at, count_due in rows:
        counts[Phase(phase)] += count
        if our_age is not None:
            ours.append(our_age)
        if due_at is not None and not paused:
            due.append(now - due_at)
            due_count += count_due
        if phase == Phase.POLL:
            pending.append(now - requested_at)
    return LaneOverview(
        lane=lane,
        open=sum(counts.values()),
        due=min(due_count, COUNT_LIMIT),
        capped=max(counts.values()) >= COUNT_LIMIT,
        oldest_s=_seconds(ours),
        oldest_pending_s=_seconds(pending),
        late_s=_seconds(due),
    )


def _seconds(ms: list[int]) -> float | None:
    return max(0.0, max(ms) / 1000) if ms else None
