"""Record operations. A recorded operation is accepted: it is never lost from here on."""

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
from worker.ledger.database import Ledger
from worker.ledger.ended import Ended, ended
from worker.ledger.schema import c, in_list, now_ms, operations, sql_literal
from worker.operation import MESSAGE_KIND, FailureReason, New, Phase, Recorded, State

KEY_LIMIT = 255  # characters: well within what an index of either database takes
PAYLOAD_LIMIT = 64 * 1024  # characters

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
_batch = json.JSONEncoder(separators=(",", ":")).encode

_GIVEN = (
    "key", "kind", "payload", "lane", "entity", "parent", "destination", "on_unknown", "batch", "trace_id",
    "requested_by", "time_allowed_ms", "result",
)  # fmt: skip
_ZERO = ("fence", "counted_attempts", "polls", "replays", "last_wait_ms", "external_wait_ms")


def _insert(dialect: str, **state: ColumnElement[Any]) -> Any:
    """Return an INSERT of any number of rows in one JSON parameter. The database parses it: that costs 3 us a row."""
    given = _sqlite_rows() if dialect == "sqlite" else _postgresql_rows()
    values: dict[str, ColumnElement[Any]] = {name: given[name].label(name) for name in _GIVEN}
    values |= dict.fromkeys(_ZERO, literal_column("0")) | {"sent": false(), "outcome_unknown": false()}
    values |= {"phase": sql_literal(Phase.SUBMIT)}
    values |= {"requested_at": now_ms(), "state_since": now_ms(), "deadline_at": now_ms() + given["time_allowed_ms"]}
    values |= state
    # SQLite needs a WHERE here, or it reads ON CONFLICT as the ON of a join.
    rows = select(*values.values()).where(true())
    insert = (sqlite if dialect == "sqlite" else postgresql).insert(operations).from_select(list(values), rows)
    return insert.on_conflict_do_nothing(index_elements=["key"]).returning(c.id, c.key, c.state_since)


def _sqlite_rows() -> Mapping[str, ColumnElement[Any]]:
    rows = func.json_each(bindparam("rows", type_=Text)).table_valued("value")
    return {name: func.json_extract(rows.c.value, literal_column(f"'$.{name}'")) for name in _GIVEN}


def _postgresql_rows() -> Mapping[str, ColumnElement[Any]]:
    columns = [column(name, c[name].type) for name in _GIVEN]
    rows = func.json_to_recordset(cast(bindparam("rows", type_=Text), JSON)).table_valued(*columns)
    return dict(rows.render_derived(with_types=True).c)


_DIALECTS = ("sqlite", "postgresql")
_QUEUE = {dialect: _insert(dialect, state=sql_literal(State.QUEUED), due_at=now_ms()) for dialect in _DIALECTS}
_FAILED: dict[str, ColumnElement[Any]] = {
    "state": sql_literal(State.FAILED),
    "failure_reason": sql_literal(FailureReason.BAD_PAYLOAD),
    "ended_at": now_ms(),
}
_FAIL = {dialect: _insert(dialect, **_FAILED) for dialect in _DIALECTS}

_EXISTING = select(c.id, c.key, c.kind, c.state, c.payload).where(in_list(operations.c.key, "keys"))

# A cycle through recorded operations needs one that waits for a new one.
_WAITED_FOR = select(c.id).where(in_list(c.parent, "keys"), c.due_at.is_not(None)).limit(1)
_PARENT_OF = select(c.parent).where(c.key == bindparam("wanted"))


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


def check_recordable(new: New) -> None:
    """Raise `BadPayload` if this operation could never be recorded, whatever the ledger holds."""
    _given(new, by="")


