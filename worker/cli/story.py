"""An operation's whole story, from the ledger's evidence: for a support person, and as a document for a regulator."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.text import Text

from worker.cli import say

if TYPE_CHECKING:
    from worker.ledger import Attempt, Decision, Ledger, Operation

STYLES = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "waiting": "cyan", "running": "cyan"}

_WAITS = {
    "pending_at_b2copy": "B2COPY has not finished it",
    "backoff": "the last attempt got no answer that decides",
    "rate_limited": "B2COPY said that we ask too often",
    "breaker_open": "B2COPY is away and is asked only now and then",
    "no_session": "there is no access token (see b2copy-sync doctor)",
    "paused": "its lane is paused",
    "behind_entity": "an earlier operation of {entity} goes first",
    "behind_parent": "{parent} has not succeeded yet",
}
_FAILED = {
    "rejected": "B2COPY refused it",
    "fee_error": "B2COPY ended the fee run with an error",
    "unresolved": "what B2COPY made of it is not known",
    "exhausted": "B2COPY answered too often that it should be tried again",
    "bad_payload": "it could not be taken as it was",
    "internal": "the fault is ours: the worker's log has the traceback",
}
_REPLAY = 'b2copy-sync failed replay {key} --why "..."'
_REMEDIES = {
    "rejected": f"Correct what B2COPY names, then: {_REPLAY}",
    "fee_error": f"Clear up at B2COPY what it says, then: {_REPLAY}",
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
    attempts: "list[Attempt]"
    decisions: "list[Decision]"

    @property
    def words(self) -> str:
        """B2COPY's last words about it, or why a message could not be taken."""
        told = [attempt.words for attempt in self.attempts if attempt.words]
        refused = (self.operation.result or {}).get("error") if self.operation.kind == "message" else None
        return str(refused) if refused else told[-1] if told else ""


def story_of(ledger: "Ledger", operation: "Operation") -> Story:
    """Gather an operation's evidence."""
    from worker.ledger import attempts, decisions

    return Story(operation, attempts(ledger, operation.id), decisions(ledger, operation.id))


def standing(operation: "Operation") -> str:
    """Tell in a sentence how an operation stands, and why."""
    if operation.why:
        why = _WAITS[operation.why].format(entity=operation.entity, parent=operation.parent)
        due = (operation.due_at or 0) / 1000 - time.time()
        return f"waiting: {why}" + (f"; looked at again in {due:.0f} s" if due >= 1 else "; due now")
    if operation.reason:
        return f"failed ({operation.reason}): {_FAILED[operation.reason]}"
    if operation.state == "queued":
        return "queued: no worker has taken it yet"
    return str(operation.state)


def remedy(operation: "Operation") -> str:
    """Tell what a person can do about a failed operation; empty if there is nothing to do."""
    if not operation.reason:
        return ""
    if operation.kind == "message":
        return _REMEDIES["bad_payload"]
    if operation.reason == "unresolved" and not operation.repeatable:
        return _FIND_OUT
    return _REMEDIES[operation.reason].format(key=operation.key)


def tell(story: Story) -> None:
    """Print the story for people."""
    operation = story.operation
    say.line(operation.key, style="bold")
    facts: list[tuple[str, str | Text | None]] = [
        ("state", Text(say.printable(standing(operation)), STYLES.get(operation.state, ""))),
        *((name, _short(value)) for name, value in operation.payload.items() if value is not None),
        ("lane", operation.lane),
        ("entity", operation.entity),
        ("parent", operation.parent),
        ("deadline", f"{say.clock(operation.deadline_at)} UTC" if operation.deadline_at else None),
        ("took", say.span((operation.ended_at - operation.enqueued_at) / 1000) if operation.ended_at else None),
        ("result", _short(operation.result) if operation.result else None),
    ]
    say.facts(facts)
    say.line("")
    say.table(("When (UTC)", "What", "HTTP", "Took", "By", "Words"), _timeline(story))
    if advice := remedy(operation):
        say.line(f"\n{advice}")


def document(story: Story) -> dict[str, Any]:
    """Return the story for programs: the export for a regulator or a dispute. Times are ISO 8601, UTC."""
    operation = story.operation
    from worker.ledger.operation import VERSION

    return {
        **summary(operation),
        "payload": operation.payload,
        "result": operation.result,
        "deadline_at": say.iso(operation.deadline_at),
        "repeatable": operation.repeatable,
        "sent": operation.sent,
        "outcome_unknown": operation.unknown,
        "counted_attempts": operation.attempts,
        "polls": operation.asks,
        "replays": operation.replays,
        "not_our_turn_ms": operation.away_ms,
        "attempts": [
            {
                "started_at": say.iso(attempt.started_at),
                "duration_ms": attempt.duration,
                "http_status": attempt.http_status,
                "outcome": attempt.outcome,
                "words": attempt.words,
                "request_id": attempt.request_id,
                "counted": attempt.counted,
                "times": attempt.times,
                "last_at": say.iso(attempt.last_at),
                "late": attempt.late,
                "worker": attempt.worker,
                "version": attempt.version,
            }
            for attempt in story.attempts
        ],
        "decisions": [
            {"at": say.iso(decision.at), "what": decision.what, "who": decision.who, "why": decision.why}
            for decision in story.decisions
        ],
        "exported_at": say.iso(int(time.time() * 1000)),
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
        "why": operation.why,
        "reason": operation.reason,
        "enqueued_at": say.iso(operation.enqueued_at),
        "enqueued_by": operation.enqueued_by,
        "since": say.iso(operation.since),
        "due_at": say.iso(operation.due_at),
        "ended_at": say.iso(operation.ended_at),
    }


def _timeline(story: Story) -> list[tuple[str | Text, ...]]:
    """Everything that happened, in its order."""
    operation = story.operation
    told: list[tuple[int, tuple[str | Text, ...]]] = [
        (operation.enqueued_at, ("enqueued", "", "", operation.enqueued_by, ""))
    ]
    told += [(attempt.started_at, _tried(attempt)) for attempt in story.attempts]
    told += [
        (decision.at, (_DECIDED.get(decision.what, decision.what), "", "", decision.who, decision.why))
        for decision in story.decisions
    ]
    told.sort(key=lambda event: event[0])
    if operation.ended_at:
        ended = Text(str(operation.state), STYLES[operation.state])
        told.append((operation.ended_at, (ended, "", "", "", str(operation.reason or ""))))
    return [(say.clock(at), *cells) for at, cells in told]


def _tried(attempt: "Attempt") -> tuple[str | Text, ...]:
    what = attempt.outcome
    if attempt.times > 1:
        what += f" x{attempt.times}" + (f" until {say.clock(attempt.last_at)[11:]}" if attempt.last_at else "")
    if attempt.late:
        what += " (too late, decided nothing)"
    by = f"{attempt.worker} {attempt.version}".strip()
    status = str(attempt.http_status or "")
    return what, status, say.span(attempt.duration / 1000), by, attempt.words or ""


def _short(value: Any) -> str:
    import json

    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 500 else text[:500] + " ... (all of it: --json)"
