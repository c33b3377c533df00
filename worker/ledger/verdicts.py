"""What a holder decided becomes what the ledger says: state, evidence and release of those behind, in one transaction.

Equal answers in a row ("pending" for three days, "unavailable" through an outage) extend one row of evidence, which
counts them and knows the first and the last. A verdict whose lease was lost changes nothing, but what B2COPY said is
kept, marked late.
"""

import hashlib
import json
from collections.abc import Sequence
from time import monotonic, time
from typing import Any

from sqlalchemy import Connection, bindparam, case, null, select, update
from sqlalchemy.dialects import postgresql, sqlite

from worker.ledger.lease import take
from worker.ledger.line import release_children, release_line
from worker.ledger.operation import FINAL, MOVES, Attempt, Claim, Reason, State, Verdict, Why
from worker.ledger.schema import among, attempts, may, now_ms, operations
from worker.ledger.store import Ledger

WORDS_LIMIT = 2000
"""Characters kept of B2COPY's own words."""

_row = operations.c

_NOW = select(now_ms())
_HELD = (
    select(_row.id, _row.owner, _row.fence, _row.attempts, _row.asks)
    .where(among(_row.id, "ids"), may("settle"))
    .order_by(_row.id)  # so that two transactions lock in one order
    .with_for_update()
)

_KNOWN = select(_row.id).where(among(_row.id, "ids"))

_SETTLE = (
    update(operations)
    .where(_row.id == bindparam("row"))
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                "state", "why", "reason", "due_at", "attempts", "asks", "sent", "unknown",
                "since", "waited_ms", "ended_at", "result", "last", "last_fence",
            )
        }
    )
    .values(owner=null(), turn=case((bindparam("polling"), 1), else_=_row.turn))
)  # fmt: skip


def _keep(dialect: Any) -> Any:
    insert = dialect.insert(attempts)
    said = insert.excluded
    # The row is there already if this answer equals the last one, or if the lease had lapsed and been taken over.
    return insert.on_conflict_do_update(
        index_elements=["operation", "fence"],
        set_={
            "times": case((said.late, said.times), else_=attempts.c.times + said.times),
            "last_at": said.last_at,
            "duration": said.duration,
            "outcome": said.outcome,
            "http_status": said.http_status,
            "words": said.words,
            "request_id": said.request_id,
            "worker": said.worker,
            "version": said.version,
            "late": said.late,
        },
        # Late evidence never takes the place of what its own holder wrote, as when a commit's answer was lost.
        where=~said.late | (attempts.c.outcome == "lease lapsed"),
    )


_KEEP = {"sqlite": _keep(sqlite), "postgresql": _keep(postgresql)}


def settle(ledger: Ledger, verdicts: Sequence[Verdict]) -> list[Claim]:
    """Write what was decided, all in one transaction. Returns the claims whose lease was lost."""
    return ledger.write(lambda connection: _settle(connection, verdicts))


def turn(
    ledger: Ledger, verdicts: Sequence[Verdict], lane: str, owner: str, limit: int
) -> tuple[list[Claim], list[Claim]]:
    """Settle and claim in one transaction, which costs one commit instead of two. Returns (lost, claimed)."""
    asked_at = monotonic()

    def work(connection: Connection) -> tuple[list[Claim], list[Claim]]:
        return _settle(connection, verdicts), take(connection, lane, owner, limit, asked_at)

    return ledger.write(work)


def _settle(connection: Connection, verdicts: Sequence[Verdict]) -> list[Claim]:
    if not verdicts:
        return []
    for verdict in verdicts:
        _check(verdict)
    now = connection.execute(_NOW).scalar_one()
    ahead = now - round(time() * 1000)  # the database's clock of ours: evidence is kept by the former
    held = {row.id: row for row in connection.execute(_HELD, {"ids": [verdict.claim.id for verdict in verdicts]})}
    kept: list[Verdict] = []
    lost: list[Verdict] = []
    for verdict in verdicts:
        row = held.get(verdict.claim.id)
        ours = row is not None and row.owner == verdict.claim.owner and row.fence == verdict.claim.fence
        (kept if ours else lost).append(verdict)
    if kept:
        connection.execute(_SETTLE, [_written(verdict, held[verdict.claim.id], now) for verdict in kept])
        ended = [verdict for verdict in kept if verdict.state in FINAL]
        release_line(connection, [verdict.claim.entity for verdict in ended if verdict.claim.entity], now)
        release_children(connection, [v.claim.key for v in ended if v.state == State.SUCCEEDED], now)
    evidence = [_evidence(v, v.attempt, ahead, late=False) for v in kept if v.attempt]
    if lost:
        known = set(connection.execute(_KNOWN, {"ids": [verdict.claim.id for verdict in lost]}).scalars())
        evidence += [_evidence(v, v.attempt, ahead, late=True) for v in lost if v.attempt and v.claim.id in known]
    if evidence:
        connection.execute(_KEEP[connection.dialect.name], evidence)
    return [verdict.claim for verdict in lost]


