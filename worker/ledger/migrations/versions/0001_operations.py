"""All tables: see `worker/ledger/schema.py`."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
oldest_reader = "0001"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_RESULT_ERROR = {"sqlite": "json_extract(o.result, '$.error')", "postgresql": "CAST(o.result AS json) ->> 'error'"}
_HELD_MS = 200 * 365 * 86_400_000  # what the `due_at` of an operation of a paused batch is put off by
_NOW = {
    "sqlite": "(CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER))",
    "postgresql": "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000 AS BIGINT)",
}


def _text(name: str, *, required: bool = True, **more: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=not required, **more)


def _big(name: str, *, required: bool = True, **more: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=not required, **more)


def _integer(name: str, *, required: bool = True, **more: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer(), nullable=not required, **more)


def _boolean(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Boolean(), nullable=False)


def _partial_index(name: str, columns: list[Any], condition: str, unique: bool = False) -> None:
    where = sa.text(condition)
    op.create_index(name, "b2copy_operations", columns, unique=unique, sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    op.add_column("b2copy_schema_version", _text("oldest_reader", server_default=sa.text(f"'{oldest_reader}'")))
    op.add_column("b2copy_schema_version", _text("four_eyes", server_default=sa.text("'off'")))
    op.create_table(
        "b2copy_flags",
        _text("name"),
        _big("since"),
        _text("actor"),
        _text("note"),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "b2copy_ledger",
        _text("id"),
        _big("dispatched_at"),
        _big("notices_until", server_default="0"),
        _text("b2copy_host", required=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "b2copy_workers",
        _text("id"),
        _text("host"),
        _integer("pid"),
        _text("version"),
        _text("schema_revision"),
        _text("rate_limit"),
        _big("started_at"),
        _big("seen_at"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "b2copy_operations",
        sa.Column("id", _ID, nullable=False),
        _text("key"),
        _text("kind"),
        _text("payload"),
        _text("lane"),
        _text("entity", required=False),
        _text("parent", required=False),
        _text("destination", server_default="b2copy"),
        _text("state"),
        _text("wait_reason", required=False),
        _text("failure_reason", required=False),
        _text("phase"),
        _big("due_at", required=False),
        _big("position", required=False),
        _text("lease_owner", required=False),
        _integer("fence"),
        _integer("counted_attempts"),
        _integer("polls"),
        _integer("replays"),
        _boolean("sent"),
        _boolean("outcome_unknown"),
        _text("unknown_step", required=False),
        _text("on_unknown"),
        _text("progress", required=False),
        _text("batch", required=False),
        _text("trace_id", required=False),
        _big("requested_at"),
        _text("requested_by"),
        _big("time_allowed_ms", required=False),
        _big("deadline_at", required=False),
        _big("state_since"),
        _big("last_wait_ms"),
        _big("external_wait_ms"),
        _big("ended_at", required=False),
        _text("result", required=False),
        _text("last_answer", required=False),
        _integer("last_answer_fence", required=False),
        _big("notice_sequence", server_default="0"),
        sa.CheckConstraint("phase IN ('submit', 'poll')", name="b2copy_known_phase"),
        sa.CheckConstraint(
            "on_unknown IN ('start_or_get', 'read_back') OR on_unknown IN ('repeat', 'stop')",
            name="b2copy_known_on_unknown",
        ),
        sa.CheckConstraint("(state = 'failed') = (failure_reason IS NOT NULL)", name="b2copy_failed_has_reason"),
        sa.CheckConstraint("(state = 'running') = (lease_owner IS NOT NULL)", name="b2copy_running_has_owner"),
        sa.CheckConstraint("(state = 'waiting') = (wait_reason IS NOT NULL)", name="b2copy_waiting_has_reason"),
        sa.CheckConstraint(
            "(state = 'queued' OR state = 'waiting' OR state = 'running') = (due_at IS NOT NULL)",
            name="b2copy_open_is_due",
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
        sqlite_autoincrement=True,
    )
    _partial_index("b2copy_operations_batch", ["batch", "id"], "batch IS NOT NULL")
    _partial_index("b2copy_operations_of_batch", ["batch", "state", "id"], "batch IS NOT NULL")
    _partial_index("b2copy_operations_children", ["parent"], "parent IS NOT NULL AND due_at IS NOT NULL")
    _partial_index("b2copy_operations_due", ["lane", "phase", "due_at"], "due_at IS NOT NULL")
    _partial_index("b2copy_operations_ended", ["ended_at"], "ended_at IS NOT NULL")
    _partial_index("b2copy_operations_failed", ["id", "failure_reason"], "state = 'failed'")
    _partial_index(
        "b2copy_operations_failed_groups", ["failure_reason", "lane", "kind", "id"], "failure_reason IS NOT NULL"
    )
    _partial_index("b2copy_operations_held", ["entity"], "state = 'running' AND entity IS NOT NULL", unique=True)
    _partial_index(
        "b2copy_operations_line",
        ["entity", sa.literal_column("coalesce(position, id)")],
        f"entity IS NOT NULL AND due_at < {_HELD_MS}",
    )
    _partial_index("b2copy_operations_aside", ["batch", "entity"], f"due_at >= {_HELD_MS}")
    _partial_index("b2copy_operations_waiting", ["wait_reason"], "state = 'waiting'")
    op.create_table(
        "b2copy_batches",
        _text("id"),
        _text("kind"),
        _text("lane"),
        _text("source", required=False),
        _integer("rows", required=False),
        _text("requested_by"),
        _big("requested_at"),
        _text("decision", required=False),
        _big("decided_at", required=False),
        _text("decided_by", required=False),
        _text("note", required=False),
        _big("swept_to", required=False),
        sa.CheckConstraint("decision IN ('paused', 'cancelled')", name="b2copy_known_decision"),
        sa.PrimaryKeyConstraint("id"),
    )
    for name, column, condition in (
        ("b2copy_batches_decided", "id", "decision IS NOT NULL"),
        ("b2copy_batches_to_sweep", "decided_at", "swept_to IS NOT NULL"),
    ):
        where = sa.text(condition)
        op.create_index(name, "b2copy_batches", [column], sqlite_where=where, postgresql_where=where)
    op.create_index("b2copy_batches_requested", "b2copy_batches", ["requested_at", "id"])
    op.create_table(
        "b2copy_attempts",
        sa.Column("operation_id", _ID, nullable=False),
        _integer("fence", autoincrement=False),
        _big("started_at"),
        _big("last_at"),
        _integer("times"),
        _big("duration_ms"),
        _integer("http_status", required=False),
        _text("outcome"),
        _text("message", required=False),
        _text("steps", required=False),
        _boolean("counted"),
        _text("request_id", required=False),
        _text("worker"),
        _text("version"),
        _boolean("late"),
        sa.ForeignKeyConstraint(["operation_id"], ["b2copy_operations.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("operation_id", "fence"),
    )
    op.create_table(
        "b2copy_audit",
        sa.Column("id", _ID, nullable=False),
        _big("at"),
        _text("actor"),
        _text("action"),
        _text("subject"),
        _text("note"),
        _text("detail", required=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_b2copy_audit_subject", "b2copy_audit", ["subject"])
    op.create_table(
        "b2copy_requests",
        sa.Column("id", _ID, nullable=False),
        _text("kind"),
        _text("payload"),
        _text("lane", required=False),
        _text("requested_by", required=False),
        _text("batch", required=False),
        _text("trace_id", required=False),
        _big("requested_at", server_default=sa.text(_NOW[op.get_bind().dialect.name])),
        _text("left_because", required=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("b2copy_requests_kind", "b2copy_requests", ["kind", "id"])
    op.create_table(
        "b2copy_identities",
        _text("destination"),
        _text("platform"),
        _text("login"),
        _text("crm_id", required=False),
        _text("client_id", required=False),
        _text("account_id", required=False),
        _text("payment_account", required=False),
        _text("learned_from"),
        _big("learned_at"),
        _big("closed_at", required=False),
        sa.PrimaryKeyConstraint("destination", "platform", "login"),
    )
    op.create_table(
        "b2copy_reconciliation",
        _text("destination"),
        _big("started_at"),
        _text("started_by"),
        _text("phase"),
        _integer("version"),
        _integer("position"),
        _text("anchor", required=False),
        _text("compared_to", required=False),
        _big("stepped_at"),
        _integer("requests"),
        _big("finished_at", required=False),
        sa.PrimaryKeyConstraint("destination"),
    )
    op.create_table(
        "b2copy_reconciliation_accounts",
        _text("platform"),
        _text("login"),
        _text("account_id"),
        _text("client_id", required=False),
        sa.PrimaryKeyConstraint("platform", "login", "account_id"),
    )
    op.create_table(
        "b2copy_reconciliation_differences",
        _text("platform"),
        _text("login"),
        _big("run"),
        _text("difference"),
        _text("fields"),
        sa.PrimaryKeyConstraint("platform", "login"),
    )
    op.execute(_status_view(op.get_bind().dialect.name))
    op.create_table(
        "b2copy_minutes",
        _big("minute", autoincrement=False),
        _text("lane"),
        _text("kind"),
        _text("outcome"),
        _integer("operations"),
        _big("total_ms"),
        _big("external_ms"),
        sa.PrimaryKeyConstraint("minute", "lane", "kind", "outcome"),
    )
    op.create_table(
        "b2copy_approvals",
        sa.Column("id", _ID, nullable=False),
        _text("action"),
        _text("subject"),
        _text("arguments", required=False),
        _text("seen"),
        _big("proposed_at"),
        _text("proposed_by"),
        _text("note"),
        _big("expires_at"),
        _text("decision", required=False),
        _big("decided_at", required=False),
        _text("decided_by", required=False),
        _text("decided_note", required=False),
        sa.CheckConstraint("(decision IS NULL) = (decided_by IS NULL)", name="b2copy_decided_by_somebody"),
        sa.CheckConstraint(
            "decision <> 'approved' OR lower(trim(decided_by)) <> lower(trim(proposed_by))", name="b2copy_four_eyes"
        ),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    still_open = sa.text("decision IS NULL")
    op.create_index(
        "b2copy_approvals_open",
        "b2copy_approvals",
        ["subject"],
        unique=True,
        sqlite_where=still_open,
        postgresql_where=still_open,
    )
    op.create_index(
        "b2copy_approvals_expiring",
        "b2copy_approvals",
        ["expires_at", "id"],
        sqlite_where=still_open,
        postgresql_where=still_open,
    )
    decided = sa.text("decision IS NOT NULL")
    op.create_index(
        "b2copy_approvals_decided",
        "b2copy_approvals",
        ["id"],
        sqlite_where=decided,
        postgresql_where=decided,
    )


def _status_view(dialect: str) -> str:
    """What a CRM may read: each operation with the text of its last attempt, or why a message is unusable."""
    return f"""
        CREATE VIEW b2copy_status AS
        SELECT o.key, o.kind, o.payload, o.lane, o.state, o.wait_reason, o.failure_reason,
               CASE WHEN o.kind = 'message' THEN {_RESULT_ERROR[dialect]} ELSE (
                   SELECT NULLIF(a.message, '') FROM b2copy_attempts a
                   WHERE a.operation_id = o.id ORDER BY a.fence DESC LIMIT 1
               ) END AS server_message,
               o.result, o.batch, o.trace_id, o.requested_by, o.requested_at, o.state_since,
               CASE WHEN o.due_at < {_HELD_MS} THEN o.due_at END AS due_at, o.deadline_at, o.ended_at
        FROM b2copy_operations o
    """  # noqa: S608  # nosec B608
