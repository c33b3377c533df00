"""The SQL of what people decide about one operation, within the transaction of `operator_actions` or `approvals`."""

import json
from typing import Any

from sqlalchemy import (
    BindParameter,
    Boolean,
    Connection,
    Row,
    Update,
    bindparam,
    case,
    false,
    null,
    select,
    text,
    update,
)

from worker.errors import NotAllowed
from worker.ledger.audit import CORRECT, record_audit
from worker.ledger.batches import cancelled_among
from worker.ledger.insert_operations import encode_result
from worker.ledger.on_operation_end import Ended, finish_ended
from worker.ledger.schema import allowed_from, c, now_ms, operations, sql_literal
from worker.operation import MESSAGE_KIND, FailureReason, Phase, State, change_mark, may_have_been_done

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
    "batch": bindparam("stays_in"),
}
"""What a replay writes: the operation is queued with fresh attempts and deadline, at the end of its entity's line."""

_REPLAY = (
    update(operations)
    .where(c.id == bindparam("wanted"), allowed_from("replay"))
    .values(_AGAIN)
    .values(
        outcome_unknown=bindparam("is_unknown", type_=Boolean),
        unknown_step=case((bindparam("not_done", type_=Boolean), null()), else_=c.unknown_step),
    )
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


class CallUnderWay(NotAllowed):
    """A claim holds the operation: whether something was sent is not known before the claim ends."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key}: a call may be under way this very moment: try again in some seconds")


def lock(connection: Connection, key: str, seen: str | None = None) -> Row[Any]:
    """Lock an operation and return its row. `seen`: the change mark of the operation as the person saw it.

    Raises `NotAllowed` if there is no such operation, or if it has changed since; `CallUnderWay` if only a claim that
    holds it tells it from what the person saw. A claim sets `sent`, and clears it again if nothing left.
    """
    row = connection.execute(_LOCK, {"wanted": key}).first()
    if row is None:
        raise NotAllowed(f"{key}: there is no such operation")
    if seen is not None and mark_of(row) != seen:
        if row.state == State.RUNNING and mark_of(row, sent=False) == seen:
            raise CallUnderWay(key)
        raise NotAllowed(f"{key} has changed since you looked, it is {row.state} now: look again")
    return row


def mark_of(row: Row[Any], sent: bool | None = None) -> str:
    """Return the change mark of a locked row. `sent` replaces its own."""
    return change_mark(row.state, row.fence, row.state_since, row.replays, row.sent if sent is None else sent)


def check_failed(row: Row[Any], action: str, may_be_message: bool = False) -> None:
    """Raises `NotAllowed` if the row is no failed operation: "only a failed operation can be `action`".

    A stored message passes only if it `may_be_message`.
    """
    if row.kind == MESSAGE_KIND and not may_be_message:
        raise NotAllowed(
            f"{row.key} stores a message that could not be used, and nothing of it was sent: request it again, then"
            " resolve this one as failed"
        )
    if row.state != State.FAILED:
        raise NotAllowed(f"{row.key} is {row.state}: only a failed operation can be {action}")


def replay_row(connection: Connection, row: Row[Any], actor: str, note: str, not_done: bool = False) -> None:
    """Queue a replayable operation again."""
    position = _end_of_line(connection) if row.entity else None
    batch = _batch_after_replay(connection, row)
    values: dict[str, Any] = {"wanted": row.id, "now": row.now, "at_the_end": position, "stays_in": batch}
    values["not_done"] = not_done
    # A replay submits it, so from here on its phase does not tell that the destination had begun it.
    values["is_unknown"] = may_have_been_done(row) and not not_done
    connection.execute(_REPLAY, values)
    before = {"batch": row.batch} if batch != row.batch else None
    record_audit(connection, "replay, was not done" if not_done else "replay", actor, note, row.key, before)


def correct_row(connection: Connection, row: Row[Any], payload: str, entity: str | None, actor: str, note: str) -> None:
    """Queue a failed operation again with another payload (canonical JSON)."""
    batch = _batch_after_replay(connection, row)
    values = {
        "wanted": row.id,
        "now": row.now,
        "at_the_end": _end_of_line(connection) if entity or row.entity else None,
        "stays_in": batch,
        "new_payload": payload,
        "new_entity": entity or row.entity,
    }
    connection.execute(_CORRECT, values)
    before = {"payload": json.loads(row.payload), "entity": row.entity, "failure_reason": row.failure_reason}
    if batch != row.batch:
        before["batch"] = row.batch
    after = {"payload": json.loads(payload), "entity": values["new_entity"]}
    record_audit(connection, CORRECT, actor, note, row.key, before, after)


def check_correctable(row: Row[Any]) -> None:
    """Raises `NotAllowed` if it is not certain that the destination did nothing."""
    if may_have_been_done(row) or row.failure_reason in (FailureReason.UNRESOLVED, FailureReason.EXHAUSTED):
        raise NotAllowed(
            f"{row.key}: it is not certain that the destination did nothing ({row.failure_reason}): resolve it first"
        )


def resolve_row(
    connection: Connection,
    row: Row[Any],
    actor: str,
    note: str,
    succeeded: bool,
    result: dict[str, Any] | None = None,
) -> None:
    """Record what the destination did of a failed operation. A stored message ends as cancelled: nothing can replay it.

    It is then in no list and no count of what a person must decide. It keeps why it could not be used.
    """
    is_message = row.kind == MESSAGE_KIND
    state = State.SUCCEEDED if succeeded else State.CANCELLED if is_message else State.FAILED
    failure_reason = FailureReason.REJECTED if state == State.FAILED else None
    new_result = row.result if is_message else encode_result(result)
    values = {
        "wanted": row.id,
        "now": row.now,
        "new_state": state,
        "new_failure_reason": failure_reason,
        "new_result": new_result,
    }
    connection.execute(_RESOLVE, values)
    before = {
        "failure_reason": row.failure_reason,
        "outcome_unknown": bool(row.outcome_unknown),
        "unknown_step": row.unknown_step,
        "progress": row.progress and json.loads(row.progress),
        "result": row.result and json.loads(row.result),
    }
    after = {"state": state, "failure_reason": failure_reason, "result": new_result and json.loads(new_result)}
    record_audit(connection, f"resolve, {state}", actor, note, row.key, before, after)
    finish_ended(connection, [Ended(row.id, row.key, row.entity, state)], row.now)


def cancel_row(connection: Connection, row: Row[Any], actor: str, note: str) -> None:
    """Cancel an operation of which this ledger never sent anything. Raises `NotAllowed` otherwise.

    If the ledger came from a backup, the outcome may be unknown although nothing was sent (`restore`). It stays so.
    """
    otherwise = "something of it may have reached the destination: --stop-asking ends it"
    _end_row(connection, row, _CANCEL, State.CANCELLED, "cancel", actor, note, otherwise)


def stop_asking_row(connection: Connection, row: Row[Any], actor: str, note: str) -> None:
    """End an operation that was sent as `failed: unresolved`. Raises `NotAllowed` if that is not possible."""
    _end_row(
        connection, row, _STOP_ASKING, State.FAILED, "stop_asking", actor, note, "nothing of it was sent: cancel it"
    )


def _end_row(
    connection: Connection,
    row: Row[Any],
    statement: Update,
    state: State,
    action: str,
    actor: str,
    note: str,
    otherwise: str,
) -> None:
    if connection.execute(statement, {"wanted": row.id, "now": row.now}).rowcount == 0:
        if row.state == State.RUNNING:
            raise CallUnderWay(row.key)
        final = f"it is {row.state} already"
        raise NotAllowed(f"{row.key}: {otherwise if row.due_at is not None else final}")
    before = {"outcome_unknown": True} if row.outcome_unknown else None
    record_audit(connection, action, actor, note, row.key, before)
    finish_ended(connection, [Ended(row.id, row.key, row.entity, state)], row.now)


def _batch_after_replay(connection: Connection, row: Row[Any]) -> str | None:
    """Return the batch of a failed operation that is queued again: none if nothing was sent and its batch is cancelled.

    What is unsent of a cancelled batch is cancelled as well, although this decision about the operation is the newer
    one.
    """
    is_unsent = row.batch is not None and not row.sent
    return None if is_unsent and cancelled_among(connection, [row.batch]) else row.batch


def _end_of_line(connection: Connection) -> int:
    """Draw a number from the sequence that ids come from: every operation recorded before has a smaller one."""
    if connection.dialect.name == "sqlite":
        sequence = "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'b2copy_operations' RETURNING seq"
    else:
        sequence = "SELECT nextval(pg_get_serial_sequence('b2copy_operations', 'id'))"
    return int(connection.execute(text(sequence)).scalar_one())
