"""Lists of operations for people: filtered, page by page, at a cost that does not grow with the ledger.

A filter may match few of a million operations, and no index serves every filter. So a list first takes a bounded
window through an index, at most `WINDOW` operations, and filters inside it:

    open states       the operations of each lane and phase that are due first
    one wait reason   operations that wait for this reason, in no certain order
    failed            the newest failed operations
    a batch           the newest operations of the batch
    anything else     the newest operations

A page says where the next page begins, even if the window held no match.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, FromClause, Select, func, literal_column, select, union_all

from worker.ledger.database import Ledger
from worker.ledger.insert_operations import encode
from worker.ledger.overview import our_age_ms
from worker.ledger.queries import BY_IDS, operation_of
from worker.ledger.schema import c, now_ms, sql_literal
from worker.operation import Operation, Phase, State
from worker.queues import LANES

WINDOW = 5_000  # operations that one page searches; for open operations, in each lane and phase
PAGE = 50  # operations on one page
_COLUMNS = (c.id, c.lane, c.kind, c.state, c.wait_reason, c.failure_reason, c.batch, c.state_since)
OPEN = (State.QUEUED, State.RUNNING, State.WAITING)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which operations. An absent field does not restrict.

    `older_ms`: in their state for longer than that; each attempt and each decision begins a state. `age_ms`: open, not
    pending at the destination now, and older than that by our clock, which leaves out the time pending at the
    destination or paused. `since_at`: in their state since then, or later.
    """

    states: tuple[State, ...] = ()
    lane: str | None = None
    kind: str | None = None
    reason: str | None = None
    without_reasons: tuple[str, ...] = ()
    account: str | None = None
    request_id: str | None = None
    batch: str | None = None
    since_at: int | None = None
    until_at: int | None = None
    older_ms: int | None = None
    newer_ms: int | None = None
    age_ms: int | None = None
    oldest_first: bool = False


class Count(NamedTuple):
    """How many operations of the first window match, and whether that is all there is."""

    number: int
    is_all: bool


@dataclass(frozen=True, slots=True)
class Page:
    """`next` is the id after which the next page begins, None at the end.

    `all_seen`: no window cut the list. If one cut a list of open operations, there is no next page. `count`: as of
    `count_operations`, if the list has learned it anyway.
    """

    operations: list[Operation]
    next: int | None
    all_seen: bool
    count: Count | None = None


def list_operations(ledger: Ledger, wanted: Filter, after: int | None = None, limit: int = PAGE) -> Page:
    """Return a page of operations, newest first or oldest first. `after` is the `next` of the page before."""
    with ledger.reading() as connection:
        if _is_open(wanted):
            return _list_open(connection, wanted, after, limit)
        ids = connection.scalars(_ids(_window(wanted, after, limit + 1).subquery(), wanted, after, limit)).all()
        found = _read(connection, wanted, ids[:limit])
        if len(ids) > limit:
            return Page(found, ids[limit - 1], True)
        end: int | None = connection.scalar(_end_of_window(wanted, after))
    return Page(found, end, end is None)


def count_operations(ledger: Ledger, wanted: Filter) -> Count:
    """Count what the filter matches in its first window."""
    count = select(func.count()).select_from(_window(wanted, None, WINDOW).subquery())
    with ledger.reading() as connection:
        return Count(connection.execute(count).scalar_one(), not _is_cut(connection, wanted))


def _list_open(connection: Connection, wanted: Filter, after: int | None, limit: int) -> Page:
    """List and count in one look through the windows, which are the same for every page: they follow `due_at`."""
    window = _window(wanted, after, WINDOW).cte("matches").prefix_with("MATERIALIZED")
    count = select(func.count()).select_from(window).scalar_subquery()
    rows = connection.execute(_ids(window, wanted, after, limit).add_columns(count)).all()
    ids = [id_ for id_, _ in rows]
    found, all_seen = _read(connection, wanted, ids[:limit]), not _is_cut(connection, wanted)
    number = rows[0][1] if rows else 0 if after is None else None
    counted = None if number is None else Count(number, all_seen)
    return Page(found, ids[limit - 1], True, counted) if len(ids) > limit else Page(found, None, all_seen, counted)


def _ids(window: FromClause, wanted: Filter, after: int | None, limit: int) -> Select[Any]:
    """Return a query for the ids of a page, and one more if there is a next page."""
    order = window.c.id.asc() if wanted.oldest_first else window.c.id.desc()
    return select(window.c.id).where(*_beyond(wanted, after, window.c.id)).order_by(order).limit(limit + 1)


def _read(connection: Connection, wanted: Filter, ids: Sequence[int]) -> list[Operation]:
    """Read the operations of a page. A join with the window could make PostgreSQL read all between two ids."""
    found = [operation_of(row) for row in connection.execute(BY_IDS, {"ids": list(ids)})] if ids else []
    return sorted(found, key=lambda one: one.id, reverse=not wanted.oldest_first)


def _window(wanted: Filter, after: int | None, limit: int) -> Select[Any]:
    """Return the ids of the window that match the filter, at least `limit` of them if there are as many."""
    is_exact = not _is_open(wanted) and _is_source_exact(wanted)
    size = limit if is_exact else WINDOW
    inside = union_all(*(select(source.limit(size).subquery()) for source in _sources(wanted, after))).subquery()
    return select(inside.c.id).where(*_conditions(wanted, inside.c))


