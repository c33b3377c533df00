"""Statistics per minute: how many operations ended in each minute, and how many were due when it was over.

One row per minute, lane, kind and outcome (`succeeded`, `cancelled`, or the failure reason): how many operations ended,
`total_ms` from request to end together, and `external_ms` of that spent pending at the destination or paused.

One row more per minute and lane, with an empty kind and the outcome `due`: how many operations were due, and in
`total_ms` for how long no worker had worked on the lane (`read_late_s` in `due.py`). So a minute in which nothing ended
has rows, too. A minute without them is one in which nobody dispatched.

The process that dispatches writes the rows once a minute, from the index over `ended_at`. So settling costs no more.
"""

from typing import NamedTuple

from sqlalchemy import BindParameter, Connection, bindparam, case, delete, func, select

from worker.ledger.database import Ledger
from worker.ledger.due import read_due, read_late_s
from worker.ledger.schema import c, insert_into, minutes, now_ms

MINUTE_MS = 60_000
SETTLED_MS = 5_000  # ms from the end of a minute until it is summarized: its last transactions have committed then
CATCH_UP = 60  # most minutes that one call summarizes, after a time without dispatch
KEEP_MS = 90 * 86_400_000  # ms; older rows are deleted
DUE = "due"
"""The outcome of the rows that say how a lane stood."""


class Minute(NamedTuple):
    """A row of the statistics. `minute` is its first instant, ms since the epoch."""

    minute: int
    lane: str
    kind: str
    outcome: str
    operations: int
    total_ms: int
    external_ms: int


_from: BindParameter[int] = bindparam("from")
_until: BindParameter[int] = bindparam("until")
_minute = (c.ended_at - c.ended_at % MINUTE_MS).label("minute")
_outcome = case((c.failure_reason.is_not(None), c.failure_reason), else_=c.state).label("outcome")
_ENDED = (
    select(
        _minute,
        c.lane,
        c.kind,
        _outcome,
        func.count().label("operations"),
        func.sum(c.ended_at - c.requested_at).label("total_ms"),
        func.sum(c.external_wait_ms).label("external_ms"),
    )
    .where(c.ended_at >= _from, c.ended_at < _until)
    .group_by(_minute, c.lane, c.kind, _outcome)
)
# Minutes that have not ended were written while the database's clock was ahead.
_NEWEST = select(func.max(minutes.c.minute)).where(minutes.c.minute < _until)
_soon = (minutes.c.minute >= _from) & (minutes.c.minute < _until)
_HAS_SOON, _FORGET_SOON = select(minutes.c.minute).where(_soon).limit(1), delete(minutes).where(_soon)
_SINCE = select(minutes).where(minutes.c.minute >= _from).order_by(minutes.c.minute).limit(bindparam("limit"))
_first_minutes = select(minutes.c.minute).distinct().order_by(minutes.c.minute).limit(bindparam("most"))
_FORGET_OLD = delete(minutes).where(minutes.c.minute.in_(_first_minutes.where(minutes.c.minute < _until)))
_FORGET_AHEAD = delete(minutes).where(minutes.c.minute.in_(_first_minutes.where(minutes.c.minute > _from)))


def summarize_minutes(ledger: Ledger) -> int:
    """Write the rows of all minutes that have ended since the last call. Returns how many minutes.

    Two processes may do so at the same time: the rows of the second are ignored. After more than an hour without a call
    only the last hour is summarized, so that one call never reads more than an hour's operations.

    What is older than `KEEP_MS` or has not begun is deleted, at most two minutes for each one written, and the present
    minute and the next: if the clock is wrong for a while, it costs a part of the history and not all of it.
    """
    with ledger.reading() as connection:
        now = connection.execute(select(now_ms())).scalar_one()
        until = (now - SETTLED_MS) // MINUTE_MS * MINUTE_MS
        newest = connection.execute(_NEWEST, {"until": until}).scalar()
        soon = {"from": until, "until": until + 2 * MINUTE_MS}
        has_soon = connection.execute(_HAS_SOON, soon).first() is not None
    if has_soon:  # otherwise they would count as written when they have ended
        with ledger.writing() as connection:
            connection.execute(_FORGET_SOON, soon)
    start = max(until - CATCH_UP * MINUTE_MS, until - MINUTE_MS if newest is None else newest + MINUTE_MS)
    if start >= until:
        return 0
    written = int(until - start) // MINUTE_MS
    with ledger.reading() as connection:
        due = read_due(connection)
        late_s = read_late_s(connection, {lane: one.oldest_s for lane, one in due.items()})
        rows = [row._asdict() for row in connection.execute(_ENDED, {"from": start, "until": until})]
    # For the newest minute only: how the lanes stood in the minutes before it, nobody knows now.
    rows += [
        {
            "minute": until - MINUTE_MS,
            "lane": lane,
            "kind": "",
            "outcome": DUE,
            "operations": one.operations,
            "total_ms": round(late_s[lane] * 1000),
            "external_ms": 0,
        }
        for lane, one in due.items()
    ]
    with ledger.writing() as connection:
        _insert(connection, rows)
        connection.execute(_FORGET_OLD, {"until": now - KEEP_MS, "most": 2 * written})
        connection.execute(_FORGET_AHEAD, {"from": now, "most": 2 * written})
    return written


def minutes_since(ledger: Ledger, since: int, limit: int = 20_000) -> list[Minute]:
    """Return the rows of the minutes since an instant (ms since the epoch), oldest first."""
    with ledger.reading() as connection:
        return [Minute(*row) for row in connection.execute(_SINCE, {"from": since, "limit": limit})]


def _insert(connection: Connection, rows: list[dict[str, object]]) -> None:
    connection.execute(insert_into(minutes, connection.dialect.name).on_conflict_do_nothing(), rows)
