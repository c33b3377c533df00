"""Flags that the whole fleet sees, and pauses, which are flags too. Each change is stored in the audit."""

from sqlalchemy import ColumnElement, Connection, bindparam, case, delete, select, update

from worker.errors import NotAllowed
from worker.ledger.audit import record_audit
from worker.ledger.database import Ledger
from worker.ledger.schema import c, flags, insert_into, now_ms, operations, sql_literal
from worker.operation import State, WaitReason
from worker.queues import LANES

RESUME = "resume"
"""What `Ledger.needs_approval` is asked about the end of a pause, in place of a kind."""

TRYING = "trying:"
"""What the name of a flag begins with that `start_try` raises."""

_paused_from = case((c.due_at > bindparam("since"), c.due_at), else_=bindparam("since"))
_stood_still: ColumnElement[int] = bindparam("until") - _paused_from
# While a lane is paused its due operations wait. A person wants that, so their deadlines move by that time, and
# `external_wait_ms` counts it; for operations that are pending at the destination, their next claim adds the whole
# time. `time_allowed_ms` grows, too, because the instant of the request is computed from it.
_COUNT_PAUSE = (
    update(operations)
    .where(
        c.lane == bindparam("paused"),
        c.state.in_([sql_literal(State.QUEUED), sql_literal(State.WAITING)]),
        c.due_at < bindparam("until"),
    )
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
    return _lower_flag(connection, f"pause:{lane}", actor, note)


def raise_flag(ledger: Ledger, name: str, actor: str, note: str) -> bool:
    """Raise a flag that the whole fleet sees. Returns False if it is raised already: its actor and note stay."""
    with ledger.writing() as connection:
        row = insert_into(flags, connection.dialect.name).values(name=name, since=now_ms(), actor=actor, note=note)
        raised = row.on_conflict_do_nothing().returning(flags.c.name)  # SQLAlchemy has no `rowcount` of an INSERT
        is_new = connection.execute(raised).first() is not None
        if is_new:
            record_audit(connection, "raise", actor, note, name)
    return is_new


def lower_flag(ledger: Ledger, name: str, actor: str, note: str) -> bool:
    """Lower a flag. Returns whether it was raised."""
    return ledger.write(lambda connection: _lower_flag(connection, name, actor, note))


def start_try(ledger: Ledger, name: str, actor: str, note: str, again_after_s: float) -> bool:
    """Raise the flag of a try, before it is made. Returns False if that was raised less than `again_after_s` ago.

    So one process tries, and after a try that nobody ended the next one waits. The audit holds decisions, not tries.
    """
    with ledger.writing() as connection:
        row = insert_into(flags, connection.dialect.name).values(name=name, since=now_ms(), actor=actor, note=note)
        again = row.on_conflict_do_update(
            index_elements=["name"],
            set_={each: row.excluded[each] for each in ("since", "actor", "note")},
            # The second condition: the database's clock was set back since the try.
            where=(flags.c.since <= now_ms() - round(again_after_s * 1000)) | (flags.c.since > now_ms()),
        )
        return connection.execute(again.returning(flags.c.name)).first() is not None


def end_try(ledger: Ledger, name: str) -> None:
    """Lower the flag of a try whose answer is known."""
    with ledger.writing() as connection:
        connection.execute(delete(flags).where(flags.c.name == name))


def _lower_flag(connection: Connection, name: str, actor: str, note: str) -> bool:
    lowered = connection.execute(delete(flags).where(flags.c.name == name)).rowcount == 1
    if lowered:
        record_audit(connection, "lower", actor, note, name)
    return lowered
