"""What the ledger holds, as metrics: exported once for each ledger, by `b2copy-sync metrics`.

The ledger is read when a scraper asks, at most every five seconds. If it cannot be read, `b2copy_ledger_up` is 0 and
the others are absent: an old value would look like a healthy one.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from worker.ledger import Ledger, active_flags
from worker.ledger.overview import Overview, overview
from worker.ledger.running_workers import workers_by_version
from worker.operation import MESSAGE_KIND, AuditEntry
from worker.queues import B2COPY
from worker.watch.outage_log import OutageLog

log = logging.getLogger(__name__)

CACHED_S = 5.0  # seconds that a reading is served again

Rows = list[tuple[tuple[str, ...], float]]
"""Label values and value."""


class Family(NamedTuple):
    """A gauge of the ledger, and how it is read."""

    name: str
    documentation: str
    labels: tuple[str, ...]
    read: Callable[[Overview, dict[str, AuditEntry]], Rows]


def _ages(found: Overview, _: dict[str, AuditEntry]) -> Rows:
    ours: Rows = [((lane.lane, "ours"), lane.oldest_s or 0.0) for lane in found.lanes]
    theirs: Rows = [((lane.lane, "theirs"), lane.oldest_pending_s or 0.0) for lane in found.lanes]
    return ours + theirs


FAMILIES = (
    Family(
        "b2copy_operations",
        "Operations that are open or failed; `reason`: why they wait or failed. Counted are up to 10,000 of a lane and"
        " phase, 10,000 that wait for a reason, and 10,000 failed ones of a lane, kind and reason.",
        ("lane", "kind", "state", "reason"),
        lambda found, flags: [((g.lane, g.kind, g.state, g.reason), g.count) for g in (*found.open, *found.failed)],
    ),
    Family(
        "b2copy_operations_capped",
        "1 if the lane holds more than `b2copy_operations` counts.",
        ("lane",),
        lambda found, flags: [((lane.lane,), float(lane.capped)) for lane in found.lanes],
    ),
    Family(
        "b2copy_oldest_seconds",
        "Age of the oldest open operation; `ours` leaves out the time pending at B2COPY or paused, and what is pending"
        " there now; `theirs` is the oldest one that B2COPY has begun.",
        ("lane", "clock"),
        _ages,
    ),
    Family(
        "b2copy_late_seconds",
        "For how long something has been due in a lane and no worker has worked on the lane.",
        ("lane",),
        lambda found, flags: [((lane.lane,), lane.late_s or 0.0) for lane in found.lanes],
    ),
    Family(
        "b2copy_dispatch_age_seconds",
        "Since any process last repeated the wake-ups; absent if none ever did.",
        (),
        lambda found, flags: [] if found.dispatch_age_s is None else [((), found.dispatch_age_s)],
    ),
    Family(
        "b2copy_workers",
        "Workers that run, by the version of their code; two versions: an upgrade is under way.",
        ("version",),
        lambda found, flags: [((version,), count) for version, count in workers_by_version(found.workers).items()],
    ),
    Family(
        "b2copy_requests_age_seconds",
        "Age of the oldest row of b2copy_requests that no worker has taken. A row that a worker leaves for one of"
        " another version does not count.",
        (),
        lambda found, flags: [((), found.requests_age_s or 0.0)],
    ),
    Family(
        "b2copy_held_seconds",
        "Seconds until the last operation that waits as `rate_limited` is due. After a 429 nothing is sent to the"
        " destination until then. 0 if none waits so.",
        ("destination",),
        lambda found, flags: [((B2COPY,), found.held_s)],
    ),
    Family(
        "b2copy_paused",
        "1 while the lane, or `all`, is paused: by a person, or `notify` by b2copy-sync after an answer 410.",
        ("lane",),
        lambda found, flags: [
            ((lane,), float(f"pause:{lane}" in flags)) for lane in ("all", *(one.lane for one in found.lanes))
        ],
    ),
    Family(
        "b2copy_import_paused_seconds",
        "For how long a person has had an import paused, the longest of all; 0 if none is paused.",
        (),
        lambda found, flags: [((), found.batch_paused_s or 0.0)],
    ),
    Family(
        "b2copy_ledger_collected_timestamp_seconds",
        "When the ledger was read, in Unix seconds by the clock of the process that exports this.",
        (),
        lambda found, flags: [((), time.time())],
    ),
)
UP = ("b2copy_ledger_up", "1 if the ledger could be read.")


class LedgerCollector(Collector):
    """Reads the ledger for a scraper. `open_ledger` is called until it succeeds, then the ledger is reused.

    A row may hold any text as its kind. What is none of `kinds` becomes `other`, so that labels stay few.
    """

    def __init__(self, open_ledger: Callable[[], Ledger], kinds: Collection[str]) -> None:
        self._open, self._kinds = open_ledger, {MESSAGE_KIND, *kinds}
        self._ledger: Ledger | None = None
        self._lock = threading.Lock()
        self._cached: list[Metric] = []
        self._read_at = float("-inf")  # monotonic seconds
        self._outage = OutageLog(log, "the ledger cannot be read, its metrics are absent")

    def describe(self) -> list[Metric]:
        """Return nothing: registering a collector must not read the ledger."""
        return []

    def collect(self) -> Iterator[Metric]:
        with self._lock:  # two scrapers at the same time cost one reading
            if time.monotonic() - self._read_at >= CACHED_S:
                self._cached, self._read_at = self._read(), time.monotonic()
        yield from self._cached

    def _read(self) -> list[Metric]:
        try:
            self._ledger = self._ledger or self._open()
            found, flags = overview(self._ledger), active_flags(self._ledger)
            families = [self._family(family, found, flags) for family in FAMILIES]
        except Exception as error:  # any error: the scraper must learn that there are no values
            self._outage.failed(error)
            return [GaugeMetricFamily(*UP, value=0)]
        self._outage.succeeded()
        return [GaugeMetricFamily(*UP, value=1), *families]

    def _family(self, family: Family, found: Overview, flags: dict[str, AuditEntry]) -> Metric:
        gauge = GaugeMetricFamily(family.name, family.documentation, labels=family.labels)
        values: dict[tuple[str, ...], float] = {}
        for labels, value in family.read(found, flags):
            named = zip(family.labels, labels, strict=True)
            known = tuple("other" if name == "kind" and label not in self._kinds else label for name, label in named)
            values[known] = values.get(known, 0.0) + value
        for known, value in values.items():
            gauge.add_metric(known, value)
        return gauge
