"""The open operation of a lane that has taken longest, on our clock and on the destination's."""

from typing import NamedTuple

from sqlalchemy import bindparam, case, select, union_all

from worker.ledger.database import Ledger
from worker.ledger.schema import c, now_ms, sql_literal
from worker.operation import Phase, WaitReason

WINDOW = 5_000  # open operations of each phase that are looked at, those that are due first


class Oldest(NamedTuple):
    """An operation's key, and how long it has taken so far, in ms: ours, and pending at the destination or paused."""

    key: str
    our_ms: int
    their_ms: int


_pending = c.wait_reason == sql_literal(WaitReason.PENDING_AT_B2COPY)
_theirs = (c.external_wait_ms + case((_pending, now_ms() - c.state_since), else_=0)).label("their_ms")
_open = (
    select(
        union_all(
            *(
                select(
                    select(c.key, (now_ms() - c.requested_at).label("total_ms"), _theirs)
                    .where(c.lane == bindparam("lane"), c.phase == sql_literal(phase), c.due_at.is_not(None))
                    .order_by(c.due_at)
                    .limit(WINDOW)
                    .subquery()
                )
                for phase in Phase
            )
        ).subquery()
    )
    .cte("w")
    .prefix_with("MATERIALIZED")
)
_ours = (_open.c.total_ms - _open.c.their_ms).label("our_ms")
_BOTH = union_all(
    *(
        select(select(_open.c.key, _ours, _open.c.their_ms).order_by(longest.desc()).limit(1).subquery())
        for longest in (_ours, _open.c.their_ms)
    )
)


def oldest_open(ledger: Ledger, lane: str) -> tuple[Oldest | None, Oldest | None]:
    """Return the open operations of a lane that are oldest on our clock and on theirs; None if none is open."""
    with ledger.reading() as connection:
        found = [Oldest(*row) for row in connection.execute(_BOTH, {"lane": lane})]
    if not found:
        return None, None
    ours = max(found, key=lambda one: one.our_ms)
    theirs = max(found, key=lambda one: one.their_ms)
    return ours, theirs if theirs.their_ms > 0 else None
