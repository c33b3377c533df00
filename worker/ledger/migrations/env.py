"""What Alembic runs: the revisions, inside the transaction that `migrate` has begun."""

from alembic import context

from worker.ledger import schema

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.metadata,
    version_table=schema.version.name,
    # SQLite can roll DDL back; Alembic only doubts it because of what Python's driver once did.
    transactional_ddl=True,
)
context.run_migrations()
