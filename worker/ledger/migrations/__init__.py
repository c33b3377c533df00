"""The ledger's schema, version by version. `migrate` needs nothing but the database's URL."""

import time
import uuid
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from worker.errors import NotAllowed, SettingsError
from worker.ledger import schema
from worker.ledger.audit import record_audit
from worker.ledger.b2copy_host import b2copy_host_of, set_b2copy_host
from worker.ledger.engine import connect, create_private_file, is_lock_timeout, limit_lock_waits
from worker.ledger.four_eyes import Rule, rule_of, set_rule, stricter
from worker.ledger.running_workers import RUNNING_S, RunningWorker, running_workers
from worker.ledger.schema_version import may_run, schema_problem

_ADVISORY_LOCK = 0xB2C0
LOCK_WAIT_MS = 500  # ms; workers queue behind a migration that waits for a lock, so they wait as long
LOCK_PAUSE_S = 1.0  # seconds between two tries; the workers catch up in it
LOCK_TRIES_S = 120.0  # seconds

_LOCKED = (
    f"another transaction has kept a table of the ledger locked for {LOCK_TRIES_S:.0f} s\n"
    "Nothing was changed, and workers go on. Find the transaction in pg_stat_activity (a report, a backup?), end it or"
    " wait for its end, and run `b2copy-sync migrate` again."
)


def migrate(
    url: str,
    four_eyes: Rule = "off",
    relax: Rule | None = None,
    actor: str = "migrate",
    note: str = "",
    ignore_running: bool = False,
    b2copy_host: str | None = None,
) -> str | None:
    """Bring the schema to this version, and return its revision before. None: there was no ledger.

    Does nothing if the schema is this version's, or a newer one that this version can use. Safe when several run in
    parallel.

    Everything happens in one transaction: on SQLite it holds the write lock, on PostgreSQL an advisory lock, and so a
    migration that fails leaves nothing behind. On PostgreSQL a migration waits for a table at most half a second at a
    time, because everybody else waits behind it. It tries again for two minutes.

    `four_eyes`: the ledger's rule becomes this one, if this one is stricter. `relax`: it becomes that one in any case.
    `actor` and `note` are stored in the audit. `ignore_running`: migrate although workers run whose code cannot use the
    new schema, or that send to another host than `b2copy_host`, to which the ledger belongs from now on.

    Raises `NotAllowed` if such workers run, or if another transaction keeps a table locked; `SettingsError` if a newer
    version of the code has made a schema that this one cannot use.
    """
    try:
        engine = connect(url)
    finally:
        url = ""  # it may hold a password, and error trackers store the variables of frames
    give_up_at = time.monotonic() + LOCK_TRIES_S
    try:
        create_private_file(engine)
        while True:
            try:
                with engine.begin() as connection:
                    before = _migrate(connection, actor, note, ignore_running)
                    rule = relax or stricter(four_eyes, rule_of(connection))
                    set_rule(connection, rule, actor, note or "B2COPY_FOUR_EYES")
                    if b2copy_host is not None:
                        _move_to_host(connection, b2copy_host, actor, note, ignore_running)
                return before
            except DBAPIError as error:
                if not is_lock_timeout(error):
                    raise
                if time.monotonic() > give_up_at:
                    raise NotAllowed(_LOCKED) from None
            time.sleep(LOCK_PAUSE_S)
    finally:
        engine.dispose()


def _migrate(connection: Connection, actor: str, note: str, ignore_running: bool) -> str | None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
        limit_lock_waits(connection, LOCK_WAIT_MS)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    context = MigrationContext.configure(connection, opts={"version_table": schema.version.name})
    before = context.get_current_revision()
    if before and before >= schema.HEAD:
        if not may_run(connection):
            raise SettingsError(schema_problem(before))
        return before
    revisions = scripts.iterate_revisions("head", before or "base")
    oldest_reader = max((getattr(revision.module, "oldest_reader", "") for revision in revisions), default="")
    if before and oldest_reader:
        cannot_follow = [one for one in running_workers(connection) if one.schema_revision < oldest_reader]
        if cannot_follow and not ignore_running:
            raise NotAllowed(_refusal(schema.HEAD, cannot_follow))
        if cannot_follow:
            workers = ", ".join(map(str, cannot_follow))
            record_audit(connection, "migrate", actor, note, "schema", {"running": workers})
    command.upgrade(config, "head")
    if oldest_reader:
        connection.execute(update(schema.version).values(oldest_reader=oldest_reader))
    if connection.execute(select(schema.ledger.c.id)).first() is None:
        connection.execute(insert(schema.ledger).values(id=uuid.uuid4().hex, dispatched_at=0))
    return before


def _move_to_host(connection: Connection, host: str, actor: str, note: str, ignore_running: bool) -> None:
    running = running_workers(connection)
    if running and not ignore_running and b2copy_host_of(connection) != host:
        listed = "".join(f"\n  {worker}" for worker in running)
        raise NotAllowed(
            f"workers run on this ledger:{listed}\n"
            "They send to the host that the ledger belongs to now. Nothing was changed: stop them, and repeat this."
            f" A worker that has died counts as running for {RUNNING_S:.0f} s after it was seen; if you know that none"
            " runs, add --ignore-running-workers"
        )
    set_b2copy_host(connection, host, actor, note)


def _refusal(head: str, workers: list[RunningWorker]) -> str:
    listed = "".join(f"\n  {worker}" for worker in workers)
    return (
        f"schema {head} removes what older code still uses, and workers with such code run:{listed}\n"
        "Nothing was changed. A worker of this version does not start before the migration. So restart them with the"
        " release before this one, which can use both schemas, or stop them; then run `b2copy-sync migrate` again."
        f" A worker that has died counts as running for {RUNNING_S:.0f} s after it was seen.\n"
        'If you know that they do not run: `b2copy-sync migrate --ignore-running-workers --why "..."`'
    )
