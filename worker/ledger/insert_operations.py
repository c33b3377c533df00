"""The INSERT of operations: any number of rows in one statement, with the defaults of a new operation.

The rows are one JSON parameter. What all of them share, as the rows of an import do, are parameters of their own: to
read a value from JSON costs SQLite nearly as much as to store it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from json.encoder import encode_basestring_ascii
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    CursorResult,
    FromClause,
    Text,
    bindparam,
    cast,
    false,
    func,
    literal_column,
    select,
    true,
)

from worker.errors import BadPayload
from worker.ledger.prepared_statements import Prepared
from worker.ledger.schema import c, insert_into, now_ms, operations, sql_literal
from worker.operation import FailureReason, New, Phase, State
from worker.storable import is_unicode, storable_json
from worker.watch.redact import reads_like_secret, redacted_value

KEY_LIMIT = 255  # characters: well within what an index of either database takes
PAYLOAD_LIMIT = 64 * 1024  # characters

_encode_values = json.JSONEncoder(separators=(",", ":")).encode


def _encoder() -> Callable[[Any], str]:
    """Return what writes canonical JSON: sorted names, no blanks, ASCII, no NaN.

    Each call of `JSONEncoder.encode` makes a new C encoder, which takes as long as to encode a payload.
    """
    options = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
    make: Any = getattr(json.encoder, "c_make_encoder", None)  # absent where Python has no C accelerator
    if make is None:
        return options.encode
    chunks = make(None, options.default, encode_basestring_ascii, None, ":", ",", True, False, False)
    return lambda value: "".join(chunks(value, 0))


encode = _encoder()


class NewRow(NamedTuple):
    """An operation to record, checked and encoded: `row_of` makes it. In an import all but the first `_OWN` are equal.

    `payload` is canonical JSON: equal payloads are equal texts. `requested_at` is None if that is now.
    """

    key: str
    payload: str
    entity: str | None
    parent: str | None
    trace_id: str | None
    requested_at: int | None
    kind: str
    lane: str
    destination: str
    on_unknown: str
    batch: str | None
    requested_by: str
    time_allowed_ms: int | None
    result: str | None = None


_OWN, _ALL = 6, len(NewRow._fields)
_shared_values = itemgetter(slice(_OWN, None))
_ZERO = ("fence", "counted_attempts", "polls", "replays", "last_wait_ms", "external_wait_ms")
_STATES: dict[State, dict[str, ColumnElement[Any]]] = {
    State.QUEUED: {"due_at": now_ms()},
    State.FAILED: {"failure_reason": sql_literal(FailureReason.BAD_PAYLOAD), "ended_at": now_ms()},
}


@cache
def _insert(dialect: str, state: State, own: int) -> Prepared:
    """Return the INSERT of rows that share all values but their first `own`."""
    given, source = (_sqlite_rows if dialect == "sqlite" else _postgresql_rows)(NewRow._fields[:own])
    given |= {name: bindparam(name, type_=c[name].type) for name in NewRow._fields[own:]}
    values: dict[str, ColumnElement[Any]] = {name: value.label(name) for name, value in given.items()}
    values |= dict.fromkeys(_ZERO, literal_column("0")) | {"sent": false(), "outcome_unknown": false()}
    # The time allowed begins with the request, which may have waited to be recorded. It is never in the future.
    earlier = func.min if dialect == "sqlite" else func.least
    requested_at = earlier(func.coalesce(given["requested_at"], now_ms()), now_ms())
    values |= {"requested_at": requested_at, "deadline_at": requested_at + given["time_allowed_ms"]}
    values |= {"phase": sql_literal(Phase.SUBMIT), "state": sql_literal(state), "state_since": now_ms()}
    values |= _STATES[state]
    # SQLite needs a WHERE here, or it reads ON CONFLICT as the ON of a join.
    rows = select(*values.values()).select_from(source).where(true())
    insert = insert_into(operations, dialect).from_select(list(values), rows)
    return Prepared(insert.on_conflict_do_nothing(index_elements=["key"]).returning(c.id, c.key, c.state_since))


def _sqlite_rows(names: Sequence[str]) -> tuple[dict[str, ColumnElement[Any]], FromClause]:
    """Return the rows' own values, from one JSON array with an array for each row."""
    rows = func.json_each(bindparam("rows", type_=Text)).table_valued("value")
    own: dict[str, ColumnElement[Any]] = {}
    for index, name in enumerate(names):
        own[name] = func.json_extract(rows.c.value, literal_column(f"'$[{index}]'"))
    return own, rows


