"""migrate, purge, health."""

import re
from pathlib import Path

from tests.cli.command import run
from tests.cli.conftest import Command
from tests.operations import LedgerClock, fail_operation, record_operation, succeed_operation
from worker.ledger import Ledger, audit_of, find
from worker.ledger.b2copy_host import check_b2copy_host
from worker.ledger.running_workers import ThisWorker, note_running
from worker.ledger.schema import HEAD
from worker.testbed.processes import clean_environment


def test_migrate_needs_the_database_alone_and_says_what_it_did(tmp_path: Path) -> None:
    environment = clean_environment(B2COPY_DATABASE_URL=f"sqlite:///{tmp_path}/ledger.sqlite")

    first = run(tmp_path, environment, "migrate")
    again = run(tmp_path, environment, "migrate", "--json")

    assert (first.code, first.out) == (0, f"the ledger is made, at version {HEAD}\n")
    assert (again.code, again.document) == (0, {"before": HEAD, "after": HEAD})


def test_migrate_says_why_the_ledger_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    absent, no_folder = (
        run(tmp_path, clean_environment(B2COPY_DATABASE_URL=f"sqlite:///{tmp_path}/{folder}/ledger.sqlite"), "migrate")
        for folder in ("absent", "a-file")
    )

    assert (absent.code, no_folder.code) == (1, 1)
    assert f"its file cannot be made: the folder {tmp_path}/absent is not there" in absent.err
    assert f"the folder {tmp_path}/a-file cannot be written: Not a directory" in no_folder.err


def test_purge_removes_only_what_ended_long_ago(b2copy_sync: Command, ledger: Ledger) -> None:
    old, opened = succeed_operation(ledger, "W1"), record_operation(ledger, "W2").key
    LedgerClock(ledger).advance(401 * 86400)
    recent = succeed_operation(ledger, "W3")

    would = b2copy_sync("purge", "--dry-run", "--json")
    remaining = find(ledger, old)
    done = b2copy_sync("purge")

    assert would.document["operations"] == 1
    assert remaining is not None
    assert done.out == "1 operation that ended more than 400.0 d ago removed\n"
    assert [find(ledger, key) is None for key in (old, opened, recent)] == [True, False, False]


def test_purge_asks_before_evidence_goes_too_early(b2copy_sync: Command, ledger: Ledger) -> None:
    key = succeed_operation(ledger, "W1")
    LedgerClock(ledger).advance(100)

    refused = b2copy_sync("purge", "--older-than", "90s")
    remaining = find(ledger, key)
    allowed = b2copy_sync("purge", "--older-than", "90s", "--yes")

    assert refused.code == 2
    assert "--yes" in refused.err
    assert remaining is not None
    assert allowed.code == 0
    assert find(ledger, key) is None


def test_health_counts_and_is_well(b2copy_sync: Command, ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    record_operation(ledger, "W2")

    ran = b2copy_sync("health", "--json")

    assert ran.code == 0
    assert ran.document["due"] == {"money": 1, "default": 0, "bulk": 0, "notify": 0}
    assert ran.document["failed"] == {"rejected": 1}
    assert ran.document["problems"] == []


def test_health_is_unwell_when_nobody_does_what_is_due(b2copy_sync: Command, ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    record_operation(ledger, "W2")
    LedgerClock(ledger).advance(90)

    late = b2copy_sync("health")
    failures = b2copy_sync("health", "--late", "1h", "--max-failed", "0")

    assert late.code == failures.code == 1
    assert re.search(r"lane money: something is due, and no worker has worked on the lane for 9\d\.", late.out)
    assert "PROBLEM  1 operation failed, more than 0: b2copy-sync failed list" in failures.out


def test_a_paused_lane_is_shown_and_is_healthy(b2copy_sync: Command, ledger: Ledger) -> None:
    record_operation(ledger, "W1")
    LedgerClock(ledger).advance(90)
    b2copy_sync("pause", "--lane", "money", "--why", "B2COPY is being upgraded", "--by", "ann")

    ran = b2copy_sync("health")

    assert ran.code == 0
    assert re.search(r"^paused:  money since \S+ \S+ UTC by ann: B2COPY is being upgraded$", ran.out, re.M)


def test_a_registration_that_succeeded_stays_for_accounts_that_are_opened_later(
    b2copy_sync: Command, ledger: Ledger
) -> None:
    payload = {"login": "77", "platform": 1, "crm_id": None}
    succeed_operation(ledger, "1/77", kind="clients.register", payload=payload, lane="default")
    succeed_operation(ledger, "W1")
    LedgerClock(ledger).advance(500 * 86_400)

    would = b2copy_sync("purge", "--dry-run", "--json")
    done = b2copy_sync("purge")

    assert would.document["operations"] == 1
    assert done.code == 0, done.err
    assert find(ledger, "clients.register:1/77") is not None
    assert find(ledger, "fees.process:W1") is None


def test_a_b2copy_that_has_moved_needs_a_reason(b2copy_sync: Command, ledger: Ledger) -> None:
    with ledger.writing() as connection:
        check_b2copy_host(connection, "https://b2copy.example.com")

    without = b2copy_sync("migrate", "--b2copy-host", "https://new.example.com")
    unusable = b2copy_sync("migrate", "--b2copy-host", "new.example.com", "--why", "they moved")
    moved = b2copy_sync("migrate", "--b2copy-host", "https://New.example.com/", "--why", "they moved", "--by", "ada")

    assert (without.code, unusable.code, moved.code) == (2, 2, 0)
    assert "give a reason with --why" in without.err
    assert "--b2copy-host must be a base URL" in unusable.err
    [entry] = audit_of(ledger, "b2copy_host")
    assert (entry.actor, entry.note, entry.detail) == (
        "ada",
        "they moved",
        {"before": {"host": "https://b2copy.example.com"}, "after": {"host": "https://new.example.com"}},
    )
    with ledger.writing() as connection:
        check_b2copy_host(connection, "https://new.example.com")


def test_a_b2copy_does_not_move_while_a_worker_runs(b2copy_sync: Command, ledger: Ledger) -> None:
    with ledger.writing() as connection:
        note_running(connection, ThisWorker("host-a", 41))

    refused = b2copy_sync("migrate", "--b2copy-host", "https://new.example.com", "--why", "they moved")

    assert refused.code == 1
    assert "host-a pid 41" in refused.err
    assert audit_of(ledger, "b2copy_host") == []
