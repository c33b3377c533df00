"""What people decide: replay, cancel, stop asking, ask at once, pause. Each is kept with who and why."""

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
from worker.ledger.line import release_line
from worker.ledger.lookup import BY_KEY, operation_of
from worker.ledger.operation import MESSAGE_KIND, Operation, Reason, State
from worker.ledger.schema import decisions, flags, may, now_ms, operations, word
from worker.ledger.store import Ledger

_row = operations.c
_WANTED = select(operations, now_ms().label("now")).where(_row.key == bindparam("wanted")).with_for_update()

_now: BindParameter[int] = bindparam("now")
_REPLAY = (
    update(operations)
    .where(_row.id == bindparam("wanted"), may("replay"))
    .values(
        state=word(State.QUEUED),
        reason=null(),
        turn=0,
        due_at=_now,
        since=_now,
        ended_at=null(),
        position=bindparam("at_the_end"),
        attempts=0,
        asks=0,
        replays=_row.replays + 1,
        waited_ms=0,
        deadline_at=_now + _row.allowed_ms,
        result=null(),
        last=null(),
        last_fence=null(),
        unknown=and_(_row.unknown, not_(bindparam("not_done", type_=Boolean))),
    )
)
_CANCEL = (
    update(operations)
    .where(_row.id == bindparam("wanted"), may("cancel"), _row.sent == false())
    .values(state=word(State.CANCELLED), why=null(), due_at=null(), since=_now, ended_at=_now)
)
_STOP_ASKING = (
    update(operations)
    .where(_row.id == bindparam("wanted"), may("stop_asking"), _row.sent)
    .values(
        state=word(State.FAILED),
        why=null(),
        reason=word(Reason.UNRESOLVED),
        unknown=True,
        due_at=null(),
        since=_now,
        ended_at=_now,
    )
)
_REFRESH = (
    update(operations)
    .where(_row.key == bindparam("wanted"), _row.state == word(State.WAITING))
    .values(due_at=now_ms(), turn=0)
)


def replay(ledger: Ledger, keys: Sequence[str], who: str, why: str, not_done: bool = False) -> list[str]:
    """Queue failed operations again, with fresh attempts and deadline, each at the end of its entity's line.

    Returns the keys replayed: those that were not failed (any more) are left as they are, so that two people may press
    the same button. What only keeps a message is never replayed: there is nothing in it that could be done. What may
    have been done and must not be done twice is left too, unless a person has looked and says that it was `not_done`.
    """
    replayed: list[str] = []

    def work(connection: Connection) -> list[str]:
        replayed.clear()
        for key in sorted(set(keys)):
            row = _lock(connection, key)
            if row is None or row.state != State.FAILED or row.kind == MESSAGE_KIND:
                continue
            if row.unknown and not row.repeatable and not not_done:
                continue
            place = _end_of_line(connection) if row.entity else None
            connection.execute(_REPLAY, {"wanted": row.id, "now": row.now, "at_the_end": place, "not_done": not_done})
            _keep(connection, "replay, was not done" if not_done else "replay", who, why, row)
            replayed.append(key)
        return replayed

    return ledger.write(work)


def cancel(ledger: Ledger, key: str, who: str, why: str) -> Operation:
    """Cancel an operation of which nothing was ever sent.

    Raises `NotAllowed` if something may have left a process (B2COPY goes on whatever we say) or it has ended.
    """
    return _end(
        ledger, key, _CANCEL, "cancel", who, why, "something of it may have reached B2COPY: --stop-asking ends it"
    )


def stop_asking(ledger: Ledger, key: str, who: str, why: str) -> Operation:
    """End an operation that was sent as `failed: unresolved`: what B2COPY makes of it is for a person to find out.

    Raises `NotAllowed` if nothing was sent (cancel it), a call is under way (try again in seconds) or it has ended.
    """
    return _end(ledger, key, _STOP_ASKING, "stop_asking", who, why, "nothing of it was sent: cancel it")


def refresh(ledger: Ledger, key: str) -> bool:
    """Make a waiting operation due now, before others. Tells whether it was waiting."""
    with ledger.writing() as connection:
        return connection.execute(_REFRESH, {"wanted": key}).rowcount == 1


def pause(ledger: Ledger, lane: str, who: str, why: str) -> None:
    """Stop claims of a lane, or of `all`. What is held goes on to its end."""
    raise_flag(ledger, f"pause:{lane}", who, why)


def resume(ledger: Ledger, lane: str, who: str, why: str) -> bool:
    """End a pause. Tells whether there was one."""
    return lower_flag(ledger, f"pause:{lane}", who, why)


def raise_flag(ledger: Ledger, name: str, who: str, why: str) -> None:
    """Raise a flag that the whole fleet sees; one that is up stays as it was raised first."""
    with ledger.writing() as connection:
        if connection.execute(select(flags.c.name).where(flags.c.name == name)).first() is None:
            connection.execute(insert(flags).values(name=name, since=now_ms(), who=who, why=why))
            _note(connection, "raise", who, why, name)


def lower_flag(ledger: Ledger, name: str, who: str, why: str) -> bool:
    """Lower a flag. Tells whether it was up."""
    with ledger.writing() as connection:
        lowered = connection.execute(delete(flags).where(flags.c.name == name)).rowcount == 1
        if lowered:
            _note(connection, "lower", who, why, name)
        return lowered


def _end(ledger: Ledger, key: str, statement: Update, what: str, who: str, why: str, otherwise: str) -> Operation:
    def work(connection: Connection) -> Operation:
        row = _lock(connection, key)
        if row is None:
            raise NotAllowed(f"{key}: there is no such operation")
        if connection.execute(statement, {"wanted": row.id, "now": row.now}).rowcount == 0:
            if row.state == State.RUNNING:
                raise NotAllowed(f"{key}: a call may be under way this very moment: try again in some seconds")
            ended = f"it is {row.state} already"
            raise NotAllowed(f"{key}: {otherwise if row.due_at is not None else ended}")
        _keep(connection, what, who, why, row)
        if row.entity:
            release_line(connection, [row.entity], row.now)
        return operation_of(connection.execute(BY_KEY, {"wanted": key}).one())

    return ledger.write(work)


def _lock(connection: Connection, key: str) -> Row[Any] | None:
    return connection.execute(_WANTED, {"wanted": key}).first()


def _end_of_line(connection: Connection) -> int:
    """Draw a number from the counter that ids come from: nothing recorded before has a greater one."""
    if connection.dialect.name == "sqlite":
        counter = "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'b2copy_operations' RETURNING seq"
    else:
        counter = "SELECT nextval(pg_get_serial_sequence('b2copy_operations', 'id'))"
    return int(connection.execute(text(counter)).scalar_one())


def _keep(connection: Connection, what: str, who: str, why: str, row: Row[Any]) -> None:
    _note(connection, what, who, why, row.key, operation=row.id)


def _note(connection: Connection, what: str, who: str, why: str, subject: str, operation: int | None = None) -> None:
    connection.execute(
        insert(decisions).values(operation=operation, at=now_ms(), what=what, subject=subject, who=who, why=why)
    )
