"""Leases: an operation is held by one process for `LEASE` seconds, renewed while it works, and free again if it dies.

    claim ---- renew ---- renew ---- settle
      |<-------- 10 s -------->|        a process killed here costs others the rest of the lease, nothing more

Each claim gives the row a new fence; everything the holder writes is guarded by state, owner and fence. The claim marks
the operation `sent` before anything can leave the process, so that a lapsed lease is an unknown outcome and a cancel
cannot overtake a call. Who sends nothing after all says so with `hand_back`, or in the verdict.
"""

import json
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
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

from worker.ledger.line import RECHECK, blocked, release_line
from worker.ledger.operation import Claim, Reason, State, Why
from worker.ledger.schema import among, attempts, flags, may, now_ms, operations, word
from worker.ledger.store import Ledger

LEASE = 10.0
"""Seconds."""

_row = operations.c


def is_paused(lane: str | BindParameter[str]) -> ColumnElement[bool]:
    """The SQL condition that a lane, or everything, is paused."""
    return exists().where(flags.c.name.in_(["pause:all", "pause:" + lane]))


_CANDIDATES = (
    select(operations, now_ms().label("now"))
    .where(
        _row.lane == bindparam("lane"),
        _row.turn == bindparam("turn"),
        _row.due_at <= now_ms(),
        ~is_paused(bindparam("lane", type_=Text)),
    )
    .order_by(_row.due_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)

_away = case((_row.why.in_([word(Why.PENDING_AT_B2COPY), word(Why.PAUSED)]), bindparam("now") - _row.since), else_=0)

_TAKE = (
    update(operations)
    .where(among(_row.id, "ids"), may("claim"))
    .values(
        state=word(State.RUNNING),
        why=null(),
        owner=bindparam("holder"),
        fence=_row.fence + 1,
        due_at=bindparam("until"),
        since=bindparam("now"),
        away_ms=_row.away_ms + _away,
        unknown=_row.unknown | (_row.state == word(State.RUNNING)),
        sent=True,
    )
)
_PARK = (
    update(operations)
    .where(_row.id == bindparam("row"), may("park"))
    .values(state=word(State.WAITING), why=bindparam("behind"), due_at=bindparam("until"), since=bindparam("at"))
)
_EXPIRE = (
    update(operations)
    .where(among(_row.id, "ids"), may("expire"))
    .values(
        state=word(State.FAILED),
        why=null(),
        reason=word(Reason.UNRESOLVED),
        due_at=null(),
        since=bindparam("now"),
        ended_at=bindparam("now"),
    )
)
_LAPSED = insert(attempts)
_RENEW = (
    update(operations)
    .where(among(_row.id, "ids"), _row.state == word(State.RUNNING), _row.owner == bindparam("holder"))
    .values(due_at=now_ms() + round(LEASE * 1000))
    .returning(_row.id, _row.fence)
)
_HAND_BACK = (
    update(operations)
    .where(
        _row.id == bindparam("row"),
        may("hand_back"),
        _row.owner == bindparam("holder"),
        _row.fence == bindparam("held"),
    )
    .values(
        state=bindparam("back_to"),
        why=bindparam("because"),
        owner=null(),
        due_at=now_ms(),
        since=now_ms(),
        sent=bindparam("was_sent"),
        unknown=bindparam("was_unknown"),
    )
)


def claim(ledger: Ledger, lane: str, owner: str, limit: int) -> list[Claim]:
    """Take up to `limit` due operations of a lane, in one transaction: what is to be sent before what is to be asked.

    `owner` names this process's life: no other process, and not this one after a restart, may use it.
    A paused lane yields nothing.
    """
    asked_at = monotonic()
    return ledger.write(lambda connection: take(connection, lane, owner, limit, asked_at))


def renew(ledger: Ledger, owner: str, claims: Iterable[Claim]) -> set[int]:
    """Lengthen the leases of this owner's claims to `LEASE` from now, in one UPDATE. Returns the ids still held."""
    held = {claim.id: claim.fence for claim in claims}
    if not held:
        return set()
    with ledger.writing() as connection:
        renewed = connection.execute(_RENEW, {"ids": list(held), "holder": owner}).all()
    return {id_ for id_, fence in renewed if held[id_] == fence}


def hand_back(ledger: Ledger, claims: Iterable[Claim]) -> None:
    """Give up claims for which nothing was sent: each is again what it was, and due now."""
    rows = [
        {
            "row": claim.id,
            "holder": claim.owner,
            "held": claim.fence,
            "back_to": claim.was if claim.was != State.RUNNING else State.WAITING,
            "because": claim.why if claim.was != State.RUNNING else Why.BACKOFF,
            "was_sent": claim.sent,
            "was_unknown": claim.unknown,
        }
        for claim in sorted(claims)
    ]
    if rows:
        with ledger.writing() as connection:
            connection.execute(_HAND_BACK, rows)


def take(connection: Connection, lane: str, owner: str, limit: int, asked_at: float) -> list[Claim]:
    """Claim within the caller's transaction; `asked_at` is the monotonic time at which the lease begins."""
    taken: list[Claim] = []
    for turn in (0, 1):
        page = limit
        while limit > len(taken):
            asked = {"lane": lane, "turn": turn, "limit": page}
            candidates = connection.execute(_CANDIDATES, asked).all()
            if not candidates:
                break
            stopped = blocked(connection, candidates)
            if stopped:
                _park(connection, [row for row in candidates if row.id in stopped], stopped)
            free = [row for row in candidates if row.id not in stopped][: limit - len(taken)]
            taken += _take(connection, free, owner, asked_at)
            if len(candidates) < page:
                break
            # Only a long line of parked operations brings us here: go through it in bigger strides.
            page = min(page * 4, 2000)
    return taken


def _take(connection: Connection, rows: Sequence[Row[Any]], owner: str, asked_at: float) -> list[Claim]:
    if not rows:
        return []
    now = rows[0].now
    until = now + round(LEASE * 1000)
    connection.execute(_TAKE, {"ids": [row.id for row in rows], "holder": owner, "until": until, "now": now})
    if lapsed := [row for row in rows if row.state == State.RUNNING]:
        connection.execute(_LAPSED, [_lapse(row) for row in lapsed])
    return [_claim(row, owner, asked_at) for row in rows]


def _claim(row: Row[Any], owner: str, asked_at: float) -> Claim:
    lapsed = row.state == State.RUNNING
    return Claim(
        id=row.id,
        key=row.key,
        kind=row.kind,
        payload=json.loads(row.payload),
        lane=row.lane,
        entity=row.entity,
        owner=owner,
        fence=row.fence + 1,
        attempts=row.attempts,
        asks=row.asks,
        replays=row.replays,
        unknown=row.unknown or lapsed,
        sent=row.sent,
        repeatable=row.repeatable,
        enqueued_at=row.enqueued_at,
        deadline=None if row.deadline_at is None else asked_at + (row.deadline_at - row.now) / 1000,
        lease_until=asked_at + LEASE,
        was=State(row.state),
        why=None if row.why is None else Why(row.why),
        waited=row.waited_ms / 1000,
        last=None if lapsed else row.last,
        last_fence=None if lapsed else row.last_fence,
    )


def _lapse(row: Row[Any]) -> dict[str, Any]:
    """The evidence of a claim whose holder was heard of no more."""
    return {
        "operation": row.id,
        "fence": row.fence,
        "started_at": row.since,
        "last_at": row.now,
        "times": 1,
        "duration": row.now - row.since,
        "outcome": "lease lapsed",
        "counted": False,
        "worker": row.owner,
        "version": "",
        "late": False,
    }


def _park(connection: Connection, rows: Sequence[Row[Any]], behind: dict[int, Why]) -> None:
    """Let operations wait for those before them; one whose deadline has passed meanwhile has failed."""
    now = rows[0].now
    expired = [row for row in rows if row.deadline_at is not None and row.deadline_at <= now]
    parked = [
        {
            "row": row.id,
            "behind": behind[row.id],
            "until": min(now + RECHECK, row.deadline_at or now + RECHECK),
            "at": now if row.why is None else row.since,
        }
        for row in rows
        if row not in expired
    ]
    if parked:
        connection.execute(_PARK, parked)
    if expired:  # after parking: who waited for one of these is released
        connection.execute(_EXPIRE, {"ids": [row.id for row in expired], "now": now})
        release_line(connection, [row.entity for row in expired if row.entity], now)
