"""The database: its schema is created once and checked at every start, and its failures are raised."""

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text, update
from sqlalchemy.exc import OperationalError

import worker.ledger.migrations
from tests.forked import SERVER
from tests.ledger.databases import on_postgresql, on_sqlite
from tests.ledger.migrate_together import migrate_together
from tests.operations import claim_due, claim_one, find_operation, record_operations, succeed
from tests.postgres import Postgres
from tests.support import until
from worker.errors import SettingsError
from worker.ledger import Ledger, open_ledger, search
from worker.ledger.engine import connect
from worker.ledger.migrations import migrate
from worker.ledger.schema import HEAD, metadata
from worker.ledger.schema import version as version_table
from worker.ledger.schema_version import version_of
from worker.operation import State


def set_version(ledger_url: str, version: str, oldest_reader: str) -> None:
    engine = create_engine(ledger_url)
    with engine.begin() as connection:
        connection.execute(update(version_table).values(version_num=version, oldest_reader=oldest_reader))
    engine.dispose()


def test_an_empty_database_becomes_a_ledger(empty_database_url: str) -> None:
    first = open_ledger(empty_database_url, create=True)
    again = open_ledger(empty_database_url)

    assert first.id == again.id
    record_operations(first, "W1")
    assert claim_one(again).key == "fees.process:W1"
    first.close()
    again.close()


def test_a_database_without_a_ledger_is_refused_and_nothing_is_created(empty_database_url: str) -> None:
    with pytest.raises(SettingsError, match=r"there is no ledger at .* run `b2copy-sync migrate`") as refused:
        open_ledger(empty_database_url)

    assert "B2COPY_DATABASE_URL" in str(refused.value)
    if empty_database_url.startswith("sqlite"):
        assert not Path(empty_database_url.removeprefix("sqlite:///")).exists()
    else:
        engine = create_engine(empty_database_url)
        assert inspect(engine).get_table_names() == []
        engine.dispose()


def test_the_refusal_does_not_show_the_password(postgres_server: Postgres) -> None:
    url = postgres_server.url().replace("postgres@", "postgres:hunter2@")

    with pytest.raises(SettingsError) as refused:
        open_ledger(url)

    assert "hunter2" not in str(refused.value)


@on_sqlite
def test_an_empty_file_is_not_a_ledger(empty_database_url: str) -> None:
    Path(empty_database_url.removeprefix("sqlite:///")).touch()

    with pytest.raises(SettingsError, match="there is no ledger"):
        open_ledger(empty_database_url)


@on_sqlite
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
@pytest.mark.parametrize("by", ["migrate", "open_ledger"])
def test_the_files_of_a_ledger_are_private_under_any_umask(empty_database_url: str, umask: int, by: str) -> None:
    before = os.umask(umask)
    try:
        if by == "migrate":
            migrate(empty_database_url)
        ledger = open_ledger(empty_database_url, create=by == "open_ledger")
        record_operations(ledger, "W1")
    finally:
        os.umask(before)

    files = sorted(Path(empty_database_url.removeprefix("sqlite:///")).parent.glob("ledger.db*"))
    assert [file.name for file in files] == ["ledger.db", "ledger.db-shm", "ledger.db-wal"]
    assert [oct(file.stat().st_mode & 0o777) for file in files] == ["0o600"] * 3
    ledger.close()


