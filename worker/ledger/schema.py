"""The ledger's tables, one definition for SQLite (3.35 or newer) and PostgreSQL (14 or newer).

All carry the prefix `b2copy_`, since they may live in the CRM's own database. Times are ms since the epoch, read from
the database's clock alone: many machines, one clock.

`due_at` is when a row may be claimed next: queued, now; waiting, its due time; running, the end of its lease; final,
NULL. The index over it holds only what is open, so that the cost of a claim does not grow with what is done.
"""

import json
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    bindparam,
    func,
    literal_column,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NULLTYPE, TypeDecorator, TypeEngine

from worker.ledger.operation import MOVES

HEAD = "0001"
"""The schema this code needs: the newest revision under migrations/versions."""

VERSION_TABLE = "b2copy_schema_version"

metadata = MetaData()

# SQLite numbers rows by itself only if the column is exactly INTEGER.
_Id = BigInteger().with_variant(Integer, "sqlite")

operations = Table(
    "b2copy_operations",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("payload", Text, nullable=False),  # canonical JSON: equal payloads are equal texts
    Column("lane", Text, nullable=False),
    Column("entity", Text),
    Column("parent", Text),  # a key; the parent may be recorded later
    Column("state", Text, nullable=False),
    Column("why", Text),
    Column("reason", Text),
    Column("turn", SmallInteger, nullable=False),  # 0: to be sent; 1: to be asked about again
    Column("due_at", BigInteger),
    Column("position", BigInteger),  # its place in its entity's line, if that is not its id
    Column("owner", Text),
    Column("fence", Integer, nullable=False),  # which claim holds it; grows with each
    Column("attempts", Integer, nullable=False),
    Column("asks", Integer, nullable=False),
    Column("replays", Integer, nullable=False),
    Column("sent", Boolean, nullable=False),
    Column("unknown", Boolean, nullable=False),
    Column("repeatable", Boolean, nullable=False),
    Column("enqueued_at", BigInteger, nullable=False),
    Column("enqueued_by", Text, nullable=False),
    Column("allowed_ms", BigInteger),  # how long it may take, from enqueue or replay to deadline_at
    Column("deadline_at", BigInteger),
    Column("since", BigInteger, nullable=False),  # when it came into its present state
    Column("waited_ms", BigInteger, nullable=False),  # how long it was told to wait the last time
    Column("away_ms", BigInteger, nullable=False),  # how long it was not our turn
    Column("ended_at", BigInteger),
    Column("result", Text),
    Column("last", Text),  # digest of the last answer, and ...
    Column("last_fence", Integer),  # ... the attempt that keeps it
    CheckConstraint("(state IN ('queued', 'waiting', 'running')) = (due_at IS NOT NULL)", name="b2copy_open_is_due"),
    CheckConstraint("(state = 'waiting') = (why IS NOT NULL)", name="b2copy_waiting_has_why"),
    CheckConstraint("(state = 'failed') = (reason IS NOT NULL)", name="b2copy_failed_has_reason"),
    CheckConstraint("(state = 'running') = (owner IS NOT NULL)", name="b2copy_running_has_owner"),
    sqlite_autoincrement=True,  # a purged operation's id is never given to another
)

_row = operations.c
place: ColumnElement[int] = func.coalesce(_row.position, _row.id)


def _partial(name: str, *columns: Any, where: ColumnElement[bool], unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


_partial("b2copy_operations_due", _row.lane, _row.turn, _row.due_at, where=_row.due_at.is_not(None))
# Whatever races: an entity is held by one operation.
_partial("b2copy_operations_held", _row.entity, unique=True, where=(_row.state == "running") & _row.entity.is_not(None))
_partial("b2copy_operations_line", _row.entity, place, where=_row.entity.is_not(None) & _row.due_at.is_not(None))
_partial("b2copy_operations_children", _row.parent, where=_row.parent.is_not(None) & _row.due_at.is_not(None))
_partial("b2copy_operations_waiting", _row.why, where=_row.state == "waiting")
_partial("b2copy_operations_failed", _row.id, where=_row.state == "failed")
_partial("b2copy_operations_ended", _row.ended_at, where=_row.ended_at.is_not(None))

attempts = Table(
    "b2copy_attempts",
    metadata,
    Column("operation", _Id, ForeignKey("b2copy_operations.id", ondelete="CASCADE"), primary_key=True),
    Column("fence", Integer, primary_key=True, autoincrement=False),
    Column("started_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("times", Integer, nullable=False),
    Column("duration", Integer, nullable=False),
    Column("http_status", Integer),
    Column("outcome", Text, nullable=False),
    Column("words", Text),
    Column("counted", Boolean, nullable=False),
    Column("request_id", Text),
    Column("worker", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("late", Boolean, nullable=False),
)

decisions = Table(
    "b2copy_decisions",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("operation", _Id, ForeignKey("b2copy_operations.id", ondelete="CASCADE"), index=True),
    Column("at", BigInteger, nullable=False),
    Column("what", Text, nullable=False),
    Column("subject", Text, nullable=False),  # the operation's key, or the flag's name
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
)

flags = Table(
    "b2copy_flags",
    metadata,
    Column("name", Text, primary_key=True),
    Column("since", BigInteger, nullable=False),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
)

ledger = Table(
    "b2copy_ledger",
    metadata,
    Column("id", Text, primary_key=True),
    Column("dispatched_at", BigInteger, nullable=False),
)


class _Now(FunctionElement[int]):
    type = BigInteger()
    inherit_cache = True


@compiles(_Now, "sqlite")
def _sqlite_now(element: _Now, compiler: SQLCompiler, **options: Any) -> str:
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"


@compiles(_Now, "postgresql")
def _postgresql_now(element: _Now, compiler: SQLCompiler, **options: Any) -> str:
    # Not clock_timestamp(): it may differ from row to row, and so no index would be searched by it.
    return "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000 AS BIGINT)"


def now_ms() -> ColumnElement[int]:
    """The database's clock, in ms since the epoch."""
    return _Now()


class _Listed(TypeDecorator[list[Any]]):
    """A list as one parameter: JSON on SQLite, an array on PostgreSQL."""

    impl = Text
    cache_ok = True

    def __init__(self, item: TypeEngine[Any]) -> None:
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(ARRAY(self.item) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: list[Any] | None, dialect: Dialect) -> Any:
        return value if dialect.name == "postgresql" else json.dumps(value)


class _Among(FunctionElement[bool]):
    # Not Boolean: for SQLite that would be written `... IN (...) = 1`, which no index serves.
    type: Any = NULLTYPE
    inherit_cache = True


@compiles(_Among, "sqlite")
def _sqlite_among(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    member, listed = element.clauses
    items = func.json_each(listed).table_valued("value")
    return compiler.process(member.in_(select(items.c.value)), **options)


@compiles(_Among, "postgresql")
def _postgresql_among(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    member, listed = element.clauses
    return compiler.process(member == func.any(listed), **options)


def among(column: Column[Any], listed: str) -> ColumnElement[bool]:
    """The condition that `column` is one of the list given as parameter `listed`.

    One parameter, however long: the statement's text stays the same, and so does the database's plan for it.
    """
    return _Among(column, bindparam(listed, type_=_Listed(column.type)))


def word(value: str) -> ColumnElement[str]:
    """One of our own words as a constant in the statement's text: partial indexes are only found by constants."""
    return literal_column(f"'{value}'", Text)


def may(move: str) -> ColumnElement[bool]:
    """The guard of a transition: that the operation is in a state from which it may make this move."""
    return operations.c.state.in_([word(state) for state in sorted(MOVES[move].before)])
