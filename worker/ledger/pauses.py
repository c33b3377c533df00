"""Pauses of lanes: flags that claims obey. The time of a pause does not count towards the operations' deadlines."""

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Connection,
    ScalarSelect,
    bindparam,
    case,
    func,
    select,
    update,
)

from worker.errors import NotAllowed
from worker.ledger.database import Ledger
from worker.ledger.fleet_flags import lower_flag_within, raise_flag
from worker.ledger.schema import c, flags, now_ms, operations, sql_literal
from worker.operation import WaitReason
from worker.queues import LANES

RESUME = "resume"
"""What `Ledger.needs_approval` is asked about the end of a pause, in place of a kind."""

_paused_from = case((c.due_at > bindparam("since"), c.due_at), else_=bindparam("since"))
_stood_still: ColumnElement[int] = bindparam("until") - _paused_from
# While a lane is paused its due operations wait. A person wants that, so their deadlines move by that time, and
# `external_wait_ms` counts it; for operations that are pending at the destination, their next claim adds the whole
# time. `time_allowed_ms` grows, too, because the instant of the request is computed from it. A running operation whose
# worker was lost waits too, since its lease lapsed; a lease that is renewed ends after `until`.
_COUNT_PAUSE = (
    update(operations)
    .where(c.lane == bindparam("paused"), c.due_at < bindparam("until"))
    .values(
        external_wait_ms=case(
            (c.wait_reason == sql_literal(WaitReason.PENDING_AT_B2COPY), c.external_wait_ms),
            else_=c.external_wait_ms + _stood_still,
        ),
        deadline_at=c.deadline_at + _stood_still,
        time_allowed_ms=c.time_allowed_ms + _stood_still,
    )
)

# Two people who resume at the same time must not both count the time of one pause.
_LOCK_PAUSES = (
    select(flags.c.name, flags.c.since).where(flags.c.name.like("pause:%")).order_by(flags.c.name).with_for_update()
)


def paused_since(lane: str | BindParameter[str] | Column[str]) -> ScalarSelect[int]:
    """Return the SQL value since when a lane has been paused, in ms since the epoch; NULL if it is not paused."""
    return select(func.min(flags.c.since)).where(flags.c.name.in_(["pause:all", "pause:" + lane])).scalar_subquery()


def stood_still_ms() -> ColumnElement[int]:
    """Return the SQL value for how long the pause of its lane has held an operation that is due; 0 if none has.

    For what is put aside: the resume of its lane, which does not see it, adds nothing.
    """
    since = paused_since(c.lane)
    held_from = case((c.due_at > since, c.due_at), else_=since)  # NULL without a pause
    return case((held_from < now_ms(), now_ms() - held_from), else_=0)


def pause(ledger: Ledger, lane: str, actor: str, note: str) -> bool:
    """Stop claims of a lane, or of `all`. Operations already claimed are finished. Returns False if it was paused."""
    return raise_flag(ledger, f"pause:{lane}", actor, note)


def resume(ledger: Ledger, lane: str, actor: str, note: str, seen: str | None = None) -> bool:
    """End a pause. Its time counts neither towards the deadlines of the operations that waited for it, nor as ours.

    `seen` is when the pause began that the person saw, in ms since the epoch. Returns whether there was a pause. Raises
    `NotAllowed` if there is another pause now, or if a second person must agree; see `approvals`.
    """
    if ledger.needs_approval(RESUME, lane):
        raise NotAllowed(f"pause:{lane} needs a second person to end (B2COPY_FOUR_EYES): propose it")
    return ledger.write(lambda connection: resume_within(connection, lane, actor, note, seen))


def resume_within(connection: Connection, lane: str, actor: str, note: str, seen: str | None = None) -> bool:
    """End a pause within the caller's transaction. See `resume`."""
    raised = {row.name: row.since for row in connection.execute(_LOCK_PAUSES)}
    if f"pause:{lane}" not in raised:
        return False
    if seen is not None and seen != str(raised[f"pause:{lane}"]):
        raise NotAllowed(f"pause:{lane} is another pause than the one that you have seen: look again")
    now = connection.execute(select(now_ms())).scalar_one()
    since = raised[f"pause:{lane}"]
    for each in LANES if lane == "all" else [lane]:
        # If the lane stays paused by the other flag, its own resume counts the time since that one was raised.
        until = raised.get(f"pause:{each}" if lane == "all" else "pause:all", now)
        if until > since:
            connection.execute(_COUNT_PAUSE, {"paused": each, "since": since, "until": until})
    return lower_flag_within(connection, f"pause:{lane}", actor, note)