def _sources(wanted: Filter, after: int | None) -> list[Select[Any]]:
    """Return bounded queries for what the filter looks at, each through one index."""
    reads_payload = wanted.account is not None or wanted.request_id is not None
    columns: tuple[ColumnElement[Any], ...] = (*_COLUMNS, c.key, c.entity, c.payload) if reads_payload else _COLUMNS
    if wanted.age_ms is not None:
        columns = (*columns, our_age_ms().label("our_age_ms"))
    if wanted.states == (State.WAITING,) and wanted.reason is not None:
        waits = c.state == sql_literal(State.WAITING)
        return [select(*columns).where(waits, c.wait_reason == wanted.reason)]
    if _is_open(wanted):
        return [
            select(*columns)
            .where(c.lane == sql_literal(lane), c.phase == sql_literal(phase), c.due_at.is_not(None))
            .order_by(c.due_at)
            for lane in (LANES if wanted.lane is None else (wanted.lane,))
            for phase in Phase
        ]
    return [_by_id(wanted, after, *columns)]


def _is_open(wanted: Filter) -> bool:
    return bool(wanted.states) and set(wanted.states) <= set(OPEN)


def _is_source_exact(wanted: Filter) -> bool:
    """Return whether the index already gives what the filter matches, so that a window need not be larger."""
    unfiltered = Filter(wanted.states, oldest_first=wanted.oldest_first)
    return wanted == unfiltered and wanted.states in ((), (State.FAILED,))


def _by_id(wanted: Filter, after: int | None, *columns: ColumnElement[Any]) -> Select[Any]:
    order = c.id.asc() if wanted.oldest_first else c.id.desc()
    source = select(*columns).where(*_beyond(wanted, after, c.id)).order_by(order)
    if wanted.states == (State.FAILED,):
        return source.where(c.state == sql_literal(State.FAILED))
    if wanted.batch is not None:
        return source.where(c.batch == wanted.batch)
    return source


def _end_of_window(wanted: Filter, after: int | None) -> Select[Any]:
    """Return a query for the id at which the window ends, if operations are listed by their ids."""
    return _by_id(wanted, after, c.id).offset(WINDOW - 1).limit(1)


def _is_cut(connection: Connection, wanted: Filter) -> bool:
    """Return whether there are more operations than the first window holds."""
    sources = _sources(wanted, None) if _is_open(wanted) else [_by_id(wanted, None, c.id)]
    return any(_has_more(connection, source) for source in sources)


def _has_more(connection: Connection, source: Select[Any]) -> bool:
    """Return whether a source holds more than a window. It selects no column, so that an index is enough."""
    beyond: Select[Any] = (
        source.with_only_columns(literal_column("1"), maintain_column_froms=True).offset(WINDOW).limit(1)
    )
    return connection.scalar(beyond) is not None


def _beyond(wanted: Filter, after: int | None, column: ColumnElement[int]) -> Iterable[ColumnElement[bool]]:
    if after is None:
        return ()
    return (column > after,) if wanted.oldest_first else (column < after,)


def _conditions(wanted: Filter, w: Any) -> list[ColumnElement[bool]]:
    """Return the conditions of a filter on the columns `w` of a window."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.states:
        conditions.append(w.state.in_([sql_literal(state) for state in wanted.states]))
    for column, value in ((w.lane, wanted.lane), (w.kind, wanted.kind), (w.batch, wanted.batch)):
        if value is not None:
            conditions.append(column == value)
    if wanted.reason is not None:
        conditions.append(func.coalesce(w.failure_reason, w.wait_reason) == wanted.reason)
    conditions += [func.coalesce(w.failure_reason, w.wait_reason, "") != one for one in wanted.without_reasons]
    if wanted.account is not None:
        conditions.append(_is_of_account(wanted.account, w))
    if wanted.request_id is not None:
        conditions.append(_has_request_id(wanted.request_id, w))
    if wanted.since_at is not None:
        conditions.append(w.state_since >= wanted.since_at)
    if wanted.until_at is not None:
        conditions.append(w.state_since < wanted.until_at)
    if wanted.older_ms is not None:
        conditions.append(w.state_since < now_ms() - wanted.older_ms)
    if wanted.newer_ms is not None:
        conditions.append(w.state_since >= now_ms() - wanted.newer_ms)
    if wanted.age_ms is not None:
        conditions += [w.our_age_ms > wanted.age_ms, w.state.in_([sql_literal(state) for state in OPEN])]
    return conditions


def _is_of_account(login: str, w: Any) -> ColumnElement[bool]:
    """Return the condition that an operation names an account: as its entity, or as a text in its payload."""
    found: ColumnElement[bool] = (w.entity == login) | _payload_holds(w, encode(login))
    return found


def _has_request_id(request_id: str, w: Any) -> ColumnElement[bool]:
    """Return the condition that an operation has a request id: as its natural id, or in its payload."""
    field = encode({"request_id": request_id})[1:-1]
    found: ColumnElement[bool] = (w.key == w.kind + f":{request_id}") | _payload_holds(w, field)
    return found


def _payload_holds(w: Any, text: str) -> ColumnElement[bool]:
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    found: ColumnElement[bool] = w.payload.like(f"%{escaped}%", escape="\\")
    return found
