"""What became of an operation: anybody may ask."""

import json
from typing import Any

from sqlalchemy import Row, bindparam, select

from worker.ledger import schema
from worker.ledger.operation import Attempt, Decision, Operation, Reason, State, Why
from worker.ledger.schema import among, flags, operations, word
from worker.ledger.store import Ledger

_row = operations.c
_FIELDS = [_row[name] for name in Operation.__dataclass_fields__]
BY_KEY = select(*_FIELDS).where(_row.key == bindparam("wanted"))
_BY_KEYS = select(*_FIELDS).where(among(_row.key, "keys"))
_tried = schema.attempts
_ATTEMPTS = select(_tried).where(_tried.c.operation == bindparam("wanted")).order_by(_tried.c.fence)
_decided = schema.decisions
_DECISIONS = select(_decided).where(_decided.c.operation == bindparam("wanted")).order_by(_decided.c.id)


def find(ledger: Ledger, key: str) -> Operation | None:
    """Return the operation of a key, or None if it was never recorded (or has been purged)."""
    with ledger.reading() as connection:
        row = connection.execute(BY_KEY, {"wanted": key}).first()
    return None if row is None else operation_of(row)


def find_many(ledger: Ledger, keys: list[str]) -> dict[str, Operation]:
    """Return the operations of these keys, those that exist."""
    with ledger.reading() as connection:
        return {row.key: operation_of(row) for row in connection.execute(_BY_KEYS, {"keys": keys})}


def attempts(ledger: Ledger, operation_id: int) -> list[Attempt]:
    """Return an operation's attempts, oldest first."""
    with ledger.reading() as connection:
        found = connection.execute(_ATTEMPTS, {"wanted": operation_id})
        return [Attempt(**{name: getattr(row, name) for name in Attempt._fields}) for row in found]


def decisions(ledger: Ledger, operation_id: int) -> list[Decision]:
    """Return what people decided about an operation, oldest first."""
    with ledger.reading() as connection:
        found = connection.execute(_DECISIONS, {"wanted": operation_id})
        return [Decision(row.at, row.what, row.who, row.why, row.subject) for row in found]


def search(
    ledger: Ledger,
    *,
    state: State | None = None,
    reason: Reason | None = None,
    kind: str | None = None,
    lane: str | None = None,
    since: int | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[Operation]:
    """Return operations, newest first. `since`: in their present state since then or later (ms since the epoch).

    `before`: only those with a smaller id, to go on where the last answer ended.
    """
    wanted = select(*_FIELDS).order_by(_row.id.desc()).limit(limit)
    if reason is not None:
        state = State.FAILED
    if state is not None:
        wanted = wanted.where(_row.state == word(State(state)))
    for column, value in ((_row.reason, reason), (_row.kind, kind), (_row.lane, lane)):
        if value is not None:
            wanted = wanted.where(column == value)
    if since is not None:
        wanted = wanted.where(_row.since >= since)
    if before is not None:
        wanted = wanted.where(_row.id < before)
    with ledger.reading() as connection:
        return [operation_of(row) for row in connection.execute(wanted)]


def raised(ledger: Ledger) -> dict[str, Decision]:
    """Return the flags that are up, by name: who raised each, when and why."""
    with ledger.reading() as connection:
        found = connection.execute(select(flags).order_by(flags.c.name))
        return {row.name: Decision(row.since, "raise", row.who, row.why, row.name) for row in found}


def operation_of(row: Row[Any]) -> Operation:
    values = row._asdict()
    values["payload"] = json.loads(values["payload"])
    values["result"] = values["result"] and json.loads(values["result"])
    values["state"] = State(values["state"])
    values["why"] = values["why"] and Why(values["why"])
    values["reason"] = values["reason"] and Reason(values["reason"])
    return Operation(**values)
