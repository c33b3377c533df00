"""Operations, their attempts, what people decided, flags, and the ledger's own row."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    op.create_table(
        "b2copy_flags",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "b2copy_ledger",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("dispatched_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "b2copy_operations",
        sa.Column("id", _ID, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("entity", sa.Text()),
        sa.Column("parent", sa.Text()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("why", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("turn", sa.SmallInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger()),
        sa.Column("position", sa.BigInteger()),
        sa.Column("owner", sa.Text()),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("asks", sa.Integer(), nullable=False),
        sa.Column("replays", sa.Integer(), nullable=False),
        sa.Column("sent", sa.Boolean(), nullable=False),
        sa.Column("unknown", sa.Boolean(), nullable=False),
        sa.Column("repeatable", sa.Boolean(), nullable=False),
        sa.Column("enqueued_at", sa.BigInteger(), nullable=False),
        sa.Column("enqueued_by", sa.Text(), nullable=False),
        sa.Column("allowed_ms", sa.BigInteger()),
        sa.Column("deadline_at", sa.BigInteger()),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("waited_ms", sa.BigInteger(), nullable=False),
        sa.Column("away_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger()),
        sa.Column("result", sa.Text()),
        sa.Column("last", sa.Text()),
        sa.Column("last_fence", sa.Integer()),
        sa.CheckConstraint("(state = 'failed') = (reason IS NOT NULL)", name="b2copy_failed_has_reason"),
        sa.CheckConstraint("(state = 'running') = (owner IS NOT NULL)", name="b2copy_running_has_owner"),
        sa.CheckConstraint("(state = 'waiting') = (why IS NOT NULL)", name="b2copy_waiting_has_why"),
        sa.CheckConstraint(
            "(state IN ('queued', 'waiting', 'running')) = (due_at IS NOT NULL)", name="b2copy_open_is_due"
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "b2copy_operations_children",
        "b2copy_operations",
        ["parent"],
        **_where("parent IS NOT NULL AND due_at IS NOT NULL"),
    )
    op.create_index(
        "b2copy_operations_due", "b2copy_operations", ["lane", "turn", "due_at"], **_where("due_at IS NOT NULL")
    )
    op.create_index("b2copy_operations_ended", "b2copy_operations", ["ended_at"], **_where("ended_at IS NOT NULL"))
    op.create_index("b2copy_operations_failed", "b2copy_operations", ["id"], **_where("state = 'failed'"))
    op.create_index(
        "b2copy_operations_held",
        "b2copy_operations",
        ["entity"],
        unique=True,
        **_where("state = 'running' AND entity IS NOT NULL"),
    )
    op.create_index(
        "b2copy_operations_line",
        "b2copy_operations",
        ["entity", sa.literal_column("coalesce(position, id)")],
        **_where("entity IS NOT NULL AND due_at IS NOT NULL"),
    )
    op.create_index("b2copy_operations_waiting", "b2copy_operations", ["why"], **_where("state = 'waiting'"))
    op.create_table(
        "b2copy_attempts",
        sa.Column("operation", _ID, nullable=False),
        sa.Column("fence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("duration", sa.Integer(), nullable=False),
        sa.Column("http_status", sa.Integer()),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("words", sa.Text()),
        sa.Column("counted", sa.Boolean(), nullable=False),
        sa.Column("request_id", sa.Text()),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["operation"], ["b2copy_operations.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("operation", "fence"),
    )
    op.create_table(
        "b2copy_decisions",
        sa.Column("id", _ID, nullable=False),
        sa.Column("operation", _ID),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["operation"], ["b2copy_operations.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_b2copy_decisions_operation", "b2copy_decisions", ["operation"])
