"""Which workers run, by which code, and that no migration removes what they use."""

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import delete, text, update

from tests.ledger.databases import is_waiting_for_a_lock, on_postgresql, on_sqlite
from tests.next_version import VERSION, NextVersion
from tests.operations import record_operation
from tests.support import until
from worker.errors import SettingsError
from worker.ledger import Ledger, audit_of, open_ledger
from worker.ledger.overview import overview
from worker.ledger.running_workers import (
    RUNNING_S,
    RunningWorker,
    ThisWorker,
    count_running,
    note_running,
    note_stopped,
    running_workers,
    workers_by_rate_limit,
    workers_by_version,
)
from worker.ledger.schema import HEAD, version
from worker.ledger.schema_version import version_of
from worker.operation import VERSION as OUR_VERSION
from worker.testbed.processes import clean_environment


@pytest.fixture
def own_ledger(own_ledger_url: str) -> Iterator[Ledger]:
    ledger = open_ledger(own_ledger_url)
    yield ledger
    ledger.close()


def note(ledger: Ledger, worker: ThisWorker) -> bool:
    with ledger.writing() as connection:
        return note_running(connection, worker)


def advance(ledger: Ledger, seconds: float) -> None:
    with ledger.writing() as connection:
        connection.execute(text(f"UPDATE b2copy_workers SET seen_at = seen_at - {round(seconds * 1000)}"))


def running(ledger: Ledger) -> list[tuple[str, str]]:
    return [(worker.host, worker.version) for worker in overview(ledger).workers]


