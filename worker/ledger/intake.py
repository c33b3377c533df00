"""How operations come into the ledger. What is recorded is accepted: it is never lost from here on."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Text,
    bindparam,
    cast,
    column,
    false,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite

from worker.errors import BadPayload, PayloadConflict
from worker.ledger.operation import MESSAGE_KIND, New, Reason, Recorded, State
from worker.ledger.schema import among, now_ms, operations, word
from worker.ledger.store import Ledger

KEY_LIMIT = 255  # characters: well within what an index of either database takes
PAYLOAD_LIMIT = 64 * 1024  # characters

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
_batch = json.JSONEncoder(separators=(",", ":")).encode

_row = operations.c
_GIVEN = ("key", "kind", "payload", "lane", "entity", "parent", "repeatable", "enqueued_by", "allowed_ms", "result")
_ZERO = ("turn", "fence", "attempts", "asks", "replays", "waited_ms", "away_ms")


def _insert(dialect: str, **state: ColumnElement[Any]) -> Any:
    """One row or thousands in one parameter: it is parsed by the database, which costs us 3 us a row."""
    given = _sqlite_rows() if dialect == "sqlite" else _postgresql_rows()
    values: dict[str, ColumnElement[Any]] = {name: given[name].label(name) for name in _GIVEN}
    values |= dict.fromkeys(_ZERO, literal_column("0")) | {"sent": false(), "unknown": false()}
    values |= {"enqueued_at": now_ms(), "since": now_ms(), "deadline_at": now_ms() + given["allowed_ms"]}
    values |= state
    rows = select(*values.values()).where(true())  # without WHERE, SQLite takes ON CONFLICT for a join's ON
    insert = (sqlite if dialect == "sqlite" else postgresql).insert(operations).from_select(list(values), rows)
    return insert.on_conflict_do_nothing(index_elements=["key"]).returning(_row.id, _row.key)


def _sqlite_rows() -> Mapping[str, ColumnElement[Any]]:
    rows = func.json_each(bindparam("rows", type_=Text)).table_valued("value")
    return {name: func.json_extract(rows.c.value, literal_column(f"'$.{name}'")) for name in _GIVEN}


def _postgresql_rows() -> Mapping[str, ColumnElement[Any]]:
    columns = [column(name, _row[name].type) for name in _GIVEN]
    rows = func.json_to_recordset(cast(bindparam("rows", type_=Text), JSON)).table_valued(*columns)
    return dict(rows.render_derived(with_types=True).c)


_DIALECTS = ("sqlite", "postgresql")
_QUEUE = {dialect: _insert(dialect, state=word(State.QUEUED), due_at=now_ms()) for dialect in _DIALECTS}
_REFUSED: dict[str, ColumnElement[Any]] = {
    "state": word(State.FAILED),
    "reason": word(Reason.BAD_PAYLOAD),
    "ended_at": now_ms(),
}
_REFUSE = {dialect: _insert(dialect, **_REFUSED) for dialect in _DIALECTS}

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
    return ledger.write(lambda own: _record(own, rows))


def fail_message(ledger: Ledger, message_id: str, task: str, why: str, by: str, raw: str) -> Recorded:
    """Keep a message that could not be taken as a failed operation `message:<id>`. Taken twice, it is kept once."""
    payload = {"task": _printable(task), "message": raw[: PAYLOAD_LIMIT // 8]}
    new = New(MESSAGE_KIND, _printable(f"message:{message_id}"), payload, lane="default")
    row = _given(new, by) | {"result": _encode({"error": why})}
    with ledger.writing() as connection:
        kept = connection.execute(_REFUSE[connection.dialect.name], {"rows": _batch([row])}).first()
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
    found: dict[str, Recorded] = {}
    # More than once only if a key's operation is purged between the two statements.
    while missing := [row for key, row in first.items() if key not in found]:
        for id_, key in connection.execute(_QUEUE[connection.dialect.name], {"rows": _batch(missing)}):
            found[key] = Recorded(id_, key, State.QUEUED, created=True)
        if there := [row["key"] for row in missing if row["key"] not in found]:
            for kept in connection.execute(_EXISTING, {"keys": there}).mappings():
                _refuse_another(kept, first[kept["key"]])
                found[kept["key"]] = Recorded(kept["id"], kept["key"], State(kept["state"]), created=False)
    return [found[row["key"]] for row in rows]


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
    except (TypeError, ValueError, RecursionError) as error:
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
        "enqueued_by": _printable(by),
        "allowed_ms": None if new.deadline is None else round(new.deadline * 1000),
        "result": None,
    }


def _printable(value: str) -> str:
    value = value[:KEY_LIMIT]
    return value if value.isprintable() else "".join(char if char.isprintable() else "?" for char in value)
