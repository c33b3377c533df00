"""Series for charts, from the statistics per minute."""

from collections import defaultdict
from dataclasses import dataclass

from worker.ledger import Ledger
from worker.ledger.minute_statistics import DUE, MINUTE_MS, Minute, minutes_since


@dataclass(frozen=True)
class Point:
    """One minute, or several together. `minute` is the first instant; `late_s`: see `Statistics`, the longest."""

    minute: int
    succeeded: int
    failed: int
    due: int
    late_s: float

    @property
    def ended(self) -> int:
        return self.succeeded + self.failed


def points(ledger: Ledger, now: int, count: int = 60, width: int = 1, lane: str | None = None) -> list[Point]:
    """Return `count` points of `width` minutes each that end at `now` (ms), oldest first. A gap is a point of zeros."""
    step = width * MINUTE_MS
    last = now // step * step
    first = last - (count - 1) * step
    groups: defaultdict[int, list[Minute]] = defaultdict(list)
    for row in minutes_since(ledger, first):
        if lane is None or row.lane == lane:
            groups[row.minute // step * step].append(row)
    return [_point(minute, groups[minute]) for minute in range(first, last + step, step)]


def _point(minute: int, rows: list[Minute]) -> Point:
    ended = [row for row in rows if row.outcome != DUE]
    due = [row for row in rows if row.outcome == DUE]
    succeeded = sum(row.operations for row in ended if row.outcome == "succeeded")
    failed = sum(row.operations for row in ended if row.outcome not in {"succeeded", "cancelled"})
    return Point(
        minute,
        succeeded,
        failed,
        max((row.operations for row in due), default=0),
        max((row.total_ms for row in due), default=0) / 1000,
    )
