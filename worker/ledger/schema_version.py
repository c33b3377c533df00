"""Which revision the ledger's schema has, and which code may run on it: during an upgrade two versions do."""

from sqlalchemy import Connection, Engine, inspect, select

from worker.ledger import schema
from worker.ledger.engine import connect, exists, reading

UNKNOWN_VERSION = "unknown"


def schema_version(engine: Engine) -> str | None:
    """Return the database's schema revision, or None if it holds no table of ours.

    `UNKNOWN_VERSION`: it holds tables of ours and no revision.
    """
    with reading(engine) as connection:
        ours = [name for name in inspect(connection).get_table_names() if name.startswith("b2copy_")]
        if not ours:
            return None
        if schema.version.name not in ours:
            return UNKNOWN_VERSION
        return connection.execute(select(schema.version.c.version_num)).scalar() or UNKNOWN_VERSION


def version_of(url: str) -> str | None:
    """Return the schema revision at a URL, or None if there is no ledger. Creates nothing, not even an SQLite file."""
    try:
        engine = connect(url)
    finally:
        url = ""  # it may hold a password, and error trackers store the variables of frames
    try:
        return schema_version(engine) if exists(engine) else None
    finally:
        engine.dispose()


def may_run(connection: Connection, revision: str = schema.HEAD) -> bool:
    """Return whether code of `revision` may run on the ledger's schema: its own, or a newer one that it can still use.

    False if the ledger holds no revision. Older code cannot use the schema if its revision is below `oldest_reader`.
    """
    v = schema.version.c
    found = connection.execute(select(v.version_num, v.oldest_reader)).first()
    return found is not None and bool(found.oldest_reader <= revision <= found.version_num)


def schema_problem(version: str) -> str:
    """Return what is wrong with a schema that `may_run` refuses, and the remedy."""
    if version.isdigit() and version > schema.HEAD:
        remedy = "install the b2copy-sync that made it, or a newer one"
    else:
        remedy = "run `b2copy-sync migrate`"
    return f"B2COPY_DATABASE_URL: the ledger's schema is {version}, this version needs {schema.HEAD}: {remedy}"
