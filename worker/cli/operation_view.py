"""An operation's whole story, from the ledger's evidence: for a support person, and as a document for a regulator."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.text import Text

from worker.cli import output

if TYPE_CHECKING:
    from worker.ledger import Ledger
    from worker.operation import AttemptRecord, AuditEntry, Operation

STYLES = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "waiting": "cyan", "running": "cyan"}

_WAITS = {
    "pending_at_b2copy": "B2COPY has not finished it",
    "backoff": "the last attempt got no answer that decides",
    "rate_limited": "B2COPY said that we ask too often",
    "circuit_open": "B2COPY is unavailable and is asked only now and then",
    "no_access": "B2COPY refuses our access (see b2copy-sync doctor)",
    "next_step": "its next step is not due yet",
    "no_session": "there is no access token (see b2copy-sync doctor)",
    "behind_entity": "an earlier operation of {entity} goes first",
    "behind_parent": "{parent} has not succeeded yet",
}
_FAILED = {
    "rejected": "B2COPY refused it",
    "fee_error": "B2COPY ended the fee run with an error",
    "expired": "its deadline passed before it could be sent",
    "unresolved": "what B2COPY made of it is not known",
    "exhausted": "B2COPY answered too often that it should be tried again",
    "bad_payload": "it could not be taken as it was",
    "internal": "the fault is ours: the worker's log has the traceback",
}
_REPLAY = 'b2copy-sync failed replay {key} --why "..."'
_REMEDIES = {
    "rejected": f"Correct what B2COPY names, then: {_REPLAY}",
    "fee_error": f"Clear up at B2COPY what it says, then: {_REPLAY}",
    "expired": f"If it is still wanted: {_REPLAY}",
    "unresolved": f"Asking again does no harm: {_REPLAY}",
    "exhausted": f"Find out why at B2COPY, then: {_REPLAY}",
    "bad_payload": "Send it again with what is missing or wrong corrected; nothing of this one was sent.",
    "internal": f"Once the fault is mended: {_REPLAY}",
}
_FIND_OUT = "Find out at B2COPY whether it was done. If not, enqueue it under a new key: this one is not sent again."
_DECIDED = {"replay": "replayed", "cancel": "cancelled", "stop_asking": "told to stop asking"}


@dataclass(frozen=True)
class Story:
    """An operation, its attempts and what people decided about it."""

    operation: "Operation"
    attempts: "list[AttemptRecord]"
    decisions: "list[AuditEntry]"

    @property
    def words(self) -> str:
        """B2COPY's last words about it, or why a message could not be taken."""
        told = [attempt.message for attempt in self.attempts if attempt.message]
        refused = (self.operation.result or {}).get("error") if self.operation.kind == "message" else None
        return str(refused) if refused else told[-1] if told else ""


def story_of(ledger: "Ledger", operation: "Operation") -> Story:
    """Gather an operation's evidence."""
    from worker.ledger import attempts_of, audit_of

    return Story(operation, attempts_of(ledger, operation.id), audit_of(ledger, operation.key))


def standing(operation: "Operation") -> str:
    """Tell in a sentence how an operation stands, and why."""
    if operation.wait_reason:
        why = _WAITS[operation.wait_reason].format(entity=operation.entity, parent=operation.parent)
        due = (operation.due_at or 0) / 1000 - time.time()
        return f"waiting: {why}" + (f"; looked at again in {due:.0f} s" if due >= 1 else "; due now")
    if operation.failure_reason:
        return f"failed ({operation.failure_reason}): {_FAILED[operation.failure_reason]}"
    if operation.state == "queued":
        return "queued: no worker has taken it yet"
    return str(operation.state)


def remedy(operation: "Operation") -> str:
    """Tell what a person can do about a failed operation; empty if there is nothing to do."""
    if not operation.failure_reason:
        return ""
    if operation.kind == "message":
        return _REMEDIES["bad_payload"]
    if operation.failure_reason == "unresolved" and operation.on_unknown == "stop":
        return _FIND_OUT
    return _REMEDIES[operation.failure_reason].format(key=operation.key)


