"""The ledger's tables, one definition for SQLite (3.35 or newer) and PostgreSQL (14 or newer).

All names begin with `b2copy_`, because the tables may stand in the CRM's own database. Instants (`_at`, `since`) are ms
since the epoch by the database's clock, because the machines' own clocks may differ. Durations end in `_ms`.

`due_at` says when an operation may be claimed next: queued: now; waiting: when its wait ends; running: when its lease
ends; final: NULL. The index over `due_at` holds open operations only, so that the cost of a claim does not grow with
the number of final operations.
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
    FetchedValue,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    bindparam,
    case,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NULLTYPE, TypeDecorator, TypeEngine

from worker.operation import MOVES

HEAD = "0001"
"""The schema revision that this code writes: the newest one under migrations/versions."""

metadata = MetaData()

version = Table(  # Alembic makes and fills this table, so it is in no list of ours: one row
    "b2copy_schema_version",
    MetaData(),
    Column("version_num", Text, primary_key=True),  # the schema's revision
    Column("oldest_reader", Text, nullable=False),  # the oldest revision whose code may run on this schema
    Column("four_eyes", Text, nullable=False),  # see worker/ledger/four_eyes.py
)

# SQLite numbers rows by itself only if the column type is exactly INTEGER.
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
    Column("destination", Text, nullable=False, server_default="b2copy"),
    Column("state", Text, nullable=False),
    Column("wait_reason", Text),
    Column("failure_reason", Text),
    Column("phase", Text, nullable=False),  # submit or poll
    Column("due_at", BigInteger),
    Column("position", BigInteger),  # the place in its entity's line, if that is not its id
    Column("lease_owner", Text),
    Column("fence", Integer, nullable=False),  # the number of the claim that holds it; each claim adds one
    Column("counted_attempts", Integer, nullable=False),
    Column("polls", Integer, nullable=False),
    Column("replays", Integer, nullable=False),
    Column("sent", Boolean, nullable=False),
    Column("outcome_unknown", Boolean, nullable=False),
    Column("unknown_step", Text),
    Column("on_unknown", Text, nullable=False),
    Column("progress", Text),  # JSON, at most 4 KB
    Column("batch", Text),
    Column("trace_id", Text),
    Column("requested_at", BigInteger, nullable=False),
    Column("requested_by", Text, nullable=False),
    Column("time_allowed_ms", BigInteger),  # from the request or the replay to deadline_at
    Column("deadline_at", BigInteger),
    Column("state_since", BigInteger, nullable=False),
    Column("last_wait_ms", BigInteger, nullable=False),  # how long the last wait was planned to be
    Column("external_wait_ms", BigInteger, nullable=False),  # time spent pending at the destination or paused
    Column("ended_at", BigInteger),
    Column("result", Text),
    Column("last_answer", Text),  # digest of the last answer
    Column("last_answer_fence", Integer),  # the attempt that stores that answer
    Column("notice_sequence", BigInteger, nullable=False, server_default="0"),  # of its last notice; 0: it has none
    # No IN with more than two words: SQLite would make a table of them for each statement, 2 us of every settled row.
    CheckConstraint(
        "(state = 'queued' OR state = 'waiting' OR state = 'running') = (due_at IS NOT NULL)", name="b2copy_open_is_due"
    ),
    CheckConstraint("(state = 'waiting') = (wait_reason IS NOT NULL)", name="b2copy_waiting_has_reason"),
    CheckConstraint("(state = 'failed') = (failure_reason IS NOT NULL)", name="b2copy_failed_has_reason"),
    CheckConstraint("(state = 'running') = (lease_owner IS NOT NULL)", name="b2copy_running_has_owner"),
    CheckConstraint("phase IN ('submit', 'poll')", name="b2copy_known_phase"),
    CheckConstraint(
        "on_unknown IN ('start_or_get', 'read_back') OR on_unknown IN ('repeat', 'stop')",
        name="b2copy_known_on_unknown",
    ),
    sqlite_autoincrement=True,  # the id of a purged operation is never used again
)

c = operations.c
queue_position: ColumnElement[int] = func.coalesce(c.position, c.id)


def _partial(name: str, *columns: Any, where: ColumnElement[bool], unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


HELD_MS = 200 * 365 * 86_400_000
"""ms; what is added to the `due_at` of an operation that is put aside, because its batch is paused or cancelled."""


def is_aside(of: Any = c) -> ColumnElement[bool]:
    """Return the SQL condition that an operation is put aside. The constant is in the text, as in the indexes."""
    put: ColumnElement[bool] = of.due_at >= literal_column(str(HELD_MS))
    return put


def is_in_line(of: Any = c) -> ColumnElement[bool]:
    """Return the SQL condition that an operation is open and not put aside. What rewrites `due_at` needs it."""
    in_line: ColumnElement[bool] = of.due_at < literal_column(str(HELD_MS))
    return in_line


_partial("b2copy_operations_due", c.lane, c.phase, c.due_at, where=c.due_at.is_not(None))
# At most one running operation per entity, also with concurrent transactions.
_partial("b2copy_operations_held", c.entity, unique=True, where=(c.state == "running") & c.entity.is_not(None))
_partial("b2copy_operations_line", c.entity, queue_position, where=c.entity.is_not(None) & is_in_line())
_partial("b2copy_operations_aside", c.batch, c.entity, where=is_aside())
_partial("b2copy_operations_children", c.parent, where=c.parent.is_not(None) & c.due_at.is_not(None))
_partial("b2copy_operations_waiting", c.wait_reason, where=c.state == "waiting")
_partial("b2copy_operations_failed", c.id, c.failure_reason, where=c.state == "failed")
_has_failed = c.failure_reason.is_not(None)  # not by the state: SQLite would read each row to compare it
_partial("b2copy_operations_failed_groups", c.failure_reason, c.lane, c.kind, c.id, where=_has_failed)
_partial("b2copy_operations_ended", c.ended_at, where=c.ended_at.is_not(None))
_partial("b2copy_operations_batch", c.batch, c.id, where=c.batch.is_not(None))
_partial("b2copy_operations_of_batch", c.batch, c.state, c.id, where=c.batch.is_not(None))  # counts, and the sweep

batches = Table(  # operations that were recorded together; see worker/ledger/batches.py
    "b2copy_batches",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("lane", Text, nullable=False),
    Column("source", Text),  # the name of the file
    Column("rows", Integer),  # how many rows it has
    Column("requested_by", Text, nullable=False),
    Column("requested_at", BigInteger, nullable=False),
    Column("decision", Text),  # paused, cancelled
    Column("decided_at", BigInteger),
    Column("decided_by", Text),
    Column("note", Text),
    Column("swept_to", BigInteger),  # operations with larger ids do not obey the decision yet; NULL: all do
    CheckConstraint("decision IN ('paused', 'cancelled')", name="b2copy_known_decision"),
)
_partial("b2copy_batches_decided", batches.c.id, where=batches.c.decision.is_not(None))
_partial("b2copy_batches_to_sweep", batches.c.decided_at, where=batches.c.swept_to.is_not(None))
Index("b2copy_batches_requested", batches.c.requested_at, batches.c.id)


def is_held(of: Any = c) -> ColumnElement[bool]:
    """Return the SQL condition that an operation must not start, because its batch is paused or cancelled.

    The same for every row without a batch: false, and no table is read. `of`: the operation's columns.
    """
    decided = select(batches.c.id).where(batches.c.decision.is_not(None))
    held: ColumnElement[bool] = of.batch.is_not(None) & of.sent.is_(False) & of.batch.in_(decided)
    return held


attempts = Table(
    "b2copy_attempts",
    metadata,
    Column("operation_id", _Id, ForeignKey("b2copy_operations.id", ondelete="CASCADE"), primary_key=True),
    Column("fence", Integer, primary_key=True, autoincrement=False),
    Column("started_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("times", Integer, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),  # of a lapsed claim: also weeks
    Column("http_status", Integer),
    Column("outcome", Text, nullable=False),
    Column("message", Text),
    Column("steps", Text),  # JSON: [name, duration_ms, http_status, outcome] each; NULL if there was one call only
    Column("counted", Boolean, nullable=False),
    Column("request_id", Text),
    Column("worker", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("late", Boolean, nullable=False),
)

# The subject of an entry is an operation's key, a flag's name, `batch:<id>`, `identity <platform>/<login>`,
# `reconciliation <name>`, or a fixed word such as `session` or `schema`.
audit = Table(  # append-only: no foreign key, so that it outlives the operations that it is about
    "b2copy_audit",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False, index=True),
    Column("note", Text, nullable=False),
    Column("detail", Text),  # JSON
    sqlite_autoincrement=True,
)

flags = Table(
    "b2copy_flags",
    metadata,
    Column("name", Text, primary_key=True),
    Column("since", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("note", Text, nullable=False),
)

ledger = Table(
    "b2copy_ledger",
    metadata,
    Column("id", Text, primary_key=True),
    Column("dispatched_at", BigInteger, nullable=False),
    Column("notices_until", BigInteger, nullable=False, server_default="0"),  # until when the CRM wants notices
    Column("b2copy_host", Text),  # whose operations these are; see worker/ledger/b2copy_host.py
)

workers = Table(  # which workers run, and by which code; see worker/ledger/running_workers.py
    "b2copy_workers",
    metadata,
    Column("id", Text, primary_key=True),  # one for each start
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Text, nullable=False),  # of b2copy-sync
    Column("schema_revision", Text, nullable=False),  # the newest that this code knows
    Column("rate_limit", Text, nullable=False),  # its B2COPY_RATE_LIMIT
    Column("started_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
)

requests = Table(  # the SQL API: one INSERT from any language asks for an operation
    "b2copy_requests",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("payload", Text, nullable=False),
    Column("lane", Text),
    Column("requested_by", Text),
    Column("batch", Text),
    Column("trace_id", Text),
    Column("requested_at", BigInteger, nullable=False, server_default=FetchedValue()),
    Column("left_because", Text),  # why a worker left the row for one of another version or with other settings
    Index("b2copy_requests_kind", "kind", "id"),  # what moves money is taken first
    sqlite_autoincrement=True,
)
WAITS_FOR_US = ""
"""`left_because` of a row that a worker left, and with which the other worker has met an error of ours."""

identities = Table(  # who is who: the CRM's ids, the trading platform's logins, B2COPY's ids
    "b2copy_identities",
    metadata,
    Column("destination", Text, primary_key=True),
    Column("platform", Text, primary_key=True),
    Column("login", Text, primary_key=True),
    Column("crm_id", Text),
    Column("client_id", Text),
    Column("account_id", Text),
    Column("payment_account", Text),
    Column("learned_from", Text, nullable=False),  # the operation's key, "import" or "reconcile"
    Column("learned_at", BigInteger, nullable=False),
    Column("closed_at", BigInteger),  # when a person said that the account is closed at B2COPY
)

reconciliation = Table(  # the comparison with B2COPY's accounts that is under way, or the last one: one row
    "b2copy_reconciliation",
    metadata,
    Column("destination", Text, primary_key=True),
    Column("started_at", BigInteger, nullable=False),
    Column("started_by", Text, nullable=False),
    Column("phase", Text, nullable=False),  # reading, comparing or finished
    Column("version", Integer, nullable=False),  # each write adds one: of two processes, one makes a step
    Column("position", Integer, nullable=False),  # how far B2COPY's list has been read
    Column("anchor", Text),  # the last account that was read; JSON
    Column("compared_to", Text),  # the last candidate that was decided; JSON
    Column("stepped_at", BigInteger, nullable=False),  # when the last step was made, or the run began
    Column("requests", Integer, nullable=False),
    Column("finished_at", BigInteger),
)

accounts_there = Table(  # the accounts that B2COPY has listed since the reconciliation began
    "b2copy_reconciliation_accounts",
    metadata,
    Column("platform", Text, primary_key=True),
    Column("login", Text, primary_key=True),
    Column("account_id", Text, primary_key=True),  # empty: B2COPY gave none
    Column("client_id", Text),
)

differences = Table(  # what the reconciliation `run` (its started_at) has found
    "b2copy_reconciliation_differences",
    metadata,
    Column("platform", Text, primary_key=True),
    Column("login", Text, primary_key=True),
    Column("run", BigInteger, nullable=False),
    Column("difference", Text, nullable=False),  # missing_there, missing_here, closed_here, different or unclear
    Column("fields", Text, nullable=False),  # JSON: name -> [value here, value there]
)

# What ended in each minute, and how each lane stood at its end; see worker/ledger/minute_statistics.py.
minutes = Table(
    "b2copy_minutes",
    metadata,
    Column("minute", BigInteger, primary_key=True, autoincrement=False),  # its first instant
    Column("lane", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("outcome", Text, primary_key=True),
    Column("operations", Integer, nullable=False),
    Column("total_ms", BigInteger, nullable=False),
    Column("external_ms", BigInteger, nullable=False),
)

approvals = Table(  # four eyes: what one person proposed, and what another decided
    "b2copy_approvals",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),  # the operation's key, the pause's name, or batch:<id>
    Column("arguments", Text),  # JSON
    # how the subject was when it was proposed: the change mark of an operation, since when a pause is, `Batch.seen`
    Column("seen", Text, nullable=False),
    Column("proposed_at", BigInteger, nullable=False),
    Column("proposed_by", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("decision", Text),  # approved, rejected, withdrawn, changed, expired
    Column("decided_at", BigInteger),
    Column("decided_by", Text),
    Column("decided_note", Text),
    CheckConstraint("(decision IS NULL) = (decided_by IS NULL)", name="b2copy_decided_by_somebody"),
    CheckConstraint(
        "decision <> 'approved' OR lower(trim(decided_by)) <> lower(trim(proposed_by))", name="b2copy_four_eyes"
    ),
    sqlite_autoincrement=True,
)
_open_approval = approvals.c.decision.is_(None)
_partial("b2copy_approvals_open", approvals.c.subject, where=_open_approval, unique=True)
_partial("b2copy_approvals_expiring", approvals.c.expires_at, approvals.c.id, where=_open_approval)
_partial("b2copy_approvals_decided", approvals.c.id, where=approvals.c.decision.is_not(None))


class _Now(FunctionElement[int]):
    type = BigInteger()
    inherit_cache = True


@compiles(_Now, "sqlite")
def _sqlite_now(element: _Now, compiler: SQLCompiler, **options: Any) -> str:
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"


@compiles(_Now, "postgresql")
def _postgresql_now(element: _Now, compiler: SQLCompiler, **options: Any) -> str:
    # Not clock_timestamp(): its value may change from row to row, so PostgreSQL would not search an index by it.
    return "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000 AS BIGINT)"


def now_ms() -> ColumnElement[int]:
    """The database's clock, in ms since the epoch."""
    return _Now()


