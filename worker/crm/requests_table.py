"""The SQL API: one INSERT into `b2copy_requests`, in the CRM's own transaction, requests an operation.

    INSERT INTO b2copy_requests (kind, payload)
    VALUES ('fees.process', '{"account_login": "123456", "request_id": "W1"}')

The operation is accepted when the CRM's transaction commits. Once a second dispatch turns the rows into operations, in
the order of their ids. A row that cannot become an operation becomes a failed one, `message:request-<id of the row>`
with `bad_payload`, so that people see it and later rows are not blocked.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, LargeBinary, Row, bindparam, cast, delete, func, literal_column, select
from sqlalchemy.exc import DataError, DBAPIError

from worker.errors import BadPayload
from worker.kind import Kind
from worker.ledger import Ledger, fail_message, record
from worker.ledger.schema import in_list, requests
from worker.messages.bad_message_text import PROBLEM_LIMIT, bounded_ascii, short
from worker.operation import New
from worker.queues import REQUEST_LANES
from worker.settings import CrmSettings

log = logging.getLogger(__name__)

BATCH = 500  # rows per transaction
ROW_PAYLOAD_LIMIT = 128 * 1024  # characters (PostgreSQL) or bytes (SQLite), with the blanks that the ledger leaves out
ROW_TEXT_LIMIT = 1_000  # characters or bytes, of any other column
BY = "sql"
"""Who requested an operation if the row does not say it."""

_TEXTS = ("kind", "payload", "lane", "requested_by", "batch", "trace_id")


def _oldest(dialect: str) -> Any:
    """Return the SELECT of the oldest rows, locked, each with the id of the oldest row that anybody sees.

    On SQLite the texts are read as bytes, because the driver raises an error for a text that is not UTF-8, and that
    error would block all rows. No text is read beyond its limit.
    """
    texts = []
    for name in _TEXTS:
        text = cast(requests.c[name], LargeBinary) if dialect == "sqlite" else requests.c[name]
        limit = ROW_PAYLOAD_LIMIT if name == "payload" else ROW_TEXT_LIMIT
        texts.append(func.substr(text, 1, literal_column(str(limit + 1)), type_=text.type).label(name))
    oldest = select(func.min(requests.c.id)).scalar_subquery().label("oldest")
    statement = select(requests.c.id, oldest, *texts).order_by(requests.c.id).limit(bindparam("limit"))
    return statement.with_for_update(skip_locked=True)


_OLDEST = {dialect: _oldest(dialect) for dialect in ("sqlite", "postgresql")}
_DELETE = delete(requests).where(in_list(requests.c.id, "ids"))


def take_requests(ledger: Ledger, kinds: Mapping[str, Kind[Any]], settings: CrmSettings) -> Iterator[Counter[str]]:
    """Turn the rows of `b2copy_requests` into operations. Yields after each batch how many are queued, by lane.

    Each batch is one transaction, which deletes its rows: a row becomes an operation exactly once. Any number of
    processes may do this at once. Raises SQLAlchemy's errors if the database cannot be used; the rows then wait.
    """
    is_last = False
    while not is_last:
        queued, is_last = ledger.write(lambda connection: _take_batch(connection, ledger, kinds, settings))
        yield queued


def _take_batch(
    connection: Connection, ledger: Ledger, kinds: Mapping[str, Kind[Any]], settings: CrmSettings
) -> tuple[Counter[str], bool]:
    rows = connection.execute(_OLDEST[connection.dialect.name], {"limit": BATCH}).all()
    queued: Counter[str] = Counter()
    # If the oldest row is locked, another process is recording it. Leave it the rows behind it too, because operations
    # of one entity must be recorded in order.
    if not rows or rows[0].id > rows[0].oldest:
        return queued, True
    for by, group in groupby(rows, lambda row: _for_people(row, "requested_by") or BY):
        queued += _record(connection, ledger, list(group), by, kinds, settings)
    connection.execute(_DELETE, {"ids": [row.id for row in rows]})
    return queued, len(rows) < BATCH


def _record(
    connection: Connection,
    ledger: Ledger,
    rows: Sequence[Row[Any]],
    by: str,
    kinds: Mapping[str, Kind[Any]],
    settings: CrmSettings,
) -> Counter[str]:
    """Record these rows together. If one of them is refused, record each by itself, in the same order."""
    try:
        with connection.begin_nested():
            news = [_new(row, kinds, settings) for row in rows]
            recorded = record(ledger, news, by, connection)
    except Exception as error:
        _raise_if_unavailable(error)
    else:
        return Counter(new.lane for new, one in zip(news, recorded, strict=True) if one.created)
    queued: Counter[str] = Counter()
    for row in rows:
        try:
            with connection.begin_nested():
                new = _new(row, kinds, settings)
                [one] = record(ledger, [new], by, connection)
        except Exception as error:
            _raise_if_unavailable(error)
            _fail(connection, ledger, row, by, error)
        else:
            queued[new.lane] += one.created
    return queued


def _raise_if_unavailable(error: Exception) -> None:
    """Raise `error` if its cause is not the row: the database is unavailable, or the transaction must be repeated."""
    if isinstance(error, DBAPIError) and not isinstance(error, DataError):
        raise error


def _new(row: Row[Any], kinds: Mapping[str, Kind[Any]], settings: CrmSettings) -> New:
    """Return the operation that a row asks for. Raises `BadPayload`, naming the column."""
    name = _utf8(row, "kind")
    lane, batch, trace_id = (_utf8(row, column) or None for column in ("lane", "batch", "trace_id"))
    kind = kinds.get(name)
    if kind is None:
        raise BadPayload(f"kind: {name[:100]!r} is not a kind: there are {', '.join(sorted(kinds))}")
    if lane is not None and lane not in REQUEST_LANES:
        raise BadPayload(f"lane: {lane[:100]!r} is none of {', '.join(REQUEST_LANES)}")
    new = kind.new(_object(_utf8(row, "payload")), settings)
    return replace(new, lane=lane or new.lane, batch=batch, trace_id=trace_id)


def _utf8(row: Row[Any], column: str) -> str:
    value: str | bytes | None = getattr(row, column)
    try:
        return value.decode() if isinstance(value, bytes) else value or ""
    except UnicodeDecodeError:
        raise BadPayload(f"{column}: is not UTF-8 text") from None


def _object(payload: str) -> dict[str, Any]:
    if len(payload) > ROW_PAYLOAD_LIMIT:
        raise BadPayload(f"payload: has more than {ROW_PAYLOAD_LIMIT} characters")
    try:
        fields = json.loads(payload, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise BadPayload(f"payload: not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BadPayload('payload: must be a JSON object such as {"account_login": "123456", "request_id": "W1"}')
    return fields


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return fields


def _fail(connection: Connection, ledger: Ledger, row: Row[Any], by: str, error: Exception) -> None:
    """Store a row that cannot become an operation as a failed operation, which people see."""
    if isinstance(error, BadPayload):
        log.error("request %s in b2copy_requests cannot be recorded: %s", row.id, error)
    else:
        log.error("request %s in b2copy_requests failed on our side", row.id, exc_info=error)
    task, problem = short(_for_people(row, "kind")), bounded_ascii(str(error), PROBLEM_LIMIT)
    raw = json.dumps({column: bounded_ascii(text) for column in _TEXTS if (text := _for_people(row, column))})
    name = f"request-{row.id}"
    stored = fail_message(ledger, name, task, problem, by, raw, connection)
    if not stored.created:  # the table has been emptied, and its ids begin again
        digest = hashlib.sha256(f"{stored.id} {raw}".encode()).hexdigest()[:16]
        fail_message(ledger, f"{name}:{digest}", task, problem, by, raw, connection)


def _for_people(row: Row[Any], column: str) -> str:
    """Return the text of a column. Bytes that are not UTF-8 are escaped."""
    try:
        return _utf8(row, column)
    except BadPayload:
        return bounded_ascii(getattr(row, column))
