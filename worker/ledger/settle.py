"""Settle: write state, evidence and everything that follows from them, in one transaction.

Only the holder of a claim changes the state. A transition whose lease was lost is stored as evidence, marked `late`;
`late_answers` says when it may still decide.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, Row, Text, case, func, null, select, update

from worker.ledger.attempt_evidence import Evidence, digest, fence_of_answer
from worker.ledger.claims import claim_within
from worker.ledger.database import Ledger
from worker.ledger.insert_operations import encode_result
from worker.ledger.late_answers import decide_by_late_answers
from worker.ledger.on_operation_end import Ended, finish_ended
from worker.ledger.prepared_statements import Given, Prepared, PreparedForRows
from worker.ledger.schema import allowed_from, c, in_list, now_ms, operations, sql_literal
from worker.operation import MOVES, PROGRESS_LIMIT, Claim, Phase, State, Transition, WaitReason, claim_clock

_LOCK = Prepared(
    select(c.id, c.state, c.lease_owner, c.fence, c.last_answer, c.last_answer_fence, now_ms().label("now"))
    .where(in_list(c.id, "ids"))
    .order_by(c.id)  # so that two transactions lock in the same order
    .with_for_update()
)


class _Settled(NamedTuple):
    """The values that a transition writes, if `owner` and `claim_fence` are still those of the operation's claim."""

    id: int
    owner: str
    claim_fence: int
    state: str
    wait_reason: str | None
    failure_reason: str | None
    due_at: int | None
    counted: int
    polled: int
    sent: bool
    outcome_unknown: bool
    unknown_step: str | None
    progress: str | None
    state_since: int
    last_wait_ms: int
    ended_at: int | None
    result: str | None
    last_answer: str | None
    last_answer_fence: int | None


_TYPES: dict[str, Any] = {name: c[name].type if name in c else Integer() for name in _Settled._fields}
_TYPES |= {"owner": Text()}
_WRITTEN = (
    "state", "wait_reason", "failure_reason", "due_at", "sent", "outcome_unknown", "unknown_step", "progress",
    "state_since", "last_wait_ms", "ended_at", "result", "last_answer", "last_answer_fence",
)  # fmt: skip


def _update(given: Given, _dialect: str) -> Any:
    return (
        update(operations)
        .where(
            c.id == given["id"],
            allowed_from("settle"),
            c.lease_owner == given["owner"],
            c.fence == given["claim_fence"],
        )
        .values(
            {name: given[name] for name in _WRITTEN}
            | {
                "lease_owner": null(),
                # A step that this claim has begun is stored in the row, and nobody else may know of it.
                "unknown_step": case(
                    (given["outcome_unknown"], func.coalesce(given["unknown_step"], c.unknown_step)), else_=null()
                ),
                # `pending` starts the count again, because B2COPY is at work: `max_attempts` is about answers in a row.
                "counted_attempts": case(
                    (given["polled"] == 1, given["counted"]), else_=c.counted_attempts + given["counted"]
                ),
                "polls": c.polls + given["polled"],
                "phase": case((given["polled"] == 1, sql_literal(Phase.POLL)), else_=c.phase),
            }
        )
    )


_SETTLE = PreparedForRows(_TYPES, _update)


def settle(ledger: Ledger, transitions: Sequence[Transition]) -> list[Claim]:
    """Write these transitions in one transaction. Returns the claims whose lease was lost."""
    return ledger.write(lambda connection: _settle(connection, transitions))


def settle_and_claim(
    ledger: Ledger,
    transitions: Sequence[Transition],
    lane: str,
    owner: str,
    limit: int,
    uncertain: list[Claim] | None = None,
    first: Phase = Phase.SUBMIT,
) -> tuple[list[Claim], list[Claim]]:
    """Settle and claim in one transaction, which costs one commit instead of two. Returns (lost, claimed).

    `first`: the phase whose operations are claimed first, see `claim_within`.

    If the commit raises, it may have been carried out, because the error may be that its answer was lost. Then
    `uncertain` holds what was claimed, and the caller must call `return_unsent` for it: that changes nothing if the
    commit was not carried out.
    """
    asked_at = claim_clock()
    uncertain = [] if uncertain is None else uncertain

    def work(connection: Connection) -> tuple[list[Claim], list[Claim]]:
        uncertain.clear()
        lost = _settle(connection, transitions)
        claimed = claim_within(connection, lane, owner, limit, asked_at, first)
        uncertain.extend(claimed)
        return lost, claimed

    lost_and_claimed = ledger.write(work)
    uncertain.clear()
    return lost_and_claimed


