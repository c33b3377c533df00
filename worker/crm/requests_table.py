"""The SQL API: one INSERT into `b2copy_requests`, in the CRM's own transaction, requests an operation.

    INSERT INTO b2copy_requests (kind, payload)
    VALUES ('fees.process', '{"account_login": "123456", "request_id": "W1"}')

The operation is accepted when the CRM's transaction commits. Each dispatch, four times a second, turns the rows into
operations, in the order of their ids; but in a backlog, what moves money comes first. A row that cannot become an
operation becomes a failed one, `message:request-<id of the row>` with `bad_payload`, so that people see it and later
rows are not blocked.
"""

import hashlib
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from sqlalchemy import (
    Connection,
    LargeBinary,
    Row,
    Text,
    bindparam,
    cast,
    delete,
    func,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.exc import DataError, DBAPIError

from worker import exact_json
from worker.errors import BadPayload, NotAllowed, PathNotListed, PayloadConflict
from worker.ledger import DATABASE_UNAVAILABLE_ERRORS, Ledger, fail_message, record
from worker.ledger.database import is_retried
from worker.ledger.engine import is_lock_timeout, limit_lock_waits
from worker.ledger.insert_operations import printable
from worker.ledger.schema import WAITS_FOR_US, in_list, now_ms, requests
from worker.messages.bad_message_text import PROBLEM_LIMIT, bounded_ascii, short
from worker.operation import MESSAGE_SENDER, New
from worker.operation_kind import Kind
from worker.queues import MONEY, REQUEST_LANES
from worker.settings import CrmSettings

log = logging.getLogger(__name__)

BATCH = 500  # rows per transaction
FIRST_ID = -(2**63)  # a CRM may give any id, also 0
ROW_PAYLOAD_LIMIT = 128 * 1024  # characters (PostgreSQL) or bytes (SQLite), with the blanks that the ledger leaves out
ROW_TEXT_LIMIT = 1_000  # characters or bytes, of any other column
LOCK_WAIT_MS = 500  # ms that a batch waits for an open transaction that records the same key
LOCK_WAIT_ALONE_MS = 20  # ms that each row waits after that, when it is recorded alone
OTHER_WORKER_WAIT_S = 300.0  # seconds that a row waits for a worker that knows its kind, or lists a call's path
OTHERS_FIRST_S = 30.0  # seconds after it left a row for which a process lets others dispatch first
LOCKED_LONG_S = 5.0  # seconds for which one transaction has locked a row, until that is logged
SEEN_MAX = 100_000  # rows; later ones wait until this process has forgotten some of these
MESSAGE_WAIT_MS = 24 * 3_600_000  # ms; a row that was a message and meets an error of ours is failed after that
WAITS_FOR_US_S = 24 * 3600.0  # seconds that a row waits for a worker that has met an error of ours with it
BY = "sql"
"""Who requested an operation, followed by the name that the row gives."""

_logged: set[str] = set()  # faults of our own that this process has logged
_first_seen: dict[tuple[int, Any, bool], float] = {}
"""Id and `requested_at` of each row that waits for another worker, and whether that one has met an error of ours with
it -> when this process saw that first (monotonic)."""
_left_at = -math.inf  # monotonic seconds; when this process last left a row for another worker
_locked: dict[tuple[int, str], float] = {}
"""The first row that somebody has locked, and the transaction -> since when (monotonic); infinite once it is logged."""

_TEXTS = ("kind", "payload", "lane", "requested_by", "batch", "trace_id")


def _oldest(dialect: str, moves_money: bool) -> Any:
    """Return the SELECT of the oldest rows, locked. `place` is 1 for the oldest row that anybody sees, then 2, 3, ...

    `moves_money`: only of those whose kind is one of `money_kinds` and that no CRM has put into another lane.

    On SQLite the texts are read as bytes, because the driver raises an error for a text that is not UTF-8, and that
    error would block all rows. No text is read beyond its limit.
    """
    texts = []
    for name in _TEXTS:
        column = cast(requests.c[name], LargeBinary) if dialect == "sqlite" else requests.c[name]
        limit = ROW_PAYLOAD_LIMIT if name == "payload" else ROW_TEXT_LIMIT
        texts.append(func.substr(column, 1, literal_column(str(limit + 1)), type_=column.type).label(name))
    place = func.row_number().over(order_by=requests.c.id).label("place")
    left = select(requests.c.id, place).where(requests.c.id > bindparam("after"))
    if moves_money:
        left = left.where(in_list(requests.c.kind, "money_kinds"), func.coalesce(requests.c.lane, "").in_(("", MONEY)))
    oldest = left.order_by(requests.c.id).limit(bindparam("limit")).subquery("oldest")
    columns = (requests.c.id, requests.c.requested_at, requests.c.left_because, now_ms().label("now"), oldest.c.place)
    statement = select(*columns, *texts).join(oldest, oldest.c.id == requests.c.id).order_by(oldest.c.place)
    return statement.with_for_update(of=requests, skip_locked=True)


_OLDEST = {
    (dialect, moves_money): _oldest(dialect, moves_money)
    for dialect in ("sqlite", "postgresql")
    for moves_money in (False, True)
}
_DELETE = delete(requests).where(in_list(requests.c.id, "ids"))
_LEAVE = update(requests).where(requests.c.id == bindparam("row")).values(left_because=bindparam("reason"))
# PostgreSQL alone has locks of rows. `xmax` is the transaction that locks a row, or one that has ended.
_NEXT = (
    select(requests.c.id, literal_column("b2copy_requests.xmax::text", Text).label("locked_by"))
    .where(requests.c.id > bindparam("after"))
    .order_by(requests.c.id)
    .limit(1)
)
_HOLDER = text(
    "SELECT pg_locks.pid, usename FROM pg_locks LEFT JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'transactionid' AND granted AND transactionid::text = :locked_by"
)


def take_requests(
    ledger: Ledger,
    kinds: Mapping[str, Kind[Any]],
    settings: CrmSettings,
    for_s: float = math.inf,
    may_leave: bool = True,
) -> Iterator[Counter[str]]:
    """Turn the rows of `b2copy_requests` into operations. Yields after each batch how many are queued, by lane.

    Each batch is one transaction, which deletes its rows: a row becomes an operation exactly once. Any number of
    processes may do this in parallel. Raises SQLAlchemy's errors if the database cannot be used; the rows then wait.

    If the first batch leaves rows, those that move money come next, so that no backfill stands in front of them. A row
    with an entity does not come earlier for that, because earlier rows of its entity may be left.

    Stops after about `for_s` seconds, so that a dispatch can do its other work; the next one takes the rest. Batches of
    which a row stays do not count, or rows that stay could use up the time of every dispatch.

    A row stays for the next call if the trouble is ours (an error of this code), if a transaction that has not ended
    holds its key, or for five minutes after this process first saw it if another worker may know its kind or list its
    path. So do later rows of its entity, if that is known. If the other worker meets an error of ours with the row, the
    row stays for a day. A row that was a message stays for a day at most: anybody who may publish could
    have made it so that this code fails. Without `may_leave` no row is left for another worker: it becomes a failed
    operation at once.
    """
    _forget_old_rows()
    left: dict[bool, int | None] = {False: FIRST_ID, True: FIRST_ID}  # moves money -> the id behind which rows are left
    held: frozenset[str] = frozenset()
    spent_s = 0.0
    moves_money = False
    while (after := left[moves_money]) is not None:
        began = time.monotonic()
        batch = _Batch(ledger, kinds, settings, held, moves_money, may_leave)
        left[moves_money] = ledger.write(partial(batch.take, after=after))
        held = frozenset(batch.held)
        spent_s += time.monotonic() - began if batch.is_done else 0.0
        yield batch.queued
        has_looked_for_money = left[True] != FIRST_ID
        if left[False] is None or (spent_s > for_s and has_looked_for_money):
            return
        moves_money = left[True] is not None


class _Batch:
    """The rows of one transaction. `held`: the entities of rows that stay for the next call.

    `moves_money`: take only rows that move money and have no entity. `is_done`: it had rows, and none stays.
    `may_leave`: see `take_requests`. `_left`: the rows that this transaction is the first to leave for another worker,
    with the reasons.
    """

    def __init__(
        self,
        ledger: Ledger,
        kinds: Mapping[str, Kind[Any]],
        settings: CrmSettings,
        held: frozenset[str],
        moves_money: bool,
        may_leave: bool,
    ) -> None:
        self._ledger, self._kinds, self._settings, self._held_before = ledger, kinds, settings, held
        self._moves_money, self._may_leave = moves_money, may_leave
        self.held = set(held)
        self.queued: Counter[str] = Counter()
        self.is_done = False
        self._left: list[dict[str, Any]] = []

    def take(self, connection: Connection, after: int) -> int | None:
        """Record the rows behind `after`. Returns the id behind which others are left, or None."""
        self.held, self.queued, self._left = set(self._held_before), Counter(), []  # the transaction may be repeated
        limit_lock_waits(connection, LOCK_WAIT_MS)
        wanted: dict[str, Any] = {"limit": BATCH, "after": after}
        if self._moves_money:
            wanted["money_kinds"] = [kind.name for kind in self._kinds.values() if kind.moves_money]
        found = connection.execute(_OLDEST[connection.dialect.name, self._moves_money], wanted).all()
        # If a row is missing, it is locked: another process is recording it. Leave it the rows behind it too, because
        # operations of one entity must be recorded in order.
        rows = [row for place, row in enumerate(found, 1) if row.place == place]
        taken: list[int] = []
        for by, group in groupby(rows, _by):
            taken += self._record(connection, list(group), by)
        if taken:
            connection.execute(_DELETE, {"ids": taken})
        if self._left:
            connection.execute(_LEAVE, self._left)
        self.is_done = 0 < len(taken) == len(rows)
        if connection.dialect.name == "postgresql" and len(rows) < BATCH and not self._moves_money:
            _log_lock(connection, rows[-1].id if rows else after)
        return rows[-1].id if len(rows) == BATCH else None

    def _record(self, connection: Connection, rows: Sequence[Row[Any]], by: str) -> list[int]:
        """Record these rows together, or, if one of them cannot be, each by itself in the same order.

        Returns the ids of the rows that are done.
        """
        try:
            with connection.begin_nested():
                news = [_new(row, self._kinds, self._settings, self._may_leave) for row in rows]
                if not any(map(self._must_stay, news)):
                    recorded = record(self._ledger, news, by, connection)
                    self.queued += Counter(new.lane for new, one in zip(news, recorded, strict=True) if one.created)
                    return [row.id for row in rows]
        except Exception as error:
            _raise_if_unavailable(error)
            limit_lock_waits(connection, LOCK_WAIT_ALONE_MS)
        return [row.id for row in rows if self._record_alone(connection, row, by)]

    def _record_alone(self, connection: Connection, row: Row[Any], by: str) -> bool:
        """Record one row, or store it as a failed operation. Returns False if it stays."""
        new: New | None = None
        try:
            with connection.begin_nested():
                new = _new(row, self._kinds, self._settings, self._may_leave)
                if self._must_stay(new):
                    return False
                [one] = record(self._ledger, [new], by, connection)
        except (BadPayload, NotAllowed, DataError) as error:
            problem = error.summary if isinstance(error, PayloadConflict) else str(error)
            return self._fail(connection, row, by, problem)
        except _ForAnotherWorker as error:
            if row.left_because != WAITS_FOR_US:  # otherwise the other worker has seen the row
                _note_left()
            _log_once(row, error)
            if row.left_because is None:
                self._left.append({"row": row.id, "reason": bounded_ascii(str(error), PROBLEM_LIMIT)})
            if error.entity:
                self.held.add(error.entity)
            return False
        except Exception as error:
            _raise_if_unavailable(error)
            _log_once(row, error)
            if _is_message_that_waited_long(row):
                return self._fail(connection, row, by, f"an error on our side for a day: {type(error).__name__}")
            if row.left_because:  # another worker left it, and now it waits for us
                self._left.append({"row": row.id, "reason": WAITS_FOR_US})
            if new is not None and new.entity:
                self.held.add(new.entity)
            return False
        else:
            self.queued[new.lane] += one.created
        return True

    def _must_stay(self, new: New) -> bool:
        """Return whether an earlier row of the entity may be left: this row must not become an operation before it."""
        return new.entity is not None and (self._moves_money or new.entity in self.held)

    def _fail(self, connection: Connection, row: Row[Any], by: str, problem: str) -> bool:
        """Store one row as a failed operation. Returns False if it stays."""
        try:
            with connection.begin_nested():
                _store_failed(connection, self._ledger, row, by, problem)
        except Exception as error:
            _raise_if_unavailable(error)
            _log_once(row, error)
            return False
        return True


def _by(row: Row[Any]) -> str:
    """Return who requested an operation. The name is a claim: anybody who may insert rows can write any name."""
    name = _for_people(row, "requested_by")
    return f"{BY}: {name}" if name else BY


def _raise_if_unavailable(error: Exception) -> None:
    """Raise `error` if its cause is not the row: the database is unavailable, or the transaction must be repeated."""
    is_conflict = isinstance(error, DBAPIError) and is_retried(error)
    if is_conflict or (isinstance(error, DATABASE_UNAVAILABLE_ERRORS) and not is_lock_timeout(error)):
        raise error


def _is_message_that_waited_long(row: Row[Any]) -> bool:
    requested_at = _requested_at(row)
    is_message = _for_people(row, "requested_by").startswith(MESSAGE_SENDER)
    return is_message and requested_at is not None and row.now - requested_at > MESSAGE_WAIT_MS


def _log_once(row: Row[Any], error: Exception) -> None:
    """Log why a row stays, once in this process for each kind of trouble: every dispatch tries the row again."""
    what = str(error) if isinstance(error, _ForAnotherWorker) else type(error).__name__
    trouble = f"{_for_people(row, 'kind')[:100]}: {what}"
    if trouble not in _logged:
        _logged.add(trouble)
        why = "a transaction that has not ended holds its key" if is_lock_timeout(error) else trouble
        cause = None if is_lock_timeout(error) or isinstance(error, _ForAnotherWorker) else error
        log.error("request %s in b2copy_requests waits, as may others: %s", row.id, why, exc_info=cause)


def _log_lock(connection: Connection, after: int) -> None:
    """Log once that a transaction has locked the first row behind `after` for `LOCKED_LONG_S`.

    A worker that records a row locks it, too, but not for so long.
    """
    holder = None
    if (row := connection.execute(_NEXT, {"after": after}).first()) is not None:
        holder = connection.execute(_HOLDER, {"locked_by": row.locked_by}).first()
    if row is None or holder is None:  # it may have been inserted just now
        _locked.clear()
        return
    now = time.monotonic()
    since = _locked.get((row.id, row.locked_by), now)
    is_long = now - since >= LOCKED_LONG_S
    if is_long:
        log.error(
            "request %s in b2copy_requests waits, and so do all rows behind it: a transaction that has not ended locks"
            " it for %.0f s now (PostgreSQL process %s, user %s)",
            row.id, now - since, holder.pid, holder.usename,
        )  # fmt: skip
    _locked.clear()
    _locked[row.id, row.locked_by] = math.inf if is_long else since


def _may_wait(row: Row[Any]) -> bool:
    """Return whether another worker may still take the row: this process first saw it less than five minutes ago.

    Or less than a day ago, if the other worker has met an error of ours with it (`WAITS_FOR_US`) and will take it once
    that is corrected.

    `requested_at` does not say that. All workers may have been down since then, and the CRM's transaction may have
    committed only now.
    """
    waits_for_us = row.left_because == WAITS_FOR_US
    if waits_for_us and _is_message_that_waited_long(row):
        return False
    now = time.monotonic()
    key = (row.id, row.requested_at, waits_for_us)  # the ids begin again if the table is emptied
    seen = _first_seen.get(key, now) if len(_first_seen) >= SEEN_MAX else _first_seen.setdefault(key, now)
    return now - seen < _longest_wait_s(waits_for_us)


def _longest_wait_s(waits_for_us: bool) -> float:
    return WAITS_FOR_US_S if waits_for_us else OTHER_WORKER_WAIT_S


def _forget_old_rows() -> None:
    """Forget the rows that were refused or taken. If this process has not come back to one of them, it waits again."""
    now = time.monotonic()
    for key, seen in list(_first_seen.items()):
        if now - seen > 2 * _longest_wait_s(key[2]):
            _first_seen.pop(key, None)


def lets_others_dispatch_first() -> bool:
    """Return whether this process has left a row for another worker less than `OTHERS_FIRST_S` ago.

    Only one process of the fleet dispatches at a time. It may be this one each time, as long as all timers keep their
    pace. So it must dispatch less often than the others, or the worker for which it left the row never sees the row.
    """
    return time.monotonic() - _left_at < OTHERS_FIRST_S


def _note_left() -> None:
    global _left_at
    _left_at = time.monotonic()


class _ForAnotherWorker(Exception):
    """This worker does not know the row's kind, or does not list its path, and another worker may. So the row waits.

    `entity`: the row's, if it is known.
    """

    def __init__(self, problem: str, entity: str | None = None) -> None:
        super().__init__(problem)
        self.entity = entity


def _new(row: Row[Any], kinds: Mapping[str, Kind[Any]], settings: CrmSettings, may_leave: bool) -> New:
    """Return the operation that a row asks for. Raises `BadPayload`, naming the column, and `_ForAnotherWorker`."""
    name = _utf8(row, "kind")
    lane, batch, trace_id = (_utf8(row, column) or None for column in ("lane", "batch", "trace_id"))
    kind = kinds.get(name)
    if kind is None:
        if may_leave and _may_wait(row):
            raise _ForAnotherWorker(f"{name[:100]!r} is no kind that this version knows")
        raise BadPayload(f"kind: {name[:100]!r} is not a kind: there are {', '.join(sorted(kinds))}")
    if lane is not None and lane not in REQUEST_LANES:
        raise BadPayload(f"lane: {lane[:100]!r} is none of {', '.join(REQUEST_LANES)}")
    try:
        new = kind.new(_object(_utf8(row, "payload")), settings)
    except PathNotListed as error:
        if may_leave and _may_wait(row):
            raise _ForAnotherWorker(str(error), error.entity) from None
        raise
    return new._replace(lane=lane or new.lane, batch=batch, trace_id=trace_id, requested_at=_requested_at(row))


def _requested_at(row: Row[Any]) -> int | None:
    """Return the instant of the request, or None if the row's column holds none (SQLite takes any value)."""
    at = row.requested_at
    return at if isinstance(at, int) and 0 < at <= row.now else None


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
        fields = exact_json.loads(payload)
    except ValueError as error:
        raise BadPayload(f"payload: not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BadPayload('payload: must be a JSON object such as {"account_login": "123456", "request_id": "W1"}')
    return fields


def _store_failed(connection: Connection, ledger: Ledger, row: Row[Any], by: str, problem: str) -> None:
    """Store a row that cannot become an operation as a failed one. People see it, and it holds no other row up."""
    fields: dict[str, Any] = {name: printable(_for_people(row, name)) or None for name in ("batch", "trace_id")}
    fields["requested_at"] = _requested_at(row)
    task, problem = short(_for_people(row, "kind")), bounded_ascii(problem, PROBLEM_LIMIT)
    log.error("request %s in b2copy_requests cannot be recorded: %s", row.id, problem)
    raw = json.dumps({column: bounded_ascii(value) for column in _TEXTS if (value := _for_people(row, column))})
    name = f"request-{row.id}"
    stored = fail_message(ledger, name, task, problem, by, raw, connection, **fields)
    if not stored.created:  # the table has been emptied, and its ids begin again
        digest = hashlib.sha256(f"{stored.id} {raw}".encode()).hexdigest()[:16]
        fail_message(ledger, f"{name}:{digest}", task, problem, by, raw, connection, **fields)


def _for_people(row: Row[Any], column: str) -> str:
    """Return the text of a column. Bytes that are not UTF-8 are escaped."""
    try:
        return _utf8(row, column)
    except BadPayload:
        return bounded_ascii(getattr(row, column))
