"""Settle: write state, evidence and everything that follows from them, in one transaction.

Equal answers in a row ("pending" for three days, "unavailable" during an outage) extend one row of evidence, which
counts them and knows the first and the last. A transition whose lease was lost changes no state, but its evidence is
stored, marked `late`.
"""

import hashlib
import json
from collections.abc import Sequence
from time import monotonic, time
from typing import Any

from sqlalchemy import Connection, bindparam, case, null, select, update
from sqlalchemy.dialects import postgresql, sqlite

from worker.ledger.claims import LEASE_LAPSED, claim_within
from worker.ledger.database import Ledger
from worker.ledger.ended import Ended, ended
from worker.ledger.schema import allowed_from, attempts, c, in_list, now_ms, operations, sql_literal
from worker.operation import (
    FINAL,
    MESSAGE_LIMIT,
    MOVES,
    AttemptRecord,
    Claim,
    Phase,
    State,
    Transition,
    WaitReason,
)

_NOW = select(now_ms())
_HELD = (
    select(c.id, c.lease_owner, c.fence, c.counted_attempts, c.polls)
    .where(in_list(c.id, "ids"), allowed_from("settle"))
    .order_by(c.id)  # so that two transactions lock in the same order
    .with_for_update()
)

_EXISTING = select(c.id).where(in_list(c.id, "ids"))

_SETTLE = (
    update(operations)
    .where(c.id == bindparam("row"))
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                "state", "wait_reason", "failure_reason", "due_at", "counted_attempts", "polls", "sent",
                "outcome_unknown", "unknown_step", "progress", "state_since", "last_wait_ms", "ended_at", "result",
                "last_answer", "last_answer_fence",
            )
        }
    )
    .values(lease_owner=null(), phase=case((bindparam("polling"), sql_literal(Phase.POLL)), else_=c.phase))
)  # fmt: skip


def _upsert(dialect: Any) -> Any:
    insert = dialect.insert(attempts)
    new = insert.excluded
    # The row exists if this answer equals the last one, or if the lease lapsed and another process took over.
    return insert.on_conflict_do_update(
        index_elements=["operation_id", "fence"],
        set_={
            "times": case((new.late, new.times), else_=attempts.c.times + new.times),
            **{
                name: new[name]
                for name in (
                    "last_at", "duration_ms", "outcome", "http_status", "message", "steps", "request_id", "worker",
                    "version", "late",
                )
            },
        },
        # Late evidence never replaces what the holder wrote itself, for instance when the answer to its COMMIT is lost.
        where=~new.late | (attempts.c.outcome == LEASE_LAPSED),
    )  # fmt: skip


_STORE_ATTEMPT = {"sqlite": _upsert(sqlite), "postgresql": _upsert(postgresql)}


def settle(ledger: Ledger, transitions: Sequence[Transition]) -> list[Claim]:
    """Write these transitions in one transaction. Returns the claims whose lease was lost."""
    return ledger.write(lambda connection: _settle(connection, transitions))


def settle_and_claim(
    ledger: Ledger, transitions: Sequence[Transition], lane: str, owner: str, limit: int
) -> tuple[list[Claim], list[Claim]]:
    """Settle and claim in one transaction, which costs one commit instead of two. Returns (lost, claimed)."""
    asked_at = monotonic()

    def work(connection: Connection) -> tuple[list[Claim], list[Claim]]:
        return _settle(connection, transitions), claim_within(connection, lane, owner, limit, asked_at)

    return ledger.write(work)


def _settle(connection: Connection, transitions: Sequence[Transition]) -> list[Claim]:
    if not transitions:
        return []
    for transition in transitions:
        _check(transition)
    now = connection.execute(_NOW).scalar_one()
    clock_offset_ms = now - round(time() * 1000)  # database time minus local time; attempts are stored in database time
    held = {row.id: row for row in connection.execute(_HELD, {"ids": [each.claim.id for each in transitions]})}
    ours: list[Transition] = []
    lost: list[Transition] = []
    for transition in transitions:
        row = held.get(transition.claim.id)
        claim = transition.claim
        is_held = row is not None and row.lease_owner == claim.lease_owner and row.fence == claim.fence
        (ours if is_held else lost).append(transition)
    if ours:
        connection.execute(_SETTLE, [_columns(each, held[each.claim.id], now) for each in ours])
        final = [each for each in ours if each.state in FINAL]
        ended(connection, [Ended(each.claim.id, each.claim.key, each.claim.entity, each.state) for each in final], now)
    evidence = [_attempt_columns(each, each.attempt, clock_offset_ms, late=False) for each in ours if each.attempt]
    if lost:
        existing = set(connection.execute(_EXISTING, {"ids": [each.claim.id for each in lost]}).scalars())
        evidence += [
            _attempt_columns(each, each.attempt, clock_offset_ms, late=True)
            for each in lost
            if each.attempt and each.claim.id in existing
        ]
    if evidence:
        connection.execute(_STORE_ATTEMPT[connection.dialect.name], evidence)
    return [transition.claim for transition in lost]