def migrate_to(version: NextVersion, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `b2copy-sync migrate` of the next version."""
    environment = version.environment(clean_environment(B2COPY_DATABASE_URL=url))
    return subprocess.run(
        version.python("-m", "worker.cli", "migrate", *options), env=environment, capture_output=True, text=True
    )


def test_a_worker_is_seen_until_it_ends_or_has_not_noted_itself_for_long(own_ledger: Ledger) -> None:
    first, second = ThisWorker("host-a"), ThisWorker("host-b", version="0.0.9")

    assert note(own_ledger, first)
    assert note(own_ledger, second)
    assert running(own_ledger) == [("host-b", "0.0.9"), ("host-a", OUR_VERSION)]

    advance(own_ledger, RUNNING_S / 2)
    note(own_ledger, first)
    advance(own_ledger, RUNNING_S / 2 + 1)
    assert running(own_ledger) == [("host-a", OUR_VERSION)]

    with own_ledger.writing() as connection:
        note_stopped(connection, first)
    assert running(own_ledger) == []


def test_a_running_worker_says_where_it_runs_by_which_code_and_since_when(own_ledger: Ledger) -> None:
    note(own_ledger, ThisWorker("host-a", 41, "0.1.0", HEAD))
    advance(own_ledger, 20)
    note(own_ledger, ThisWorker("host-a", 42, "0.1.0", HEAD))

    with own_ledger.reading() as connection:
        found = running_workers(connection)
        assert count_running(connection) == 2
    older, newer = found
    assert older == RunningWorker("host-a", 41, "0.1.0", HEAD, older.started_at, older.seen_ms_ago)
    assert 20_000 <= older.seen_ms_ago < 30_000, "it runs: it has noted itself within 30 seconds"
    assert (newer.pid, abs(newer.started_at - older.started_at) < 30_000) == (42, True)
    assert str(newer._replace(seen_ms_ago=3_400)) == f"host-a pid 42: b2copy-sync 0.1.0, schema {HEAD}, seen 3 s ago"
    assert str(newer._replace(seen_ms_ago=-900)).endswith("seen 0 s ago")
    assert workers_by_version([newer._replace(version="2"), *found]) == {"0.1.0": 2, "2": 1}

    advance(own_ledger, 11)
    with own_ledger.reading() as connection:
        assert [one.pid for one in running_workers(connection)] == [42]
        assert count_running(connection) == 1


def test_the_note_of_a_dead_worker_does_not_last_when_the_databases_clock_is_set_back(own_ledger: Ledger) -> None:
    note(own_ledger, ThisWorker())

    advance(own_ledger, -3600)

    assert running(own_ledger) == []


def test_rows_of_workers_that_ended_long_ago_are_removed(own_ledger: Ledger) -> None:
    note(own_ledger, ThisWorker("host-a"))
    advance(own_ledger, 86_000)
    worker = ThisWorker("host-b")
    note(own_ledger, worker)
    with own_ledger.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM b2copy_workers")).scalar_one() == 2
    advance(own_ledger, 401)

    note(own_ledger, worker)
    note(own_ledger, ThisWorker("host-c"))

    with own_ledger.reading() as connection:
        hosts = connection.execute(text("SELECT host FROM b2copy_workers ORDER BY host")).scalars().all()
    assert hosts == ["host-b", "host-c"]


def test_a_migration_that_only_adds_is_made_while_workers_run(
    own_ledger: Ledger, own_ledger_url: str, tmp_path: Path
) -> None:
    me = ThisWorker()
    note(own_ledger, me)

    done = migrate_to(NextVersion(tmp_path / "next"), own_ledger_url)

    assert done.stdout == f"the ledger was brought from version {HEAD} to 0002\n", done.stderr
    assert note(own_ledger, me)
    open_ledger(own_ledger_url).close()  # this version may still run on it


def test_a_migration_that_removes_is_refused_while_older_code_runs(
    own_ledger: Ledger, own_ledger_url: str, tmp_path: Path
) -> None:
    me = ThisWorker("payments-3", 4711)
    note(own_ledger, me)
    note(own_ledger, ThisWorker("payments-4", version=VERSION, schema_revision="0003"))
    following = NextVersion(tmp_path / "next", removes=True)

    refused = migrate_to(following, own_ledger_url)

    assert refused.returncode == 1
    assert f"payments-3 pid 4711: b2copy-sync {OUR_VERSION}, schema {HEAD}, seen " in refused.stderr
    assert "payments-4" not in refused.stderr
    assert '`b2copy-sync migrate --ignore-running-workers --why "..."`' in refused.stderr
    assert "Traceback" not in refused.stderr
    assert version_of(own_ledger_url) == HEAD

    note(own_ledger, me)  # on a busy machine the commands take longer than a note lasts
    without_reason = migrate_to(following, own_ledger_url, "--ignore-running-workers")
    assert without_reason.returncode == 2

    note(own_ledger, me)
    done = migrate_to(following, own_ledger_url, "--ignore-running-workers", "--why", "its host burnt", "--by", "ann")

    assert done.returncode == 0, done.stderr
    [entry] = audit_of(own_ledger, "schema")
    assert (entry.actor, entry.note) == ("ann", "its host burnt")
    assert "payments-3" in str(entry.detail)
    assert not note(own_ledger, me)  # so a worker that does run stops itself
    with pytest.raises(SettingsError, match="install the b2copy-sync that made it"):
        open_ledger(own_ledger_url)


@pytest.mark.parametrize("revision", [None, "0000"])
def test_code_may_not_run_on_an_older_ledger_or_one_without_a_version(own_ledger: Ledger, revision: str | None) -> None:
    with own_ledger.writing() as connection:
        change = delete(version) if revision is None else update(version).values(version_num=revision)
        connection.execute(change)

    assert not note(own_ledger, ThisWorker())


@on_sqlite
def test_a_dead_worker_hinders_no_migration_for_long(own_ledger: Ledger, own_ledger_url: str, tmp_path: Path) -> None:
    note(own_ledger, ThisWorker())
    advance(own_ledger, RUNNING_S + 1)

    done = migrate_to(NextVersion(tmp_path / "next", removes=True), own_ledger_url)

    assert done.returncode == 0, done.stderr


@on_postgresql
def test_a_migration_does_not_make_workers_wait_behind_a_long_transaction(
    own_ledger: Ledger, own_ledger_url: str, tmp_path: Path
) -> None:
    """ALTER TABLE waits for every transaction that reads the table, and everybody else then waits behind it."""
    following = NextVersion(tmp_path / "next")
    with ThreadPoolExecutor(1) as threads:
        with own_ledger.reading() as report:
            report.execute(text("SELECT count(*) FROM b2copy_operations"))
            migration = threads.submit(migrate_to, following, own_ledger_url)
            until(lambda: is_waiting_for_a_lock(own_ledger))
            waits: list[float] = []
            for _ in range(20):
                began = time.monotonic()
                record_operation(own_ledger, f"W{len(waits)}")
                waits.append(time.monotonic() - began)
            assert not migration.done()
        assert migration.result().returncode == 0, migration.result().stderr

    assert max(waits) < 1.5
    assert version_of(own_ledger_url) == following.head


def test_the_rate_limits_of_running_workers_are_counted(own_ledger: Ledger) -> None:
    for host, limit in (("host-a", "10/second"), ("host-b", "10/second"), ("host-c", "600/minute")):
        note(own_ledger, ThisWorker(host, rate_limit=limit))

    with own_ledger.reading() as connection:
        assert workers_by_rate_limit(running_workers(connection)) == {"10/second": 2, "600/minute": 1}
