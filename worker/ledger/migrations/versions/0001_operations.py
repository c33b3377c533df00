"""Operations, their attempts, what people decided."""

from alembic import op

from worker.ledger import schema

revision = "0001"
down_revision = None


def upgrade() -> None:
    schema.metadata.create_all(op.get_bind())