def fail_message(ledger: Ledger, message_id: str, task: str, problem: str, by: str, raw: str) -> Recorded:
    """Store a message that could not be recorded as a failed operation `message:<id>`. The same id is stored once."""
    payload = {"task": _printable(task), "message": raw[: PAYLOAD_LIMIT // 8]}
    new = New(MESSAGE_KIND, _printable(f"message:{message_id}"), payload, lane="default")
    row = _given(new, by) | {"result": _encode({"error": problem})}
    with ledger.writing() as connection:
        stored = connection.execute(_FAIL[connection.dialect.name], {"rows": _batch([row])}).first()
        if stored is not None:
            ended(connection, [Ended(stored.id, new.key, None, State.FAILED)], stored.state_since)
            return Recorded(stored.id, new.key, State.FAILED, created=True)
        existing = connection.execute(_EXISTING, {"keys": [new.key]}).one()
        return Recorded(existing.id, existing.key, State(existing.state), created=False)


def _record(connection: Connection, rows: list[dict[str, Any]]) -> list[Recorded]:
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        earlier = first.setdefault(row["key"], row)
        if earlier is not row:
            _check_same(earlier, row)
    _check_no_cycle(connection, {key: row["parent"] for key, row in first.items() if row["parent"]})
    found: dict[str, Recorded] = {}
    # The loop runs a second time only if a key's operation is purged between the two statements.
    while missing := [row for key, row in first.items() if key not in found]:
        for id_, key, _ in connection.execute(_QUEUE[connection.dialect.name], {"rows": _batch(missing)}):
            found[key] = Recorded(id_, key, State.QUEUED, created=True)
        if known := [row["key"] for row in missing if row["key"] not in found]:
            for stored in connection.execute(_EXISTING, {"keys": known}).mappings():
                _check_same(stored, first[stored["key"]])
                found[stored["key"]] = Recorded(stored["id"], stored["key"], State(stored["state"]), created=False)
    return [found[row["key"]] for row in rows]


def _check_no_cycle(connection: Connection, parents: dict[str, str]) -> None:
    """Raise `BadPayload` if one of these operations (key -> parent) would wait for itself, through others.

    A cycle that two transactions close at the same moment is not found: its operations wait until their deadlines.
    """
    if not parents:
        return
    is_waited_for = connection.execute(_WAITED_FOR, {"keys": list(parents)}).first() is not None
    for key in parents:
        chain = [key]
        while (parent := parents.get(chain[-1])) or is_waited_for:
            parent = parent or connection.execute(_PARENT_OF, {"wanted": chain[-1]}).scalar()
            if parent == key:
                waits = " waits for ".join([*chain, key])
                raise BadPayload(f"{key}: its parent {parents[key]} makes it wait for itself ({waits}): leave one out")
            if parent is None or parent in chain:
                break
            chain.append(parent)


def _check_same(stored: Any, row: dict[str, Any]) -> None:
    if stored["kind"] != row["kind"] or stored["payload"] != row["payload"]:
        raise PayloadConflict(
            f"{row['key']} exists as {stored['kind']} {stored['payload']}, and was now asked for as {row['kind']}"
            f" {row['payload']}: one key is one operation, give the other a key of its own"
            " (or, if the first was wrong and has failed: b2copy-sync failed correct)"
        )


def _given(new: New, by: str) -> dict[str, Any]:
    for field, value in (("key", new.key), ("entity", new.entity), ("parent", new.parent)):
        if value is not None and not (0 < len(value) <= KEY_LIMIT and value.isprintable()):
            raise BadPayload(f"{field} must be 1 to {KEY_LIMIT} printable characters, and is {value[:KEY_LIMIT]!r}")
    if new.parent == new.key:
        raise BadPayload(f"{new.key} cannot be its own parent")
    return {
        "key": new.key,
        "kind": new.kind,
        "payload": encode_payload(new.key, new.payload),
        "lane": new.lane,
        "entity": new.entity,
        "parent": new.parent,
        "destination": new.destination,
        "on_unknown": new.on_unknown,
        "batch": new.batch,
        "trace_id": new.trace_id,
        "requested_by": _printable(by),
        "time_allowed_ms": None if new.time_allowed_s is None else round(new.time_allowed_s * 1000),
        "result": None,
    }


def encode_payload(key: str, payload: Mapping[str, Any]) -> str:
    """Return a payload as it is stored: equal payloads are equal texts. Raises `BadPayload`."""
    try:
        encoded = _encode(payload)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadPayload(f"{key}: the payload is not JSON: {error}") from None
    if len(encoded) > PAYLOAD_LIMIT:
        raise BadPayload(f"{key}: the payload has {len(encoded)} characters of JSON, {PAYLOAD_LIMIT} are allowed")
    return encoded


def _printable(value: str) -> str:
    value = value[:KEY_LIMIT]
    return value if value.isprintable() else "".join(char if char.isprintable() else "?" for char in value)
