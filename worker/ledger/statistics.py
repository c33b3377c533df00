"""The ledger as a whole: how much is due and how late, what waits for what, what has failed."""

from dataclasses import dataclass

from sqlalchemy import func, select, union_all
from sqlalchemy.sql import ColumnElement

from worker.ledger.claims import is_paused
from worker.ledger.database import Ledger
from worker.ledger.due import COUNT_LIMIT, count_due
from worker.ledger.schema import c, now_ms, sql_literal
from worker.operation import Phase, State, WaitReason
from worker.queues import LANES


@dataclass(frozen=True, slots=True)
class Statistics:
    """Each count stops at `COUNT_LIMIT`. `late_s`: for how long the longest-due operation of a lane has been due."""

    due: dict[str, int]
    late_s: dict[str, float]
    waiting: dict[WaitReason, int]
    failed: dict[str, int]


def _count_waiting(reason: WaitReason) -> ColumnElement[int]:
    limited = select(c.id).where(c.state == sql_literal(State.WAITING), c.wait_reason == sql_literal(reason))
    return select(func.count()).select_from(limited.limit(COUNT_LIMIT).subquery()).scalar_subquery()


_OLDEST = union_all(
    *(
        select(sql_literal(lane).label("lane"), now_ms() - func.min(c.due_at)).where(
            c.lane == sql_literal(lane), c.phase == sql_literal(phase), c.due_at <= now_ms(), ~is_paused(lane)
        )
        for lane in LANES
        for phase in Phase
    )
)
_WAITING = select(*(_count_waiting(reason).label(reason) for reason in WaitReason))
_newest_failed = (
    select(c.failure_reason).where(c.state == sql_literal(State.FAILED)).order_by(c.id.desc()).limit(COUNT_LIMIT)
).subquery()
_FAILED = (
    select(_newest_failed.c.failure_reason, func.count())
    .group_by(_newest_failed.c.failure_reason)
    .order_by(_newest_failed.c.failure_reason)
)


def statistics(ledger: Ledger) -> Statistics:
    """Count what the ledger holds. The cost does not grow with the number of final operations."""
    late_s: dict[str, float] = {}
    with ledger.reading() as connection:
        for lane, ms in connection.execute(_OLDEST):
            late_s[lane] = max(late_s.get(lane, 0.0), (ms or 0) / 1000)
        waiting = connection.execute(_WAITING).one()._asdict()
        failed = {row[0]: row[1] for row in connection.execute(_FAILED)}
    return Statistics(
        due=count_due(ledger),
        late_s=late_s,
        waiting={reason: waiting[reason] for reason in WaitReason if waiting[reason]},
        failed=failed,
    )
