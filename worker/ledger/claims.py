"""Claims: one process holds an operation for `LEASE_S` seconds, renewed while it works, free again if the process dies.

    claim ---- renew ---- renew ---- settle
      |<-------- 10 s -------->|        if the process is killed here, others wait for the rest of the lease

Each claim adds one to the row's `fence`. Every write of the holder is guarded by state, lease owner and fence.

`sent` is set when the operation is claimed, before the HTTP call, for two reasons. If the worker dies, we must assume
that the call was made. And a person must not cancel an operation while its call is in flight. A holder that sends
nothing clears `sent` with `return_unsent` or in the transition.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import (
    BindParameter,
    Boolean,
    ColumnElement,
    Connection,
    Engine,
    Row,
    Text,
    bindparam,
    case,
    exists,
    insert,
    null,
    select,
    update,
)

from worker.ledger.attempt_evidence import LEASE_LAPSED
from worker.ledger.batches import put_aside
from worker.ledger.database import Ledger
from worker.ledger.engine import note_outage, noting_refusals, seconds_since_outage
from worker.ledger.on_operation_end import Ended, finish_ended
from worker.ledger.ordering import Blocked, find_blocked, recheck_ms, release_parents
from worker.ledger.prepared_statements import Prepared
from worker.ledger.schema import (
    allowed_from,
    attempts,
    c,
    due_now,
    flags,
    in_list,
    is_held,
    now_ms,
    operations,
    sql_literal,
)
from worker.operation import (
    ENDED_INFO,
    Claim,
    FailureReason,
    OnUnknown,
    Phase,
    State,
    WaitReason,
    claim_clock,
    wait_reason_of,
)

log = logging.getLogger(__name__)

LEASE_S = 10.0  # seconds; renewed every three

HOLDERS_FIRST_S = 5.0  # seconds after an outage of the ledger in which a process takes over no lapsed lease
"""In an outage leases lapse although their holders live and know an answer. A holder renews them every three seconds,
so after this time it has done so. A claim that the database has delayed for as long as this counts as an outage too,
and so does the start of a worker, because the worker cannot know of an outage before it."""

PUT_ASIDE = 4_000
"""About how many held operations one call puts aside, so that no transaction is long; see `batches`."""

_suspended_s: WeakKeyDictionary[Engine, float] = WeakKeyDictionary()  # for how long this host was suspended so far

_PHASES = {phase.value: phase for phase in Phase}
_STATES = {state.value: state for state in State}
_ON_UNKNOWN = {one.value: one for one in OnUnknown}


def is_paused(lane: str | BindParameter[str]) -> ColumnElement[bool]:
    """Return the SQL condition that a lane, or all lanes, are paused."""
    return exists().where(flags.c.name.in_(["pause:all", "pause:" + lane]))


_COLUMNS = (
    c.id, c.key, c.kind, c.payload, c.destination, c.entity, c.parent, c.state, c.wait_reason, c.phase,
    c.lease_owner, c.fence, c.counted_attempts, c.replays, c.sent, c.outcome_unknown, c.unknown_step, c.on_unknown,
    c.progress, c.trace_id, c.deadline_at, c.state_since, c.last_wait_ms, c.last_answer, c.last_answer_fence,
)  # fmt: skip
_CANDIDATES = Prepared(
    select(*_COLUMNS, now_ms().label("now"), c.batch, is_held().label("held"))
    .where(
        c.lane == bindparam("lane"),
        c.phase == bindparam("phase"),
        c.due_at <= now_ms(),
        ~is_paused(bindparam("lane", type_=Text)),
        bindparam("takes_over", type_=Boolean) | (c.state != sql_literal(State.RUNNING)),
    )
    .order_by(c.due_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)

# `external_wait_ms` counts the time for which an operation was pending at the destination.
_external_wait = case(
    (c.wait_reason == sql_literal(WaitReason.PENDING_AT_B2COPY), bindparam("now") - c.state_since), else_=0
)

_CLAIM = Prepared(
    update(operations)
    .where(in_list(c.id, "ids"), allowed_from("claim"))
    .values(
        state=sql_literal(State.RUNNING),
        wait_reason=null(),
        lease_owner=bindparam("holder"),
        fence=c.fence + 1,
        due_at=bindparam("until"),
        state_since=bindparam("now"),
        external_wait_ms=c.external_wait_ms + _external_wait,
        outcome_unknown=c.outcome_unknown | (c.state == sql_literal(State.RUNNING)),
        sent=True,
    )
)
_PARK = (
    update(operations)
    .where(c.id == bindparam("row"), allowed_from("park"))
    .values(
        state=sql_literal(State.WAITING),
        wait_reason=bindparam("behind"),
        due_at=bindparam("until"),
        last_wait_ms=bindparam("wait_ms"),
        state_since=bindparam("at"),
        deadline_at=c.deadline_at + bindparam("paused_ms"),
        time_allowed_ms=c.time_allowed_ms + bindparam("paused_ms"),
        external_wait_ms=c.external_wait_ms + bindparam("paused_ms"),
    )
)
# The destination may have begun the operation, or done a part of it: `may_have_begun` of flow/retry_policy.py in SQL.
_may_have_begun = c.outcome_unknown | (c.phase == sql_literal(Phase.POLL)) | c.progress.is_not(None)
_ENDED = (c.kind, c.lane, c.state, c.failure_reason)
_EXPIRE = (
    update(operations)
    .where(in_list(c.id, "ids"), allowed_from("expire"))
    .values(
        state=sql_literal(State.FAILED),
        wait_reason=null(),
        failure_reason=case(
            (_may_have_begun, sql_literal(FailureReason.UNRESOLVED)), else_=sql_literal(FailureReason.EXPIRED)
        ),
        due_at=null(),
        state_since=bindparam("now"),
        ended_at=bindparam("now"),
    )
    .returning(*_ENDED)
)
_REFUSE = (
    update(operations)
    .where(in_list(c.id, "ids"), allowed_from("refuse"))
    .values(
        state=sql_literal(State.FAILED),
        wait_reason=null(),
        failure_reason=sql_literal(FailureReason.BAD_PAYLOAD),
        lease_owner=null(),
        payload=bindparam("readable_payload"),
        progress=bindparam("readable_progress"),
        result=bindparam("problem"),
        outcome_unknown=c.outcome_unknown | (c.state == sql_literal(State.RUNNING)),
        due_at=null(),
        state_since=bindparam("now"),
        ended_at=bindparam("now"),
    )
    .returning(*_ENDED)
)
_STORE_LAPSED = insert(attempts)
_RENEW = (
    update(operations)
    .where(in_list(c.id, "ids"), c.state == sql_literal(State.RUNNING), c.lease_owner == bindparam("holder"))
    .values(due_at=now_ms() + round(LEASE_S * 1000))
    .returning(c.id, c.fence)
)
_RETURN_UNSENT = (
    update(operations)
    .where(
        c.id == bindparam("row"),
        allowed_from("return_unsent"),
        c.lease_owner == bindparam("holder"),
        c.fence == bindparam("claim_fence"),
    )
    .values(
        state=bindparam("back_to"),
        wait_reason=bindparam("because"),
        lease_owner=null(),
        due_at=due_now(),  # earlier if its lease has lapsed
        state_since=now_ms(),
        sent=bindparam("was_sent"),
        outcome_unknown=bindparam("was_unknown"),
        last_answer=bindparam("answer"),
        last_answer_fence=bindparam("answer_fence"),
    )
)


def renew_leases(ledger: Ledger, owner: str, claims: Iterable[Claim]) -> set[int]:
    """Extend the leases of all these claims in one UPDATE. Returns the ids that `owner` still holds by these claims.

    A lease that has lapsed but that nobody took over is valid again.
    """
    fences = {claim.id: claim.fence for claim in claims}
    asked = {"ids": list(fences), "holder": owner}
    with noting_refusals(ledger.engine):
        renewed = ledger.write(lambda connection: connection.execute(_RENEW, asked).all())  # again after a deadlock
    return {id_ for id_, fence in renewed if fences[id_] == fence}


def return_unsent(ledger: Ledger, claims: Iterable[Claim]) -> None:
    """Return claims for which nothing was sent. Each operation gets back its earlier state, and is due now.

    One that was taken over after its lease had lapsed waits for `backoff` instead, because nobody works on it.
    """
    rows = [
        {
            "row": claim.id,
            "holder": claim.lease_owner,
            "claim_fence": claim.fence,
            "back_to": claim.previous_state if claim.previous_state != State.RUNNING else State.WAITING,
            "because": claim.wait_reason if claim.previous_state != State.RUNNING else WaitReason.BACKOFF,
            "was_sent": claim.sent,
            "was_unknown": claim.outcome_unknown,
            # None after a lapsed claim: its own answer may come, and then no later answer belongs to an earlier row.
            "answer": claim.last_answer,
            "answer_fence": claim.last_answer_fence,
        }
        for claim in sorted(claims)
    ]
    if rows:
        with ledger.writing() as connection:
            connection.execute(_RETURN_UNSENT, rows)


def claim_within(
    connection: Connection, lane: str, owner: str, limit: int, asked_at: float, first: Phase = Phase.SUBMIT
) -> list[Claim]:
    """Claim within the caller's transaction. `asked_at` is the time of `claim_clock` at which the lease begins.

    Submits are claimed before polls. With `first=Phase.POLL`, polls get half of the claim before submits get the rest.
    """
    _note_suspension(connection.engine)
    taken: list[Claim] = []
    aside = 0
    shares = [(Phase.SUBMIT, limit), (Phase.POLL, limit)]  # up to how many claims there are after each phase
    if first == Phase.POLL:
        shares.insert(0, (Phase.POLL, (limit + 1) // 2))
    for phase, up_to in shares:
        page = up_to
        while up_to > len(taken):
            takes_over = seconds_since_outage(connection.engine) >= HOLDERS_FIRST_S
            with noting_refusals(connection.engine):
                candidates = _CANDIDATES.run(
                    connection, lane=lane, phase=str(phase), limit=page, takes_over=takes_over
                ).all()
            if not candidates:
                break
            if claim_clock() - asked_at >= HOLDERS_FIRST_S and any(row.state == State.RUNNING for row in candidates):
                # The database was suspended, and other processes could not renew their leases either.
                note_outage(connection.engine)
                continue
            found = len(candidates)
            if held := {row.id: row.batch for row in candidates if row[-1]}:
                put_aside(connection, held)
                candidates = [row for row in candidates if not row[-1]]
                aside += len(held)
            blocked = find_blocked(connection, candidates)
            if blocked:
                _park(connection, [row for row in candidates if row.id in blocked], blocked)
            free = [row for row in candidates if row.id not in blocked][: up_to - len(taken)]
            taken += _claim_rows(connection, free, owner, asked_at)
            if found < page or aside >= PUT_ASIDE:
                break
            # Operations of the page were blocked, for instance by one entity, or held. Read larger pages from here on.
            page = min(page * 4, 2000)
    return taken


def _note_suspension(engine: Engine) -> None:
    """Note an outage if this host was suspended since the last claim.

    Then its other processes could not renew their leases either. Only `claim_clock` continues during a suspension.
    """
    suspended_s = claim_clock() - monotonic()
    if suspended_s - _suspended_s.get(engine, suspended_s) > 1.0:
        note_outage(engine)
    _suspended_s[engine] = suspended_s


def _claim_rows(connection: Connection, rows: Sequence[Row[Any]], owner: str, asked_at: float) -> list[Claim]:
    if not rows:
        return []
    now = rows[0].now
    until = now + round(LEASE_S * 1000)
    claims = []
    for row in rows:
        try:
            claims.append(_claim_of(row, owner, asked_at))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            _refuse(connection, row, error)
    if claims:
        _CLAIM.run(connection, ids=[claim.id for claim in claims], holder=owner, until=until, now=now)
    if lapsed := [row for row in rows if row.state == State.RUNNING]:
        connection.execute(_STORE_LAPSED, [_lapsed_attempt(row) for row in lapsed])
    return claims


def _refuse(connection: Connection, row: Row[Any], error: Exception) -> None:
    """Fail an operation whose row cannot be read: somebody else than this code has written it.

    What cannot be read is replaced, because everybody who looks at the operation must be able to read it. What can be
    read stays.
    """
    log.error("operation %s has failed, because its row cannot be read. Another program wrote it: %r", row.key, error)
    stored = {"payload": row.payload, "progress": row.progress}
    unreadable = {name: text for name, text in stored.items() if text is not None and not _is_json(text)}
    problem = {"error": f"the row cannot be read: {type(error).__name__}"}
    problem |= {name: text[:1000] for name, text in unreadable.items()}
    refused = {
        "ids": [row.id],
        "readable_payload": "{}" if "payload" in unreadable else row.payload,
        "readable_progress": None if "progress" in unreadable else row.progress,
        "problem": json.dumps(problem),
        "now": row.now,
    }
    _note_ended(connection, connection.execute(_REFUSE, refused).all())
    finish_ended(connection, [Ended(row.id, row.key, row.entity, State.FAILED)], row.now)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _note_ended(connection: Connection, rows: Sequence[Row[Any]]) -> None:
    """Leave with the connection what ended without an attempt. `observe_transactions` counts that at the commit."""
    connection.info.setdefault(ENDED_INFO, []).extend(tuple(row) for row in rows)


def _claim_of(row: Row[Any], owner: str, asked_at: float) -> Claim:
    # Unpacked in one step, because reading 25 attributes of a row by name takes longer than all else here.
    values: tuple[Any, ...] = tuple(row)
    (
        id_, key, kind, payload, destination, entity, _parent, state, wait_reason, phase,
        _lease_owner, fence, counted_attempts, replays, sent, outcome_unknown, unknown_step, on_unknown,
        progress, trace_id, deadline_at, _state_since, last_wait_ms, last_answer, last_answer_fence, now, _batch, _held,
    ) = values  # fmt: skip
    lapsed = state == State.RUNNING
    return Claim(
        id=id_,
        key=key,
        kind=kind,
        payload=json.loads(payload),
        destination=destination,
        entity=entity,
        lease_owner=owner,
        fence=fence + 1,
        counted_attempts=counted_attempts,
        phase=_PHASES[phase],
        replays=replays,
        sent=bool(sent),
        outcome_unknown=bool(outcome_unknown) or lapsed,
        unknown_step=unknown_step,
        on_unknown=_ON_UNKNOWN[on_unknown],
        progress=None if progress is None else json.loads(progress),
        trace_id=trace_id,
        deadline=None if deadline_at is None else asked_at + (deadline_at - now) / 1000,
        lease_until=asked_at + LEASE_S,
        previous_state=_STATES[state],
        wait_reason=wait_reason_of(wait_reason),
        last_wait_s=last_wait_ms / 1000,
        last_answer=None if lapsed else last_answer,
        last_answer_fence=None if lapsed else last_answer_fence,
    )


def _lapsed_attempt(row: Row[Any]) -> dict[str, Any]:
    """Return the evidence of a claim whose holder did not renew its lease."""
    return {
        "operation_id": row.id,
        "fence": row.fence,
        "started_at": row.state_since,
        "last_at": row.now,
        "times": 1,
        "duration_ms": row.now - row.state_since,
        "outcome": LEASE_LAPSED,
        "counted": False,
        "worker": row.lease_owner,
        "version": "",
        "late": False,
    }


def _park(connection: Connection, rows: Sequence[Row[Any]], blocked: dict[int, Blocked]) -> None:
    """Let blocked operations wait (`blocked`: by id). An operation whose deadline has passed fails.

    But it does not fail while a pause holds what it waits for. Then its last wait does not count.
    """
    now = rows[0].now
    expired = [
        row for row in rows if row.deadline_at is not None and row.deadline_at <= now and not blocked[row.id].by_pause
    ]
    parked = []
    for row in rows:
        if row in expired:
            continue
        reason, by_pause = blocked[row.id]
        last_ms = row.last_wait_ms if row.wait_reason == reason else 0
        wait_ms = recheck_ms(last_ms)
        deadline = None if by_pause else row.deadline_at
        parked.append(
            {
                "row": row.id,
                "behind": reason,
                "until": min(now + wait_ms, deadline or now + wait_ms),
                "wait_ms": wait_ms,
                "at": now if row.wait_reason is None else row.state_since,
                "paused_ms": last_ms if by_pause else 0,
            }
        )
    if parked:
        connection.execute(_PARK, parked)
    release_parents(connection, [row for row in rows if blocked[row.id].wait_reason == WaitReason.BEHIND_PARENT], now)
    # Expire after parking: `finish_ended` then finds the operations behind an expired one, and makes them due.
    if expired:
        _note_ended(connection, connection.execute(_EXPIRE, {"ids": [row.id for row in expired], "now": now}).all())
        finish_ended(connection, [Ended(row.id, row.key, row.entity, State.FAILED) for row in expired], now)