def _postgresql_rows(names: Sequence[str]) -> tuple[dict[str, ColumnElement[Any]], FromClause]:
    """Return the rows' own values, from a JSON array for each column: half of what an object for each row costs."""
    texts = {name: func.json_array_elements_text(cast(bindparam(name, type_=Text), JSON)) for name in names}
    rows = select(*[cast(text, c[name].type).label(name) for name, text in texts.items()]).subquery()
    return dict(rows.c), rows


def insert_queued(connection: Connection, rows: Sequence[NewRow]) -> Sequence[Any]:
    """Insert operations that are due now. Returns id, key and state_since of those whose key did not exist."""
    return _insert_rows(connection, State.QUEUED, rows).all()


def insert_failed(connection: Connection, row: NewRow) -> Any | None:
    """Insert an operation that has failed as `bad_payload`. Returns None if its key existed."""
    return _insert_rows(connection, State.FAILED, [row]).first()


def _insert_rows(connection: Connection, state: State, rows: Sequence[NewRow]) -> CursorResult[Any]:
    dialect = connection.dialect.name
    shared = _shared_values(rows[0])
    own = _OWN if all(_shared_values(row) == shared for row in rows) else _ALL
    values = [row[:own] for row in rows]
    names = NewRow._fields[:own]
    given = {"rows": values} if dialect == "sqlite" else dict(zip(names, zip(*values, strict=True), strict=True))
    parameters = {name: _encode_values(value) for name, value in given.items()}
    if own == _OWN:
        parameters |= dict(zip(NewRow._fields[own:], shared, strict=True))
    return _insert(dialect, state, own).run(connection, **parameters)


def row_of(new: New, by: str, lane: str | None = None, batch: str | None = None) -> NewRow:
    """Return the row of a new operation. `by` says who asks. Raises `BadPayload` if no ledger can record it.

    `lane` and `batch` replace the operation's own.
    """
    key, parent, batch = new.key, new.parent, new.batch if batch is None else batch
    names = (key, new.entity, parent, batch, new.trace_id)
    for value in names:
        if value is not None and not (isinstance(value, str) and 0 < len(value) <= KEY_LIMIT and value.isprintable()):
            name = ("key", "entity", "parent", "batch", "trace_id")[names.index(value)]
            shown = value[:KEY_LIMIT] if isinstance(value, str) else value
            raise BadPayload(f"{name} must be 1 to {KEY_LIMIT} printable characters, and is {shown!r}")
    for name, value in zip(("key", "entity", "parent", "batch"), names, strict=False):
        if value is not None and reads_like_secret(value):
            raise BadPayload(f"{name} reads like a secret, which logs and pages blank: choose another word: {value!r}")
    if not isinstance(by, str):
        raise BadPayload(f"by must be the name of who asks, as text, and is {by!r}")
    if parent == key:
        raise BadPayload(f"{key} cannot be its own parent")
    allowed_ms = None if new.time_allowed_s is None else round(new.time_allowed_s * 1000)
    return NewRow(  # by position, which takes half as long: an import makes a million of them
        key, encode_payload(key, new.payload), new.entity, parent, new.trace_id, new.requested_at,
        new.kind, lane or new.lane, new.destination, str(new.on_unknown), batch, printable(by), allowed_ms,
    )  # fmt: skip


def encode_payload(key: str, payload: Mapping[str, Any]) -> str:
    """Return a payload as it is stored: equal payloads are equal texts. Raises `BadPayload`."""
    try:
        encoded = encode(payload)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadPayload(f"{key}: the payload is not JSON: {error}") from None
    if len(encoded) > PAYLOAD_LIMIT:
        raise BadPayload(f"{key}: the payload has {len(encoded)} characters of JSON, {PAYLOAD_LIMIT} are allowed")
    if "\\ud" in encoded and not is_unicode(payload):
        raise BadPayload(f"{key}: the payload holds half of a surrogate pair, which is no text and cannot be sent")
    return encoded


def decode_payload(text: str) -> dict[str, Any]:
    """Return a stored payload; empty if somebody else wrote a row whose payload is no JSON object."""
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return payload if isinstance(payload, dict) else {}


def encode_result(result: Mapping[str, Any] | None) -> str | None:
    """Return a result as it is stored: without secrets, and with texts that both databases take."""
    return None if result is None else json.dumps(redacted_value(storable_json(dict(result))))


def plain(value: str) -> str:
    """Return the same text as a `str`, if it is an instance of a derived class such as Django's SafeString."""
    return str.__getitem__(value, slice(None))


def printable(value: str) -> str:
    """Return a text as a key or a name may be: bounded, with a question mark for what cannot be printed."""
    value = plain(value)[:KEY_LIMIT]
    return value if value.isprintable() else "".join(char if char.isprintable() else "?" for char in value)
