"""What people decide: replay, resolve, cancel, stop asking, poll now, pause. Each is stored in the audit."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BindParameter,
    Boolean,
    Connection,
    Row,
    Update,
    and_,
    bindparam,
    case,
    delete,
    false,
    insert,
    not_,
    null,
    select,
    text,
    update,
)

from worker.errors import NotAllowed
from worker.ledger.database import Ledger
from worker.ledger.ended import Ended, ended
from worker.ledger.queries import BY_KEY, operation_of
from worker.ledger.schema import allowed_from, audit, c, flags, in_list, now_ms, operations, sql_literal
from worker.operation import MESSAGE_KIND, FailureReason, OnUnknown, Operation, Phase, State
from worker.queues import LANES

_LOCK = select(operations, now_ms().label("now")).where(c.key == bindparam("wanted")).with_for_update()

_now: BindParameter[int] = bindparam("now")
_REPLAY = (
    update(operations)
    .where(c.id == bindparam("wanted"), allowed_from("replay"))
    .values(
        state=sql_literal(State.QUEUED),
        failure_reason=null(),
        phase=sql_literal(Phase.SUBMIT),
        due_at=_now,
        state_since=_now,
        ended_at=null(),
        position=bindparam("at_the_end"),
        counted_attempts=0,
        polls=0,
        replays=c.replays + 1,
        last_wait_ms=0,
        deadline_at=_now + c.time_allowed_ms,
        result=null(),
        last_answer=null(),
        last_answer_fence=null(),
        outcome_unknown=and_(c.outcome_unknown, not_(bindparam("not_done", type_=Boolean))),
    )
)
_RESOLVE = (
    update(operations)
    .where(c.id == bindparam("wanted"), allowed_from("resolve"))
    .values(
        state=bindparam("new_state"),
        failure_reason=bindparam("new_failure_reason"),
        result=bindparam("new_result"),
        outcome_unknown=False,
        unknown_step=null(),
        state_since=_now,
        ended_at=_now,
    )
)
_CANCEL = (
    update(operations)
    .where(c.id == bindparam("wanted"), allowed_from("cancel"), c.sent == false())
    .values(state=sql_literal(State.CANCELLED), wait_reason=null(), due_at=null(), state_since=_now, ended_at=_now)
)
_STOP_ASKING = (
    update(operations)
    .where(c.id == bindparam("wanted"), allowed_from("stop_asking"), c.sent)
    .values(
        state=sql_literal(State.FAILED),
        wait_reason=null(),
        failure_reason=sql_literal(FailureReason.UNRESOLVED),
        outcome_unknown=True,
        due_at=null(),
        state_since=_now,
        ended_at=_now,
    )
)
_POLL_NOW = (
    update(operations)
    .where(c.key == bindparam("wanted"), c.state == sql_literal(State.WAITING))
    .values(due_at=now_ms(), phase=sql_literal(Phase.SUBMIT))
)
# The time that a due operation stood still because of the pause is not ours.
_COUNT_PAUSE = (
    update(operations)
    .where(
        in_list(c.lane, "lanes"),
        c.state.in_([sql_literal(State.QUEUED), sql_literal(State.WAITING)]),
        c.due_at <= now_ms(),
    )
    .values(
        external_wait_ms=c.external_wait_ms
        + now_ms()
        - case((c.due_at > bindparam("since"), c.due_at), else_=bindparam("since"))
    )
)


def replay(ledger: Ledger, keys: Sequence[str], actor: str, note: str, not_done: bool = False) -> list[str]:
    """Queue failed operations again with fresh attempts and deadline, each at the end of its entity's line.

    Returns the keys replayed. Operations that are not failed (any more) stay as they are, so that two people may press
    the same button. A stored message is never replayed: it holds no operation. An operation that may have been done and
    must not be done twice is not replayed either, unless a person has looked and says that it was `not_done`.
    """
    replayed: list[str] = []

    def work(connection: Connection) -> list[str]:
        replayed.clear()
        for key in sorted(set(keys)):
            row = _lock(connection, key)
            if row is None or row.state != State.FAILED or row.kind == MESSAGE_KIND:
                continue
            if row.outcome_unknown and row.on_unknown == OnUnknown.STOP and not not_done:
                continue
            position = _end_of_line(connection) if row.entity else None
            values = {"wanted": row.id, "now": row.now, "at_the_end": position, "not_done": not_done}
            connection.execute(_REPLAY, values)
            _record(connection, "replay, was not done" if not_done else "replay", actor, note, key)
            replayed.append(key)
        return replayed

    return ledger.write(work)


def resolve(
    ledger: Ledger,
    key: str,
    actor: str,
    note: str,
    *,
    succeeded: bool,
    result: dict[str, Any] | None = None,
) -> Operation:
    """Record what a person found out: the destination did a failed operation (with its `result`), or did not.

    `succeeded=False` leaves it failed, as `rejected`: its outcome is then known, and it may be replayed.
    Raises `NotAllowed` if it is not failed, or only stores a message.
    """

    def work(connection: Connection) -> Operation:
        row = _lock(connection, key)
        if row is None:
            raise NotAllowed(f"{key}: there is no such operation")
        if row.state != State.FAILED or row.kind == MESSAGE_KIND:
            what = "stores a message that could not be used" if row.kind == MESSAGE_KIND else f"is {row.state}"
            raise NotAllowed(f"{key} {what}: only a failed operation can be resolved")
        state = State.SUCCEEDED if succeeded else State.FAILED
        values = {
            "wanted": row.id,
            "now": row.now,
            "new_state": state,
            "new_failure_reason": None if succeeded else FailureReason.REJECTED,
            "new_result": None if result is None else json.dumps(result),
        }
        connection.execute(_RESOLVE, values)
        before = {"failure_reason": row.failure_reason, "outcome_unknown": row.outcome_unknown, "result": result}
        _record(connection, "resolve, succeeded" if succeeded else "resolve, failed", actor, note, key, before)
        ended(connection, [Ended(row.id, row.key, row.entity, state)], row.now)
        return operation_of(connection.execute(BY_KEY, {"wanted": key}).one())

    return ledger.write(work)


def cancel(ledger: Ledger, key: str, actor: str, note: str) -> Operation:
    """Cancel an operation of which nothing was ever sent.

    Raises `NotAllowed` if something may have been sent (the destination continues whatever we do) or it has ended.
    """
    otherwise = "something of it may have reached the destination: --stop-asking ends it"
    return _end(ledger, key, _CANCEL, State.CANCELLED, "cancel", actor, note, otherwise)


def stop_asking(ledger: Ledger, key: str, actor: str, note: str) -> Operation:
    """End an operation that was sent as `failed: unresolved`: a person finds out what the destination did.

    Raises `NotAllowed` if nothing was sent (cancel it), a call is under way (try again in seconds) or it has ended.
    """
    return _end(
        ledger, key, _STOP_ASKING, State.FAILED, "stop_asking", actor, note, "nothing of it was sent: cancel it"
    )


def poll_now(ledger: Ledger, key: str) -> bool:
    """Make a waiting operation due now, before others. Returns whether it was waiting."""
    with ledger.writing() as connection:
        return connection.execute(_POLL_NOW, {"wanted": key}).rowcount == 1


def pause(ledger: Ledger, lane: str, actor: str, note: str) -> None:
    """Stop claims of a lane, or of `all`. Operations already claimed are finished."""
    raise_flag(ledger, f"pause:{lane}", actor, note)


def resume(ledger: Ledger, lane: str, actor: str, note: str) -> bool:
    """End a pause, and add its time to `external_wait_ms` of what stood still. Returns whether there was a pause."""

    def work(connection: Connection) -> bool:
        since = connection.execute(select(flags.c.since).where(flags.c.name == f"pause:{lane}")).scalar()
        if since is None:
            return False
        lanes = list(LANES) if lane == "all" else [lane]
        connection.execute(_COUNT_PAUSE, {"lanes": lanes, "since": since})
        return _lower_flag(connection, f"pause:{lane}", actor, note)

    return ledger.write(work)


def raise_flag(ledger: Ledger, name: str, actor: str, note: str) -> None:
    """Raise a flag that the whole fleet sees. A flag that is raised already keeps its first actor and note."""
    with ledger.writing() as connection:
        if connection.execute(select(flags.c.name).where(flags.c.name == name)).first() is None:
            connection.execute(insert(flags).values(name=name, since=now_ms(), actor=actor, note=note))
            _record(connection, "raise", actor, note, name)


def lower_flag(ledger: Ledger, name: str, actor: str, note: str) -> bool:
    """Lower a flag. Returns whether it was raised."""
    return ledger.write(lambda connection: _lower_flag(connection, name, actor, note))


def _lower_flag(connection: Connection, name: str, actor: str, note: str) -> bool:
    lowered = connection.execute(delete(flags).where(flags.c.name == name)).rowcount == 1
    if lowered:
        _record(connection, "lower", actor, note, name)
    return lowered


def _end(
    ledger: Ledger, key: str, statement: Update, state: State, action: str, actor: str, note: str, otherwise: str
) -> Operation:
    def work(connection: Connection) -> Operation:
        row = _lock(connection, key)
        if row is None:
            raise NotAllowed(f"{key}: there is no such operation")
        if connection.execute(statement, {"wanted": row.id, "now": row.now}).rowcount == 0:
            if row.state == State.RUNNING:
                raise NotAllowed(f"{key}: a call may be under way this very moment: try again in some seconds")
            final = f"it is {row.state} already"
            raise NotAllowed(f"{key}: {otherwise if row.due_at is not None else final}")
        _record(connection, action, actor, note, key)
        ended(connection, [Ended(row.id, row.key, row.entity, state)], row.now)
        return operation_of(connection.execute(BY_KEY, {"wanted": key}).one())

    return ledger.write(work)


def _lock(connection: Connection, key: str) -> Row[Any] | None:
    return connection.execute(_LOCK, {"wanted": key}).first()


def _end_of_line(connection: Connection) -> int:
    """Draw a number from the sequence that ids come from: every operation recorded before has a smaller one."""
    if connection.dialect.name == "sqlite":
        sequence = "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'b2copy_operations' RETURNING seq"
    else:
        sequence = "SELECT nextval(pg_get_serial_sequence('b2copy_operations', 'id'))"
    return int(connection.execute(text(sequence)).scalar_one())


def _record(
    connection: Connection, action: str, actor: str, note: str, subject: str, detail: dict[str, Any] | None = None
) -> None:
    stored = None if detail is None else json.dumps(detail)
    connection.execute(
        insert(audit).values(at=now_ms(), actor=actor, action=action, subject=subject, note=note, detail=stored)
    )
