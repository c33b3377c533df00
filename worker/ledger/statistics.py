"""The ledger as a whole: how much is due and how late, what waits for what, what has failed."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import func, select, union_all

from worker.ledger.database import Ledger
from worker.ledger.due import COUNT_LIMIT, read_due, read_late_s, read_open
from worker.ledger.overview import Group, Overview, read_failed
from worker.ledger.schema import c, sql_literal
from worker.operation import State, WaitReason


@dataclass(frozen=True, slots=True)
class Statistics:
    """`open`: operations that have not ended, `due`: those of them that may be claimed now, both by lane.

    Each count stops at `COUNT_LIMIT`; `failed` adds up the counts of lanes and kinds. `late_s`: for how long something
    has been due and no worker has worked on the lane; see `read_late_s`.
    """

    open: dict[str, int]
    due: dict[str, int]
    late_s: dict[str, float]
    waiting: dict[WaitReason, int]
    failed: dict[str, int]


_waiting = [
    select(c.wait_reason)
    .where(c.state == sql_literal(State.WAITING), c.wait_reason == sql_literal(reason))
    .limit(COUNT_LIMIT)
    .subquery()
    for reason in WaitReason
]
_WAITING = union_all(*(select(one.c.wait_reason, func.count()).group_by(one.c.wait_reason) for one in _waiting))


def statistics(ledger: Ledger) -> Statistics:
    """Count what the ledger holds. No count reads more than `COUNT_LIMIT` operations, so it may be asked often."""
    with ledger.reading() as connection:
        due, opened = read_due(connection), read_open(connection)
        late_s = read_late_s(connection, {lane: one.oldest_s for lane, one in due.items()})
        waiting = {WaitReason(reason): count for reason, count in connection.execute(_WAITING)}
        failed = _by_reason(read_failed(connection))
    return Statistics(
        open=opened,
        due={lane: one.operations for lane, one in due.items()},
        late_s=late_s,
        waiting=waiting,
        failed=failed,
    )


def statistics_of(found: Overview) -> Statistics:
    """Return the counts of an overview, without its lanes and kinds."""
    waiting = _by_reason(one for one in found.open if one.state == State.WAITING)
    return Statistics(
        open={lane.lane: min(lane.open, COUNT_LIMIT) for lane in found.lanes},
        due={lane.lane: lane.due for lane in found.lanes},
        late_s={lane.lane: lane.late_s or 0.0 for lane in found.lanes},
        waiting={reason: waiting[reason] for reason in WaitReason if reason in waiting},
        failed=_by_reason(found.failed),
    )


def _by_reason(groups: Iterable[Group]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for group in groups:
        counts[group.reason] = counts.get(group.reason, 0) + group.count
    return dict(sorted(counts.items()))
