"""The INSERT of operations: any number of rows in one statement, with the defaults of a new operation."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Row,
    Text,
    bindparam,
    case,
    cast,
    column,
    false,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite

from worker.errors import BadPayload
from worker.ledger.schema import c, now_ms, operations, sql_literal
from worker.operation import FailureReason, New, Phase, State
from worker.storable import storable_json
from worker.watch.redact import redacted_value

KEY_LIMIT = 255  # characters: well within what an index of either database takes
PAYLOAD_LIMIT = 64 * 1024  # characters

encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
_encode_rows = json.JSONEncoder(separators=(",", ":")).encode

_GIVEN = (
    "key", "kind", "payload", "lane", "entity", "parent", "destination", "on_unknown", "batch", "trace_id",
    "requested_at", "requested_by", "time_allowed_ms", "result",
)  # fmt: skip
_ZERO = ("fence", "counted_attempts", "polls", "replays", "last_wait_ms", "external_wait_ms")


def _insert(dialect: str, **state: ColumnElement[Any]) -> Any:
    """Return an INSERT of any number of rows in one JSON parameter. The database parses it: that costs 3 us a row."""
    given = _sqlite_rows() if dialect == "sqlite" else _postgresql_rows()
    values: dict[str, ColumnElement[Any]] = {name: given[name].label(name) for name in _GIVEN}
    values |= dict.fromkeys(_ZERO, literal_column("0")) | {"sent": false(), "outcome_unknown": false()}
    values |= {"phase": sql_literal(Phase.SUBMIT)}
    # The time allowed begins with the request, which may have waited to be recorded. It is never in the future.
    requested_at = case((given["requested_at"] < now_ms(), given["requested_at"]), else_=now_ms())
    values |= {"requested_at": requested_at, "state_since": now_ms()}
    values |= {"deadline_at": requested_at + given["time_allowed_ms"]}
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


def insert_queued(connection: Connection, rows: list[dict[str, Any]]) -> Sequence[Any]:
    """Insert operations that are due now. Returns id, key and state_since of those whose key did not exist."""
    return connection.execute(_QUEUE[connection.dialect.name], {"rows": _encode_rows(rows)}).all()


def insert_failed(connection: Connection, row: dict[str, Any]) -> Row[Any] | None:
    """Insert an operation that has failed as `bad_payload`. Returns None if its key existed."""
    return connection.execute(_FAIL[connection.dialect.name], {"rows": _encode_rows([row])}).first()


def row_of(new: New, by: str) -> dict[str, Any]:
    """Return the row of a new operation. `by` says who asks. Raises `BadPayload`."""
    for field in ("key", "entity", "parent", "batch", "trace_id"):
        value: str | None = getattr(new, field)
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
        "requested_at": new.requested_at,
        "requested_by": printable(by),
        "time_allowed_ms": None if new.time_allowed_s is None else round(new.time_allowed_s * 1000),
        "result": None,
    }


def encode_payload(key: str, payload: Mapping[str, Any]) -> str:
    """Return a payload as it is stored: equal payloads are equal texts. Raises `BadPayload`."""
    try:
        encoded = encode(payload)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadPayload(f"{key}: the payload is not JSON: {error}") from None
    if len(encoded) > PAYLOAD_LIMIT:
        raise BadPayload(f"{key}: the payload has {len(encoded)} characters of JSON, {PAYLOAD_LIMIT} are allowed")
    return encoded


def encode_result(result: Mapping[str, Any] | None) -> str | None:
    """Return a result as it is stored: without secrets, and with texts that both databases take."""
    return None if result is None else json.dumps(redacted_value(storable_json(dict(result))))


def printable(value: str) -> str:
    """Return a text as a key or a name may be: bounded, with a question mark for what cannot be printed."""
    value = value[:KEY_LIMIT]
    return value if value.isprintable() else "".join(char if char.isprintable() else "?" for char in value)
