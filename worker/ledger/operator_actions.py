"""What people decide about operations: replay, correct, resolve, cancel, stop asking, poll now. See also `flags`."""

import json
from collections.abc import Mapping, Sequence
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
    false,
    not_,
    null,
    select,
    text,
    update,
)

from worker.errors import NotAllowed
from worker.ledger.audit import record_audit
from worker.ledger.database import Ledger
from worker.ledger.ended import Ended, ended
from worker.ledger.insert import encode_payload
from worker.ledger.queries import BY_KEY, operation_of
from worker.ledger.schema import allowed_from, c, now_ms, operations, sql_literal
from worker.operation import MESSAGE_KIND, FailureReason, OnUnknown, Operation, Phase, State

_LOCK = select(operations, now_ms().label("now")).where(c.key == bindparam("wanted")).with_for_update()

_now: BindParameter[int] = bindparam("now")
_AGAIN: dict[str, Any] = {
    "state": sql_literal(State.QUEUED),
    "failure_reason": null(),
    "phase": sql_literal(Phase.SUBMIT),
    "due_at": _now,
    "state_since": _now,
    "ended_at": null(),
    "position": bindparam("at_the_end"),
    "counted_attempts": 0,
    "polls": 0,
    "replays": c.replays + 1,
    "last_wait_ms": 0,
    "deadline_at": _now + c.time_allowed_ms,
    "result": null(),
    "last_answer": null(),
    "last_answer_fence": null(),
}
"""What a replay writes: the operation is queued with fresh attempts and deadline, at the end of its entity's line."""

_REPLAY = (
    update(operations)
    .where(c.id == bindparam("wanted"), allowed_from("replay"))
    .values(_AGAIN)
    .values(outcome_unknown=and_(c.outcome_unknown, not_(bindparam("not_done", type_=Boolean))))
)
_CORRECT = (
    update(operations)
    .where(c.id == bindparam("wanted"), allowed_from("correct"), ~c.outcome_unknown)
    .values(_AGAIN)
    .values(payload=bindparam("new_payload"), entity=bindparam("new_entity"), progress=null())
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
        progress=case((bindparam("new_state") == State.FAILED, c.progress), else_=null()),
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
            record_audit(connection, "replay, was not done" if not_done else "replay", actor, note, key)
            replayed.append(key)
        return replayed

    return ledger.write(work)


def correct(
    ledger: Ledger, key: str, payload: Mapping[str, Any], actor: str, note: str, *, entity: str | None = None
) -> Operation:
    """Queue a failed operation again with another payload, because the one it had was wrong. The audit keeps both.

    `payload` must have been checked by the operation's kind. `entity` replaces the operation's entity, if the payload
    decides it. Raises `BadPayload` if the payload cannot be stored, and `NotAllowed` if the operation is not failed, or
    if it is not certain that the destination did nothing: another payload under the same key would hide that.
    """
    encoded = encode_payload(key, payload)

    def work(connection: Connection) -> Operation:
        row = _lock_failed(connection, key, "corrected")
        if row.outcome_unknown or row.failure_reason in (FailureReason.UNRESOLVED, FailureReason.EXHAUSTED):
            raise NotAllowed(
                f"{key}: it is not certain that the destination did nothing ({row.failure_reason}): resolve it first"
            )
        values = {
            "wanted": row.id,
            "now": row.now,
            "at_the_end": _end_of_line(connection) if entity or row.entity else None,
            "new_payload": encoded,
            "new_entity": entity or row.entity,
        }
        connection.execute(_CORRECT, values)
        before = {"payload": json.loads(row.payload), "entity": row.entity, "failure_reason": row.failure_reason}
        after = {"payload": json.loads(encoded), "entity": values["new_entity"]}
        record_audit(connection, "correct", actor, note, key, before, after)
        return operation_of(connection.execute(BY_KEY, {"wanted": key}).one())

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
        row = _lock_failed(connection, key, "resolved")
        state = State.SUCCEEDED if succeeded else State.FAILED
        failure_reason = None if succeeded else FailureReason.REJECTED
        values = {
            "wanted": row.id,
            "now": row.now,
            "new_state": state,
            "new_failure_reason": failure_reason,
            "new_result": None if result is None else json.dumps(result),
        }
        connection.execute(_RESOLVE, values)
        before = {
            "failure_reason": row.failure_reason,
            "outcome_unknown": bool(row.outcome_unknown),
            "unknown_step": row.unknown_step,
            "progress": row.progress and json.loads(row.progress),
            "result": row.result and json.loads(row.result),
        }
        after = {"state": state, "failure_reason": failure_reason, "result": result}
        record_audit(connection, f"resolve, {state}", actor, note, key, before, after)
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
        record_audit(connection, action, actor, note, key)
        ended(connection, [Ended(row.id, row.key, row.entity, state)], row.now)
        return operation_of(connection.execute(BY_KEY, {"wanted": key}).one())

    return ledger.write(work)


def _lock(connection: Connection, key: str) -> Row[Any] | None:
    return connection.execute(_LOCK, {"wanted": key}).first()


def _lock_failed(connection: Connection, key: str, action: str) -> Row[Any]:
    """Lock a failed operation and return its row. `action` completes the error: "only a failed one can be ..."."""
    row = _lock(connection, key)
    if row is None:
        raise NotAllowed(f"{key}: there is no such operation")
    if row.kind == MESSAGE_KIND:
        raise NotAllowed(f"{key} stores a message that could not be used: only an operation can be {action}")
    if row.state != State.FAILED:
        raise NotAllowed(f"{key} is {row.state}: only a failed operation can be {action}")
    return row


def _end_of_line(connection: Connection) -> int:
    """Draw a number from the sequence that ids come from: every operation recorded before has a smaller one."""
    if connection.dialect.name == "sqlite":
        sequence = "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'b2copy_operations' RETURNING seq"
    else:
        sequence = "SELECT nextval(pg_get_serial_sequence('b2copy_operations', 'id'))"
    return int(connection.execute(text(sequence)).scalar_one())
