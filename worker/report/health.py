"""Whether what is due is being done: the ledger as a whole, for a monitoring script and at a glance."""

from dataclasses import dataclass
from typing import Any

from worker.ledger import Ledger, active_flags
from worker.ledger.statistics import Statistics, statistics
from worker.operation import AuditEntry, WaitReason
from worker.report.operation import pause_document
from worker.report.text import count, our_address, span


@dataclass(frozen=True)
class Health:
    """`problems` are sentences; without one the ledger is healthy. `notes` are worth knowing and no fault of ours."""

    statistics: Statistics
    pauses: list[AuditEntry]
    problems: list[str]
    notes: list[str]


def health_of(ledger: Ledger, late_s: float, max_failed: int | None = None) -> Health:
    """Examine the ledger. Unhealthy: something is due for more than `late_s`, or more than `max_failed` failed."""
    found = statistics(ledger)
    pauses = [flag for name, flag in active_flags(ledger).items() if name.startswith("pause:")]
    problems = [
        f"lane {lane}: something has been due for {span(seconds)}: is a worker running? (b2copy-sync doctor)"
        for lane, seconds in found.late_s.items()
        if seconds > late_s
    ]
    failed = sum(found.failed.values())
    if max_failed is not None and failed > max_failed:
        problems.append(f"{count(failed)} failed, more than {max_failed}: b2copy-sync failed list")
    return Health(found, pauses, problems, access_notes(found))


def access_notes(found: Statistics) -> list[str]:
    """Return what hinders all operations at once and needs a person: no access, no session."""
    notes = []
    if refused := found.waiting.get(WaitReason.NO_ACCESS):
        notes.append(f"B2COPY refuses our access to {count(refused)}; our requests come from {our_address()}")
    if without := found.waiting.get(WaitReason.NO_SESSION):
        notes.append(f"{count(without)} without an access token: b2copy-sync session show")
    return notes


def document(health: Health) -> dict[str, Any]:
    """Return the same for programs."""
    return {
        "healthy": not health.problems,
        "problems": health.problems,
        "notes": health.notes,
        "due": health.statistics.due,
        "late_s": health.statistics.late_s,
        "waiting": health.statistics.waiting,
        "failed": health.statistics.failed,
        "paused": [pause_document(pause) for pause in health.pauses],
    }
