"""A batch of operations, an import for instance: how far it is, for people and, as a document, for programs."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy.exc import DBAPIError

from worker.ledger import Ledger, active_flags
from worker.ledger.batches import CANCELLED, PAUSED, Batch, BatchCounts, batch_counts
from worker.ledger.engine import INSUFFICIENT_PRIVILEGE
from worker.ledger.restore import restored_at
from worker.operation import AuditEntry, State
from worker.report.format_values import clock, iso, span
from worker.report.operation_report import pause_document
from worker.report.sentences import pause_text

RESTORED = (
    "the ledger came from a backup since the import began, so rows that are not recorded may have been done: see"
    " 'After a restore' in deploy/README.md"
)


class BatchReport(NamedTuple):
    """A batch, how many of its operations are in each state, and the pauses of its lane.

    `is_restored`: the ledger came from a backup since the batch began.
    """

    batch: Batch
    counts: BatchCounts
    pauses: tuple[AuditEntry, ...] = ()
    is_restored: bool = False

    @property
    def done(self) -> int:
        """How many operations have ended."""
        return self.counts.recorded - self.counts.open

    @property
    def total(self) -> int:
        """How many rows the import has, or how many operations are recorded, if that is all that is known."""
        return max(self.batch.rows or 0, self.counts.recorded)

    @property
    def left_s(self) -> float | None:
        """How many seconds it takes until all have ended at the rate of the last minute; None if none ended in it."""
        rate = self.counts.ended_last_minute / 60
        return self.counts.open / rate if rate and self.counts.open else None

    @property
    def sentence(self) -> str:
        """How it stands: one sentence."""
        decided = f"since {clock(self.batch.decided_at or 0)} UTC by {self.batch.decided_by}: {self.batch.note}"
        match self.batch.decision:
            case "paused":
                return f"paused {decided}"
            case "cancelled":
                return f"cancelled {decided}"
        missing = self.total - self.counts.recorded
        if self.counts.open:
            left = f", about {span(self.left_s)} left" if self.left_s is not None else ""
            why = RESTORED if self.is_restored else "run the import again if it was interrupted"
            recorded = f"{self.counts.recorded:,} of {self.total:,} recorded: {why}"
            paused = "".join(f", {pause_text(pause)}" for pause in self.pauses)
            return f"{f'{recorded}; ' if missing else ''}{self.counts.open:,} to do{left}{paused}"
        if missing:
            why = RESTORED if self.is_restored else "known before, given twice, purged, or the import was interrupted"
            return f"all ended but {missing:,} rows: {why}"
        return "all ended"


def batch_reports(ledger: Ledger, batches: Iterable[Batch]) -> list[BatchReport]:
    """Count the operations of these batches."""
    found = list(batches)
    counts = batch_counts(ledger, [batch.id for batch in found])
    pauses = {lane: lane_pauses(ledger, lane) for lane in {batch.lane for batch in found}}
    restored = began_before_restore(ledger, found)
    return [BatchReport(batch, counts[batch.id], pauses[batch.lane], batch.id in restored) for batch in found]


def began_before_restore(ledger: Ledger, batches: Iterable[Batch]) -> set[str]:
    """Return the names of those batches since whose begin the ledger came from a backup.

    Empty if the role may not read that.
    """
    at: int | None = None
    with _unless_refused():
        at = restored_at(ledger)
    return {batch.id for batch in batches if at is not None and batch.requested_at <= at}


def lane_pauses(ledger: Ledger, lane: str) -> tuple[AuditEntry, ...]:
    """Return the pauses that hold a lane: one of all lanes, one of its own. Empty if the role may not read them."""
    flags: Mapping[str, AuditEntry] = {}
    with _unless_refused():
        flags = active_flags(ledger)
    return tuple(flags[name] for name in ("pause:all", f"pause:{lane}") if name in flags)


@contextmanager
def _unless_refused() -> Iterator[None]:
    """Leave the block if the database's role may not read a table: b2copy_enqueue, with which CRMs import."""
    try:
        yield
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
            raise


def document(report: BatchReport) -> dict[str, Any]:
    """Return how a batch stands, for programs. Times are ISO 8601 in UTC."""
    batch = report.batch
    return {
        "batch": batch.id,
        "kind": batch.kind,
        "lane": batch.lane,
        "source": batch.source,
        "rows": batch.rows,
        "recorded": report.counts.recorded,
        "states": {str(state): report.counts.states.get(state, 0) for state in State},
        "ended_last_minute": report.counts.ended_last_minute,
        "left_s": report.left_s,
        "requested_by": batch.requested_by,
        "requested_at": iso(batch.requested_at),
        "paused": batch.decision == PAUSED,
        "cancelled": batch.decision == CANCELLED,
        "decided_by": batch.decided_by,
        "decided_at": iso(batch.decided_at),
        "note": batch.note,
        "lane_pauses": [pause_document(pause) for pause in report.pauses],
        "exported_at": iso(int(time.time() * 1000)),
    }
