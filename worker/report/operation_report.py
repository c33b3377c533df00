"""An operation with all its evidence, for a support person and, as a document, for a regulator."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from worker.ledger import Ledger, active_flags, attempts_of, audit_of
from worker.ledger.batches import BATCH, PAUSED, cancelled_unsent_among, find_batch
from worker.ledger.queries import last_messages_of
from worker.operation import MESSAGE_KIND, VERSION, AttemptRecord, AuditEntry, Operation, State
from worker.report import sentences
from worker.report.format_values import iso, with_iso_times
from worker.report.sentences import Kinds

_LISTED = (
    "key", "kind", "lane", "entity", "parent", "state", "wait_reason", "failure_reason", "requested_at",
    "requested_by", "state_since", "due_at", "ended_at",
)  # fmt: skip


@dataclass(frozen=True)
class OperationReport:
    """An operation, its attempts, what people decided about it and about its batch, and the pause that it waits for.

    `was_cancelled_unsent`: it failed because its batch was cancelled after a restore.
    """

    operation: Operation
    attempts: list[AttemptRecord]
    audit: list[AuditEntry]
    batch_audit: list[AuditEntry]
    pause: AuditEntry | None
    was_cancelled_unsent: bool
    kinds: Kinds

    @property
    def server_message(self) -> str:
        """The server message of the last attempt, or why a message could not be used."""
        if self.operation.kind == MESSAGE_KIND:
            return _error_of(self.operation)
        return (self.attempts[-1].message or "") if self.attempts else ""

    @property
    def standing(self) -> str:
        return sentences.standing(self.operation, self.kinds, self.pause, self.audit)

    @property
    def remedy(self) -> str:
        return self.remedy_by(sentences.COMMANDS)

    def remedy_by(self, remedies: sentences.Remedies) -> str:
        """Return the remedy with the commands or the buttons of `remedies`."""
        is_cancelled = self.was_cancelled_unsent
        return sentences.remedy(self.operation, self.kinds, remedies, was_cancelled_unsent=is_cancelled)


def report_on(ledger: Ledger, operation: Operation, kinds: Kinds, newest: int | None = None) -> OperationReport:
    """Gather an operation's evidence: all attempts, or so many of the newest."""
    attempts, audit = attempts_of(ledger, operation.id, newest), audit_of(ledger, operation.key)
    batch_audit = audit_of(ledger, BATCH + operation.batch) if operation.batch else []
    pause, cancelled = pause_of(ledger, operation), cancelled_unsent_among(ledger, [operation])
    return OperationReport(operation, attempts, audit, batch_audit, pause, operation.key in cancelled, kinds)


def last_messages(ledger: Ledger, operations: Sequence[Operation]) -> dict[int, str]:
    """Return `server_message` of the operations that have one, by their ids."""
    messages = {one.id: _error_of(one) for one in operations if one.kind == MESSAGE_KIND}
    return messages | last_messages_of(ledger, [one.id for one in operations if one.kind != MESSAGE_KIND])


def _error_of(message: Operation) -> str:
    return str((message.result or {}).get("error", ""))


def pause_of(ledger: Ledger, operation: Operation) -> AuditEntry | None:
    """Return the pause that holds an operation's batch or lane, if there is one."""
    # The decision counts at once: a sweep puts the operations aside later.
    if operation.batch and not operation.sent and operation.state in (State.QUEUED, State.WAITING):
        batch = find_batch(ledger, operation.batch)
        if batch is not None and batch.decision == PAUSED:
            return AuditEntry(batch.decided_at or 0, batch.decided_by or "", "pause", batch.subject, batch.note or "")
    flags = active_flags(ledger)
    return flags.get("pause:all") or flags.get(f"pause:{operation.lane}")


def summary(report: OperationReport) -> dict[str, Any]:
    """Return how an operation stands, for programs. Names are the ledger's columns, times ISO 8601 in UTC."""
    fields = asdict(report.operation)
    return {
        **with_iso_times({name: fields[name] for name in _LISTED}),
        "server_message": report.server_message or None,
        "standing": report.standing,
        "remedy": report.remedy or None,
    }


def evidence(report: OperationReport) -> dict[str, Any]:
    """Return what is stored about an operation, and nothing that depends on when it is looked at.

    It is the same until the operation changes or a person decides about it. Names and times as in `summary`.
    """
    fields = asdict(report.operation)
    del fields["id"]
    return {
        **with_iso_times(fields),
        "attempts": [_attempt(attempt) for attempt in report.attempts],
        "audit": [_audit(entry) for entry in report.audit],
        "batch_audit": [_audit(entry) for entry in report.batch_audit],
    }


def document(report: OperationReport) -> dict[str, Any]:
    """Return all evidence and how the operation stands, for programs. Names and times as in `summary`."""
    return {
        **summary(report),
        **evidence(report),
        "paused": report.pause and pause_document(report.pause),
        "exported_at": iso(int(time.time() * 1000)),
        "exported_by_version": VERSION,
    }


def pause_document(pause: AuditEntry) -> dict[str, Any]:
    """Return a pause for programs, of a lane or of a batch."""
    what, _, name = pause.subject.partition(":")
    return {"lane" if what == "pause" else what: name, "since": iso(pause.at), "actor": pause.actor, "note": pause.note}


def _attempt(attempt: AttemptRecord) -> dict[str, Any]:
    return {**with_iso_times(attempt._asdict()), "steps": [step._asdict() for step in attempt.steps]}


def _audit(entry: AuditEntry) -> dict[str, Any]:
    fields = with_iso_times(entry._asdict())
    del fields["subject"]
    return fields