def _check(verdict: Verdict) -> None:
    whole = (
        verdict.state in MOVES["settle"].after
        and (verdict.state == State.WAITING) == (verdict.why is not None) == (verdict.due_in is not None)
        and (verdict.state == State.FAILED) == (verdict.reason is not None)
    )
    if not whole:
        raise ValueError(f"{verdict.claim.key}: a verdict is waiting (why, due_in), succeeded, or failed (reason)")


def _written(verdict: Verdict, row: Any, now: int) -> dict[str, Any]:
    claim, attempt = verdict.claim, verdict.attempt
    waiting = verdict.state == State.WAITING
    pending = verdict.why == Why.PENDING_AT_B2COPY
    wait = round((verdict.due_in or 0.0) * 1000)
    last = _digest(attempt) if attempt and waiting else None
    return {
        "row": claim.id,
        "new_state": verdict.state,
        "new_why": verdict.why,
        "new_reason": verdict.reason,
        "new_due_at": now + wait if waiting else None,
        "new_attempts": row.attempts + (attempt is not None and attempt.counted),
        "new_asks": row.asks + pending,
        "new_sent": claim.sent or verdict.sent,
        "new_unknown": verdict.unknown or (claim.unknown and not _is_known(verdict)),
        "new_since": now,
        "new_waited_ms": wait,
        "new_ended_at": None if waiting else now,
        "new_result": None if verdict.result is None else json.dumps(verdict.result),
        "new_last": last,
        "new_last_fence": None if last is None else _fence(verdict, last),
        "polling": pending,
    }


def _is_known(verdict: Verdict) -> bool:
    """Whether B2COPY has said how the operation stands: a 503 does not tell what an earlier lost call did."""
    return (
        verdict.state == State.SUCCEEDED
        or verdict.why == Why.PENDING_AT_B2COPY
        or verdict.reason in {Reason.REJECTED, Reason.FEE_ERROR}
    )


def _evidence(verdict: Verdict, attempt: Attempt, ahead: int, *, late: bool) -> dict[str, Any]:
    repeated = verdict.state == State.WAITING and not late
    return {
        "operation": verdict.claim.id,
        "fence": _fence(verdict, _digest(attempt)) if repeated else verdict.claim.fence,
        "started_at": attempt.started_at + ahead,
        "last_at": attempt.started_at + ahead + attempt.duration,
        "times": 1,
        "duration": attempt.duration,
        "http_status": attempt.http_status,
        "outcome": attempt.outcome,
        "words": _words(attempt),
        "counted": attempt.counted,
        "request_id": attempt.request_id,
        "worker": attempt.worker,
        "version": attempt.version,
        "late": late,
    }


def _fence(verdict: Verdict, digest: str) -> int:
    """The row of evidence an answer belongs to: the last one's, if they are equal."""
    claim = verdict.claim
    return claim.last_fence if claim.last_fence is not None and claim.last == digest else claim.fence


def _digest(attempt: Attempt) -> str:
    said = (attempt.http_status, attempt.outcome, _words(attempt), attempt.counted, attempt.request_id, attempt.version)
    return hashlib.blake2b(repr(said).encode(), digest_size=8).hexdigest()


def _words(attempt: Attempt) -> str | None:
    # PostgreSQL's text cannot hold NUL, and B2COPY's words are not ours to trust.
    return attempt.words and attempt.words[:WORDS_LIMIT].replace("\0", "\ufffd")
