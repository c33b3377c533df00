"""What people decide about operations: replay, correct, resolve, cancel, stop asking, poll now. See also `pauses`.

Where the ledger asks for a second person (`Ledger.needs_approval`), these functions refuse: `approvals` proposes the
decision then, and makes it when another person approves. `seen` is the change mark of the operation as the person saw
it (`Operation.change_mark`): an operation that has changed since is left as it is.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Row, bindparam, update

from worker.errors import NotAllowed
from worker.ledger import decision_sql
from worker.ledger.audit import record_audit
from worker.ledger.database import Ledger
from worker.ledger.insert_operations import encode_payload
from worker.ledger.queries import BY_KEY, operation_of
from worker.ledger.schema import c, due_now, is_in_line, operations, sql_literal
from worker.operation import Operation, State, is_replayable

_POLL_NOW = (
    update(operations)
    .where(c.key == bindparam("wanted"), c.state == sql_literal(State.WAITING), is_in_line())
    .values(due_at=due_now())  # not the phase: it tells that the destination has begun it
)


def replay(
    ledger: Ledger,
    keys: Sequence[str],
    actor: str,
    note: str,
    not_done: bool = False,
    seen: Mapping[str, str] | None = None,
) -> list[str]:
    """Queue failed operations again with fresh attempts and deadline, each at the end of its entity's line.

    Several of one entity go there in the order in which they were requested.
    Returns the keys replayed. Operations that are not failed (any more), that have changed since they were `seen` (key
    -> change mark), or that need a second person stay as they are, so that two people may press the same button. A
    stored message is never replayed: it holds no operation. An operation that may have been done and must not be done
    twice is not replayed either, unless a person has looked and says that it was `not_done`.
    """
    replayed: list[str] = []
    marks = seen or {}

    def work(connection: Connection) -> list[str]:
        replayed.clear()
        rows = []
        for key in sorted(set(keys)):  # two that replay the same ones lock them in the same order
            with suppress(NotAllowed):
                rows.append(decision_sql.lock(connection, key, marks.get(key)))
        for row in sorted(rows, key=lambda row: row.id):
            if is_replayable(row, not_done) and not ledger.needs_approval(row.kind, row.lane):
                decision_sql.replay_row(connection, row, actor, note, not_done)
                replayed.append(row.key)
        return replayed

    return ledger.write(work)


def correct(
    ledger: Ledger,
    key: str,
    payload: Mapping[str, Any],
    actor: str,
    note: str,
    *,
    entity: str | None = None,
    seen: str | None = None,
) -> Operation:
    """Queue a failed operation again with another payload, because the one it had was wrong. The audit stores both.

    `payload` must have been checked by the operation's kind. `entity` replaces the operation's entity, if the payload
    decides it. Raises `BadPayload` if the payload cannot be stored, and `NotAllowed` if the operation is not failed, or
    if it is not certain that the destination did nothing: another payload under the same key would hide that.
    """
    encoded = encode_payload(key, payload)

    def work(connection: Connection) -> Operation:
        row = decision_sql.lock(connection, key, seen)
        decision_sql.check_failed(row, "corrected")
        decision_sql.check_correctable(row)
        _check_one_person_decides(ledger, row)
        decision_sql.correct_row(connection, row, encoded, entity, actor, note)
        return _operation(connection, key)

    return ledger.write(work)


def resolve(
    ledger: Ledger,
    key: str,
    actor: str,
    note: str,
    *,
    succeeded: bool,
    result: dict[str, Any] | None = None,
    seen: str | None = None,
) -> Operation:
    """Record what a person found out: the destination did a failed operation (with its `result`), or did not.

    `succeeded=False` leaves it failed, as `rejected`: its outcome is then known, and it may be replayed. A
    stored message ends as cancelled, because there is nothing to replay.
    Raises `NotAllowed` if it is not failed, has changed, needs a second person, or is a message that is to succeed.
    """

    def work(connection: Connection) -> Operation:
        row = decision_sql.lock(connection, key, seen)
        decision_sql.check_failed(row, "resolved", may_be_message=not succeeded)
        _check_one_person_decides(ledger, row)
        decision_sql.resolve_row(connection, row, actor, note, succeeded, result)
        return _operation(connection, key)

    return ledger.write(work)


def cancel(ledger: Ledger, key: str, actor: str, note: str, seen: str | None = None) -> Operation:
    """Cancel an operation of which nothing was ever sent.

    Raises `NotAllowed` if a request may have been sent (the destination continues the operation), it has ended or
    changed, or needs a second person.
    """

    def work(connection: Connection) -> Operation:
        row = decision_sql.lock(connection, key, seen)
        _check_one_person_decides(ledger, row)
        decision_sql.cancel_row(connection, row, actor, note)
        return _operation(connection, key)

    return ledger.write(work)


def stop_asking(ledger: Ledger, key: str, actor: str, note: str, seen: str | None = None) -> Operation:
    """End an operation that was sent as `failed: unresolved`: a person finds out what the destination did.

    Raises `NotAllowed` if nothing was sent (cancel it), a call is under way (try again in seconds), it has ended or
    changed, or needs a second person.
    """

    def work(connection: Connection) -> Operation:
        row = decision_sql.lock(connection, key, seen)
        _check_one_person_decides(ledger, row)
        decision_sql.stop_asking_row(connection, row, actor, note)
        return _operation(connection, key)

    return ledger.write(work)


def poll_now(ledger: Ledger, key: str, actor: str, note: str = "") -> bool:
    """Make a waiting operation due now. Returns whether it was waiting; one of a paused batch waits for its resume."""
    with ledger.writing() as connection:
        was_waiting = connection.execute(_POLL_NOW, {"wanted": key}).rowcount == 1
        if was_waiting:
            record_audit(connection, "poll now", actor, note, key)
        return was_waiting


def record_renewal(ledger: Ledger, actor: str, note: str) -> None:
    """Store who has the session renewed, and why. Called before the renewal, which may fail."""
    with ledger.writing() as connection:
        record_audit(connection, "renew", actor, note, "session")


def _check_one_person_decides(ledger: Ledger, row: Row[Any]) -> None:
    if ledger.needs_approval(row.kind, row.lane):
        raise NotAllowed(f"{row.key} needs a second person (B2COPY_FOUR_EYES): propose it, and another one approves")


def _operation(connection: Connection, key: str) -> Operation:
    return operation_of(connection.execute(BY_KEY, {"wanted": key}).one())
