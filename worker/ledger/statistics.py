"""The ledger as a whole: how much is due and how late, what waits for what, what has failed."""

from collections.abc import Iterable
from dataclasses import dataclass

from worker.ledger.database import Ledger
from worker.ledger.overview import Group, Overview, overview
from worker.operation import State, WaitReason


@dataclass(frozen=True, slots=True)
class Statistics:
    """Each count stops at `COUNT_LIMIT`. `late_s`: for how long the longest-due operation of a lane has been due."""

    due: dict[str, int]
    late_s: dict[str, float]
    waiting: dict[WaitReason, int]
    failed: dict[str, int]


def statistics(ledger: Ledger) -> Statistics:
    """Count what the ledger holds. The cost does not grow with the number of final operations."""
    return statistics_of(overview(ledger))


def statistics_of(found: Overview) -> Statistics:
    """Return the counts of an overview, without its lanes and kinds."""
    waiting = _by_reason(one for one in found.open if one.state == State.WAITING)
    return Statistics(
        due={lane.lane: lane.due for lane in found.lanes},
        late_s={lane.lane: lane.oldest_due_s or 0.0 for lane in found.lanes},
        waiting={reason: waiting[reason] for reason in WaitReason if reason in waiting},
        failed=_by_reason(found.failed),
    )


def _by_reason(groups: Iterable[Group]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for group in groups:
        counts[group.reason] = counts.get(group.reason, 0) + group.count
    return dict(sorted(counts.items()))