def tell(story: Story) -> None:
    """Print the story for people."""
    operation = story.operation
    output.line(operation.key, style="bold")
    facts: list[tuple[str, str | Text | None]] = [
        ("state", Text(output.printable(standing(operation)), STYLES.get(operation.state, ""))),
        *((name, _short(value)) for name, value in operation.payload.items() if value is not None),
        ("lane", operation.lane),
        ("entity", operation.entity),
        ("parent", operation.parent),
        ("deadline", f"{output.clock(operation.deadline_at)} UTC" if operation.deadline_at else None),
        ("took", output.span((operation.ended_at - operation.requested_at) / 1000) if operation.ended_at else None),
        ("result", _short(operation.result) if operation.result else None),
    ]
    output.facts(facts)
    output.line("")
    output.table(("When (UTC)", "What", "HTTP", "Took", "By", "Words"), _timeline(story))
    if advice := remedy(operation):
        output.line(f"\n{advice}")


def document(story: Story) -> dict[str, Any]:
    """Return the story for programs: the export for a regulator or a dispute. Times are ISO 8601, UTC."""
    operation = story.operation
    from worker.operation import VERSION

    return {
        **summary(operation),
        "payload": operation.payload,
        "result": operation.result,
        "deadline_at": output.iso(operation.deadline_at),
        "on_unknown": operation.on_unknown,
        "sent": operation.sent,
        "outcome_unknown": operation.outcome_unknown,
        "counted_attempts": operation.counted_attempts,
        "polls": operation.polls,
        "replays": operation.replays,
        "external_wait_ms": operation.external_wait_ms,
        "attempts": [
            {
                "started_at": output.iso(attempt.started_at),
                "duration_ms": attempt.duration_ms,
                "http_status": attempt.http_status,
                "outcome": attempt.outcome,
                "message": attempt.message,
                "request_id": attempt.request_id,
                "counted": attempt.counted,
                "times": attempt.times,
                "last_at": output.iso(attempt.last_at),
                "late": attempt.late,
                "worker": attempt.worker,
                "version": attempt.version,
            }
            for attempt in story.attempts
        ],
        "audit": [
            {"at": output.iso(decision.at), "action": decision.action, "actor": decision.actor, "note": decision.note}
            for decision in story.decisions
        ],
        "exported_at": output.iso(int(time.time() * 1000)),
        "exported_by_version": VERSION,
    }


def summary(operation: "Operation") -> dict[str, Any]:
    """Return how an operation stands, for programs."""
    return {
        "key": operation.key,
        "kind": operation.kind,
        "lane": operation.lane,
        "entity": operation.entity,
        "parent": operation.parent,
        "state": operation.state,
        "wait_reason": operation.wait_reason,
        "failure_reason": operation.failure_reason,
        "requested_at": output.iso(operation.requested_at),
        "requested_by": operation.requested_by,
        "state_since": output.iso(operation.state_since),
        "due_at": output.iso(operation.due_at),
        "ended_at": output.iso(operation.ended_at),
    }


def _timeline(story: Story) -> list[tuple[str | Text, ...]]:
    """Everything that happened, in its order."""
    operation = story.operation
    told: list[tuple[int, tuple[str | Text, ...]]] = [
        (operation.requested_at, ("requested", "", "", operation.requested_by, ""))
    ]
    told += [(attempt.started_at, _tried(attempt)) for attempt in story.attempts]
    told += [
        (decision.at, (_DECIDED.get(decision.action, decision.action), "", "", decision.actor, decision.note))
        for decision in story.decisions
    ]
    told.sort(key=lambda event: event[0])
    if operation.ended_at:
        ended = Text(str(operation.state), STYLES[operation.state])
        told.append((operation.ended_at, (ended, "", "", "", str(operation.failure_reason or ""))))
    return [(output.clock(at), *cells) for at, cells in told]


def _tried(attempt: "AttemptRecord") -> tuple[str | Text, ...]:
    what = attempt.outcome
    if attempt.times > 1:
        what += f" x{attempt.times}" + (f" until {output.clock(attempt.last_at)[11:]}" if attempt.last_at else "")
    if attempt.late:
        what += " (too late, decided nothing)"
    by = f"{attempt.worker} {attempt.version}".strip()
    status = str(attempt.http_status or "")
    return what, status, output.span(attempt.duration_ms / 1000), by, attempt.message or ""


def _short(value: Any) -> str:
    import json

    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 500 else text[:500] + " ... (all of it: --json)"