def _check(transition: Transition) -> None:
    waiting, failed = transition.state == State.WAITING, transition.state == State.FAILED
    complete = (
        transition.state in MOVES["settle"].after
        and waiting == (transition.wait_reason is not None) == (transition.due_in_s is not None)
        and failed == (transition.failure_reason is not None)
    )
    if not complete:
        raise ValueError(
            f"{transition.claim.key}: a transition is waiting (wait_reason, due_in_s), succeeded, or failed"
            " (failure_reason)"
        )


def _columns(transition: Transition, row: Any, now: int) -> dict[str, Any]:
    claim, attempt = transition.claim, transition.attempt
    waiting = transition.state == State.WAITING
    pending = transition.wait_reason == WaitReason.PENDING_AT_B2COPY
    wait_ms = round((transition.due_in_s or 0.0) * 1000)
    answer = _digest(attempt) if attempt and waiting else None
    unknown = transition.outcome_unknown or (claim.outcome_unknown and not transition.outcome_known)
    return {
        "row": claim.id,
        "new_state": transition.state,
        "new_wait_reason": transition.wait_reason,
        "new_failure_reason": transition.failure_reason,
        "new_due_at": now + wait_ms if waiting else None,
        "new_counted_attempts": row.counted_attempts + (attempt is not None and attempt.counted),
        "new_polls": row.polls + pending,
        "new_sent": claim.sent or transition.sent,
        "new_outcome_unknown": unknown,
        "new_unknown_step": (transition.unknown_step or claim.unknown_step) if unknown else None,
        "new_progress": None if transition.progress is None else json.dumps(transition.progress),
        "new_state_since": now,
        "new_last_wait_ms": wait_ms,
        "new_ended_at": None if waiting else now,
        "new_result": None if transition.result is None else json.dumps(transition.result),
        "new_last_answer": answer,
        "new_last_answer_fence": None if answer is None else _evidence_fence(claim, answer),
        "polling": pending,
    }


def _attempt_columns(
    transition: Transition, attempt: AttemptRecord, clock_offset_ms: int, *, late: bool
) -> dict[str, Any]:
    merged = transition.state == State.WAITING and not late
    started_at = attempt.started_at + clock_offset_ms
    return {
        "operation_id": transition.claim.id,
        "fence": _evidence_fence(transition.claim, _digest(attempt)) if merged else transition.claim.fence,
        "started_at": started_at,
        "last_at": started_at + attempt.duration_ms,
        "times": 1,
        "duration_ms": attempt.duration_ms,
        "http_status": attempt.http_status,
        "outcome": attempt.outcome,
        "message": _message(attempt),
        "steps": json.dumps([list(step) for step in attempt.steps]) if attempt.steps else None,
        "counted": attempt.counted,
        "request_id": attempt.request_id,
        "worker": attempt.worker,
        "version": attempt.version,
        "late": late,
    }


def _evidence_fence(claim: Claim, answer: str) -> int:
    """Return the fence of the row that stores an answer: the last answer's row if the two are equal."""
    is_equal = claim.last_answer_fence is not None and claim.last_answer == answer
    return claim.last_answer_fence if is_equal and claim.last_answer_fence is not None else claim.fence


def _digest(attempt: AttemptRecord) -> str:
    steps = tuple((step.name, step.http_status, step.outcome) for step in attempt.steps)
    answer = (
        attempt.http_status, attempt.outcome, _message(attempt), attempt.counted, attempt.request_id, attempt.version,
        steps,
    )  # fmt: skip
    return hashlib.blake2b(repr(answer).encode(), digest_size=8).hexdigest()


def _message(attempt: AttemptRecord) -> str | None:
    # PostgreSQL's text cannot hold NUL, and the server's text is not ours to trust.
    return attempt.message and attempt.message[:MESSAGE_LIMIT].replace("\0", "\ufffd")
