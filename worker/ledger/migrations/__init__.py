"""The ledger's schema, version by version. `migrate` needs nothing but the database's URL."""

import uuid
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import insert, select, text

from worker.ledger import schema
from worker.ledger.engine import connect, create_private_file
from worker.ledger.four_eyes import Rule, rule_of, set_rule, stricter

_ADVISORY_LOCK = 0xB2C0


def migrate(
    url: str, four_eyes: Rule = "off", relax: Rule | None = None, actor: str = "migrate", note: str = ""
) -> None:
    """Bring the schema to this version. Does nothing if it is there; safe when several run at once.

    Everything happens in one transaction: on SQLite it holds the write lock, on PostgreSQL an advisory lock, and so a
    migration that fails leaves nothing behind.

    `four_eyes`: the ledger's rule becomes this one, if this one is stricter. `relax`: it becomes that one in any case.
    `actor` and `note` are stored in the audit.
    """
    engine = connect(url)
    url = ""  # it may hold a password, and error trackers store the variables of frames
    try:
        create_private_file(engine)
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
            config = Config()
            config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
            config.set_main_option("path_separator", "os")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            if connection.execute(select(schema.ledger.c.id)).first() is None:
                connection.execute(insert(schema.ledger).values(id=uuid.uuid4().hex, dispatched_at=0))
            rule = relax or stricter(four_eyes, rule_of(connection))
            set_rule(connection, rule, actor, note or "B2COPY_FOUR_EYES")
    finally:
        engine.dispose()