def _settle(connection: Connection, transitions: Sequence[Transition]) -> list[Claim]:
    if not transitions:
        return []
    for transition in transitions:
        _check(transition)
    rows: dict[int, Row[Any]] = {
        row[0]: row for row in _LOCK.run(connection, ids=[transition.claim.id for transition in transitions])
    }
    if not rows:  # all of them have been purged
        return [transition.claim for transition in transitions]
    now: int = next(iter(rows.values())).now
    evidence = Evidence(now)
    settled: list[_Settled] = []
    final: list[Ended] = []
    lost: list[Transition] = []
    for transition in transitions:
        claim, attempt = transition.claim, transition.attempt
        row = rows.get(claim.id)
        waits = transition.state == State.WAITING
        answer = digest(attempt) if attempt is not None and waits else None
        fence = claim.fence if answer is None else fence_of_answer(claim, answer)
        if row is not None and answer is not None and _is_written(row, claim, answer, fence):
            continue
        if row is None or not _is_held(row, claim):
            lost.append(transition)
            if row is not None and attempt is not None:
                evidence.add(claim, attempt, claim.fence, late=True)
            continue
        settled.append(_settled(transition, answer, fence, now))
        if not waits:
            final.append(Ended(claim.id, claim.key, claim.entity, transition.state))
        if attempt is not None:
            evidence.add(claim, attempt, fence)
    _SETTLE.run(connection, settled)
    evidence.store(connection)
    finish_ended(connection, final, now)
    if lost:
        decide_by_late_answers(connection, [each for each in lost if each.claim.id in rows], now)
    return [transition.claim for transition in lost]


def _is_held(row: Row[Any], claim: Claim) -> bool:
    return bool(row.state == State.RUNNING and row.lease_owner == claim.lease_owner and row.fence == claim.fence)


def _is_written(row: Row[Any], claim: Claim, answer: str, fence: int) -> bool:
    """Return whether the ledger holds this answer already: it was committed, and the answer to the COMMIT was lost.

    Nobody has claimed the operation since, and only the holder lets a claimed operation wait.
    """
    is_waiting = bool(row.state == State.WAITING and row.fence == claim.fence)
    return is_waiting and (row.last_answer, row.last_answer_fence) == (answer, fence)


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


def _settled(transition: Transition, answer: str | None, fence: int, now: int) -> _Settled:
    claim, attempt = transition.claim, transition.attempt
    waits = transition.state == State.WAITING
    wait_ms = round((transition.due_in_s or 0.0) * 1000)
    unknown = transition.outcome_unknown or (claim.outcome_unknown and not transition.outcome_known)
    return _Settled(
        id=claim.id,
        owner=claim.lease_owner,
        claim_fence=claim.fence,
        state=str(transition.state),
        wait_reason=None if transition.wait_reason is None else str(transition.wait_reason),
        failure_reason=None if transition.failure_reason is None else str(transition.failure_reason),
        due_at=now + wait_ms if waits else None,
        counted=int(attempt is not None and attempt.counted),
        polled=int(transition.wait_reason == WaitReason.PENDING_AT_B2COPY),
        sent=claim.sent or transition.sent,
        outcome_unknown=unknown,
        unknown_step=(transition.unknown_step or claim.unknown_step) if unknown else None,
        progress=_progress(transition),
        state_since=now,
        last_wait_ms=wait_ms,
        ended_at=None if waits else now,
        result=encode_result(transition.result),
        last_answer=answer,
        last_answer_fence=None if answer is None else fence,
    )


def _progress(transition: Transition) -> str | None:
    """Return the progress to store: the transition's, or if it has none, what an earlier attempt stored."""
    progress = transition.claim.progress if transition.progress is None else transition.progress
    if not progress or transition.state == State.SUCCEEDED:
        return None
    text = json.dumps(progress)
    if len(text) > PROGRESS_LIMIT:
        raise ValueError(
            f"{transition.claim.key}: the progress has {len(text)} characters of JSON, {PROGRESS_LIMIT} are allowed"
        )
    return text
