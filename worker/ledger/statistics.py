"""The ledger as a whole: how much is due and how late, what waits for what, what has failed."""

from collections.abc import Iterable
from dataclasses import dataclass

from worker.ledger.due import COUNT_LIMIT
from worker.ledger.overview import Group, Overview
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
