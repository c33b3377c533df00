"""How operations come into the ledger. What is recorded is accepted: it is never lost from here on."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Text, bindparam, false, literal_column, select
from sqlalchemy.dialects import postgresql, sqlite

from worker.errors import BadPayload, PayloadConflict
from worker.ledger.operation import MESSAGE_KIND, New, Reason, Recorded, State
from worker.ledger.schema import among, now_ms, operations, word
from worker.ledger.store import Ledger

KEY_LIMIT = 255  # characters: well within what an index of either database takes
PAYLOAD_LIMIT = 64 * 1024  # characters

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode

_GIVEN = ("key", "kind", "payload", "lane", "entity", "parent", "repeatable", "enqueued_by", "allowed_ms")

_row = operations.c
_ZERO = ("turn", "fence", "attempts", "asks", "replays", "waited_ms", "away_ms")


def _insert(dialect: Any, **more: Any) -> Any:
    values: dict[str, Any] = {name: bindparam(name, type_=_row[name].type) for name in _GIVEN}
    # Constants stand in the statement's text: parameters are what a bulk insert pays for.
    values |= dict.fromkeys(_ZERO, literal_column("0")) | {"sent": false(), "unknown": false()}
    values |= {"enqueued_at": now_ms(), "since": now_ms(), "deadline_at": now_ms() + bindparam("allowed_ms")}
    return (
        dialect.insert(operations)
        .values(values | more)
        .on_conflict_do_nothing(index_elements=["key"])
        .returning(_row.id, _row.key)
    )


_DIALECTS = {"sqlite": sqlite, "postgresql": postgresql}
_QUEUE = {name: _insert(dialect, state=word(State.QUEUED), due_at=now_ms()) for name, dialect in _DIALECTS.items()}
_REFUSE = {
    name: _insert(
        dialect,
        state=word(State.FAILED),
        reason=word(Reason.BAD_PAYLOAD),
        ended_at=now_ms(),
        result=bindparam("result", type_=Text),
    )
    for name, dialect in _DIALECTS.items()
}

_EXISTING = select(_row.id, _row.key, _row.kind, _row.state, _row.payload).where(among(operations.c.key, "keys"))


def record(ledger: Ledger, news: Sequence[New], by: str, connection: Connection | None = None) -> list[Recorded]:
    """Record operations, in this order, and return what became of each. `by` says who asks.

    A key that exists is not recorded again, whatever its state. All are recorded or none; with `connection`, inside
    the caller's own transaction: it commits or rolls back with what the caller wrote beside it.

    Raises `PayloadConflict` if a key exists with another payload, `BadPayload` if a `New` cannot be recorded, and
    SQLAlchemy's errors if the database cannot take it.
    """
    rows = [_given(new, by) for new in news]
    if connection is not None:
        return _record(connection, rows)
    with ledger.writing() as own:
        return _record(own, rows)


def fail_message(ledger: Ledger, message_id: str, task: str, why: str, by: str, raw: str) -> Recorded:
    """Keep a message that could not be taken as a failed operation `message:<id>`. Taken twice, it is kept once."""
    payload = {"task": _printable(task), "message": raw[: PAYLOAD_LIMIT // 8]}
    new = New(MESSAGE_KIND, _printable(f"message:{message_id}"), payload, lane="default")
    row = _given(new, by) | {"result": _encode({"error": why})}
    with ledger.writing() as connection:
        kept = connection.execute(_REFUSE[connection.dialect.name], row).first()
        if kept is not None:
            return Recorded(kept.id, new.key, State.FAILED, created=True)
        there = connection.execute(_EXISTING, {"keys": [new.key]}).one()
        return Recorded(there.id, there.key, State(there.state), created=False)


def _record(connection: Connection, rows: list[dict[str, Any]]) -> list[Recorded]:
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        before = first.setdefault(row["key"], row)
        if before is not row:
            _refuse_another(before, row)
    # One row needs no list: SQLAlchemy's bulk machinery costs more than it saves.
    given: Any = rows[0] if len(rows) == 1 else list(first.values())
    created = {key: id_ for id_, key in connection.execute(_QUEUE[connection.dialect.name], given)} if rows else {}
    there: dict[str, Recorded] = {}
    if len(created) < len(first):
        missing = [key for key in first if key not in created]
        for found in connection.execute(_EXISTING, {"keys": missing}).mappings():
            _refuse_another(found, first[found["key"]])
            there[found["key"]] = Recorded(found["id"], found["key"], State(found["state"]), created=False)
    return [
        Recorded(created[key], key, State.QUEUED, created=True) if key in created else there[key]
        for key in (row["key"] for row in rows)
    ]


def _refuse_another(there: Any, row: dict[str, Any]) -> None:
    if there["kind"] != row["kind"] or there["payload"] != row["payload"]:
        raise PayloadConflict(
            f"{row['key']} exists as {there['kind']} {there['payload']}, and was now asked for as {row['kind']}"
            f" {row['payload']}: one key is one operation, give the other a key of its own"
        )


def _given(new: New, by: str) -> dict[str, Any]:
    for field, value in (("key", new.key), ("entity", new.entity), ("parent", new.parent)):
        if value is not None and not (0 < len(value) <= KEY_LIMIT and value.isprintable()):
            raise BadPayload(f"{field} must be 1 to {KEY_LIMIT} printable characters, and is {value[:KEY_LIMIT]!r}")
    if new.parent == new.key:
        raise BadPayload(f"{new.key} cannot be its own parent")
    try:
        payload = _encode(new.payload)
    except (TypeError, ValueError) as error:
        raise BadPayload(f"{new.key}: the payload is not JSON: {error}") from None
    if len(payload) > PAYLOAD_LIMIT:
        raise BadPayload(f"{new.key}: the payload has {len(payload)} characters of JSON, {PAYLOAD_LIMIT} are allowed")
    return {
        "key": new.key,
        "kind": new.kind,
        "payload": payload,
        "lane": new.lane,
        "entity": new.entity,
        "parent": new.parent,
        "repeatable": new.repeatable,
        "enqueued_by": by,
        "allowed_ms": None if new.deadline is None else round(new.deadline * 1000),
    }


def _printable(value: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in value)[:KEY_LIMIT]