def test_a_database_with_tables_of_others_becomes_a_ledger_too(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE clients (id TEXT)"))

    open_ledger(empty_database_url, create=True).close()

    ours = {name for name in inspect(engine).get_table_names() if name != "clients"}
    assert ours == {*metadata.tables, version_table.name}
    assert all(name.startswith("b2copy_") for name in ours)
    engine.dispose()


@on_sqlite
def test_no_connection_stays_open_when_a_ledger_is_closed_or_only_looked_at(
    own_ledger_url: str, tmp_path: Path
) -> None:
    def open_files() -> list[str]:
        return [link for link in map(link_of, Path("/proc/self/fd").iterdir()) if link.startswith(str(tmp_path))]

    def link_of(descriptor: Path) -> str:
        try:
            return os.readlink(descriptor)
        except FileNotFoundError:  # that of the listing itself
            return ""

    ledger = open_ledger(own_ledger_url)
    assert open_files() != []
    ledger.close()
    assert open_files() == []

    assert version_of(own_ledger_url) == HEAD
    assert open_files() == []

    set_version(own_ledger_url, "9999", "9999")
    with pytest.raises(SettingsError) as refused:
        open_ledger(own_ledger_url)
    assert open_files() == [], refused.value


@pytest.mark.parametrize(("version", "remedy"), [("0000", "b2copy-sync migrate"), ("9999", "install the b2copy-sync")])
def test_an_older_or_newer_schema_is_refused_with_the_remedy(own_ledger_url: str, version: str, remedy: str) -> None:
    set_version(own_ledger_url, version, oldest_reader=version)

    with pytest.raises(SettingsError, match=remedy) as refused:
        open_ledger(own_ledger_url)

    assert version in str(refused.value)
    assert "B2COPY_DATABASE_URL" in str(refused.value)


def test_code_runs_on_a_newer_schema_that_older_code_may_still_read(own_ledger_url: str) -> None:
    set_version(own_ledger_url, "9999", oldest_reader=HEAD)

    ledger = open_ledger(own_ledger_url)

    record_operations(ledger, "W1")
    assert claim_one(ledger).key == "fees.process:W1"
    ledger.close()


def test_a_database_with_some_of_our_tables_is_refused(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE b2copy_operations (id TEXT)"))
    engine.dispose()

    with pytest.raises(SettingsError):
        open_ledger(empty_database_url)


def test_migrating_again_changes_nothing(ledger_url: str) -> None:
    before = open_ledger(ledger_url)
    record_operations(before, "W1")

    assert migrate(ledger_url) == HEAD

    after = open_ledger(ledger_url)
    assert after.id == before.id
    assert find_operation(after, "W1").state == State.QUEUED
    before.close()
    after.close()


def test_migrate_of_an_older_version_leaves_a_newer_ledger_alone(own_ledger_url: str) -> None:
    set_version(own_ledger_url, "9999", oldest_reader=HEAD)
    assert migrate(own_ledger_url) == "9999"

    set_version(own_ledger_url, "9999", oldest_reader="9999")
    with pytest.raises(SettingsError, match="install the b2copy-sync that made it"):
        migrate(own_ledger_url)


def test_several_processes_may_migrate_at_once(empty_database_url: str) -> None:
    together = SERVER.Barrier(3)
    processes = [SERVER.Process(target=migrate_together, args=(together, empty_database_url)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)

    assert [process.exitcode for process in processes] == [0, 0, 0]
    ledger = open_ledger(empty_database_url)
    with ledger.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM b2copy_ledger")).scalar_one() == 1
    ledger.close()


def test_the_threads_of_one_process_may_open_an_empty_database_at_once(empty_database_url: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(lambda _: open_ledger(empty_database_url, create=True), range(4)))

    assert len({ledger.id for ledger in opened}) == 1
    for ledger in opened:
        ledger.close()


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
@pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index")
def test_the_migrations_end_at_the_schema_of_the_code(own_ledger_url: str) -> None:
    ledger = open_ledger(own_ledger_url)
    config = Config()
    config.set_main_option("script_location", os.path.dirname(worker.ledger.migrations.__file__))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD

    with ledger.reading() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": version_table.name, "include_object": _is_comparable}
        )
        assert compare_metadata(context, metadata) == []
    ledger.close()


def _is_comparable(_object: object, name: str | None, kind: str, *_: object) -> bool:
    # Alembic cannot compare an index over an expression.
    return not (kind == "index" and name == "b2copy_operations_line")


@on_sqlite
def test_opening_waits_while_another_process_writes_to_the_file(empty_database_url: str) -> None:
    crm = sqlite3.connect(empty_database_url.removeprefix("sqlite:///"), isolation_level=None)
    crm.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as other:
        opening = other.submit(open_ledger, empty_database_url, create=True)
        with pytest.raises(TimeoutError):
            opening.result(0.2)
        crm.execute("ROLLBACK")
        opening.result(10).close()
    crm.close()


@on_sqlite
def test_a_full_disk_leaves_no_part_of_a_batch(ledger: Ledger) -> None:
    record_operations(ledger, "W1")
    held = claim_one(ledger)
    with ledger.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 2}")

    with pytest.raises(OperationalError, match="full"):
        record_operations(ledger, *(f"X{number}" for number in range(2000)))

    assert [one.key for one in search(ledger)] == ["fees.process:W1"]
    with ledger.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    assert succeed(ledger, held) == []
    assert find_operation(ledger, "W1").state == State.SUCCEEDED


@on_sqlite
def test_a_writer_waits_for_another(ledger: Ledger, open_again: Callable[[], Ledger]) -> None:
    other = open_again()
    with other.writing() as connection:
        connection.execute(text("SELECT 1"))
        waiting = threading.Thread(target=record_operations, args=(ledger, "W1"))
        waiting.start()
        until(lambda: waiting.is_alive())
        assert search(other) == [], "a reader does not wait for a writer"
    waiting.join(10)

    assert find_operation(ledger, "W1").state == State.QUEUED


@on_sqlite
def test_a_commit_is_on_the_disk_when_it_returns(ledger: Ledger) -> None:
    with ledger.writing() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2  # FULL


def test_a_database_that_cannot_be_reached_raises_operational_error(tmp_path: Path) -> None:
    with pytest.raises(OperationalError):
        open_ledger(f"sqlite:///{tmp_path}/no/such/folder/ledger.db", create=True)
    with pytest.raises(OperationalError):
        open_ledger(f"postgresql+psycopg://postgres@/postgres?host={tmp_path}")


def test_calls_fail_while_the_server_is_killed_and_succeed_when_it_runs_again(postgres_server: Postgres) -> None:
    with postgres_server.connect() as connection:
        connection.execute("CHECKPOINT")  # else it recovers what all tests before have written
    ledger = open_ledger(postgres_server.url(), create=True)
    record_operations(ledger, "W1")
    held = claim_due(ledger)

    postgres_server.kill()
    with pytest.raises(OperationalError):
        succeed(ledger, *held)

    postgres_server.start()
    assert succeed(ledger, *held) == []
    assert find_operation(ledger, "W1").state == State.SUCCEEDED
    ledger.close()


FORKING = """
import os, sys
from tests.operations import record_operations
from worker.ledger import open_ledger

ledger = open_ledger(sys.argv[1])
record_operations(ledger, "before")
if (child := os.fork()) == 0:
    record_operations(ledger, "in the child")
    os._exit(0)
record_operations(ledger, "in the parent")
assert os.waitpid(child, 0)[1] == 0
record_operations(ledger, "after")
ledger.close()
"""


def test_a_forked_child_does_not_use_its_parents_connections(ledger_url: str, open_again: Callable[[], Ledger]) -> None:
    subprocess.run([sys.executable, "-c", FORKING, ledger_url], check=True, timeout=30)

    assert len(search(open_again())) == 4


@on_postgresql
def test_nothing_is_left_in_the_session_for_the_next_client_of_a_pooler(ledger: Ledger) -> None:
    for number in range(12):  # psycopg would prepare a statement at its fifth use
        record_operations(ledger, f"W{number}")
        succeed(ledger, *claim_due(ledger))

    with ledger.engine.raw_connection().driver_connection as session:  # type: ignore[union-attr]
        assert session.execute("SELECT name FROM pg_prepared_statements").fetchall() == []
        changed = "SELECT name FROM pg_settings WHERE source = 'session' AND name LIKE '%%timeout'"
        assert session.execute(changed).fetchall() == []


@on_postgresql
@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
def test_transactions_are_read_committed_whatever_the_databases_default(
    ledger: Ledger, ledger_url: str, level: str
) -> None:
    opened = open_ledger(
        f"{ledger_url} -cdefault_transaction_isolation={level.replace(' ', '%5C%20')}".replace(" -c", "%20-c")
    )

    with opened.reading() as connection:
        assert connection.execute(text("SHOW default_transaction_isolation")).scalar_one() == level
        assert connection.execute(text("SHOW transaction_isolation")).scalar_one() == "read committed"
    opened.close()


@on_postgresql
def test_an_idle_transaction_is_ended_by_the_server(ledger: Ledger) -> None:
    with ledger.reading() as connection:
        assert connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one() == "30s"


def test_a_dead_postgresql_server_is_noticed_within_seconds(postgres_server: Postgres) -> None:
    engine = connect(postgres_server.url())
    with engine.connect() as connection:
        driver_connection: Any = connection.connection.driver_connection
        parameters = driver_connection.info.get_parameters()
    engine.dispose()

    assert int(parameters["tcp_user_timeout"]) <= 20_000  # milliseconds until a statement that gets no answer fails
    assert int(parameters["keepalives_idle"]) <= 20  # seconds