def due_now(now: ColumnElement[int] | None = None) -> ColumnElement[int]:
    """Return the SQL value of `due_at` that makes an open operation due by `now` (ms; without it the database's clock).

    What is due already stays due since then, so that the resume of its lane counts the whole time of the pause.
    """
    latest = now_ms() if now is None else now
    return case((operations.c.due_at < latest, operations.c.due_at), else_=latest)


class Listed(TypeDecorator[list[Any]]):
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


class _InList(FunctionElement[bool]):
    # Not Boolean: SQLAlchemy would write `... IN (...) = 1` for SQLite, and no index serves that.
    type: Any = NULLTYPE
    inherit_cache = True


@compiles(_InList, "sqlite")
def _sqlite_in_list(element: _InList, compiler: SQLCompiler, **options: Any) -> str:
    member, listed = element.clauses
    items = func.json_each(listed).table_valued("value")
    return compiler.process(member.in_(select(items.c.value)), **options)


@compiles(_InList, "postgresql")
def _postgresql_in_list(element: _InList, compiler: SQLCompiler, **options: Any) -> str:
    member, listed = element.clauses
    return compiler.process(member == func.any(listed), **options)


def in_list(column: Column[Any], listed: str) -> ColumnElement[bool]:
    """Return the condition that `column` is one of the list passed as parameter `listed`.

    A list of any length is one parameter, so the statement's text and the database's plan stay the same.
    """
    return _InList(column, bindparam(listed, type_=Listed(column.type)))


def insert_into(table: Table, dialect: str) -> Any:
    """Return the INSERT of a dialect, "sqlite" or "postgresql": SQLAlchemy's common INSERT knows no ON CONFLICT."""
    return (sqlite if dialect == "sqlite" else postgresql).insert(table)


def sql_literal(value: str) -> ColumnElement[str]:
    """Return one of our own words as a constant in the SQL text: a partial index is only used for constants."""
    return literal_column(f"'{value}'", Text)


def allowed_from(move: str) -> ColumnElement[bool]:
    """Return the guard of a move: the condition that the operation is in a state from which the move may start."""
    return operations.c.state.in_([sql_literal(state) for state in sorted(MOVES[move].before)])
