"""The ledger belongs to one B2COPY: a process whose B2COPY_HOST names another one is refused."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from worker.errors import NotAllowed, SettingsError
from worker.ledger import Ledger, audit_of, open_ledger
from worker.ledger.b2copy_host import check_b2copy_host, find_host_problem
from worker.ledger.migrations import migrate
from worker.ledger.running_workers import ThisWorker, note_running
from worker.operation import AuditEntry

HERE, THERE = "https://b2copy.example.com", "https://other.example.com"


def check(ledger: Ledger, host: str) -> None:
    with ledger.writing() as connection:
        check_b2copy_host(connection, host)


def problem(ledger: Ledger, host: str) -> str:
    with ledger.reading() as connection:
        return find_host_problem(connection, host)


def test_the_first_host_is_stored_and_another_one_is_refused(ledger: Ledger) -> None:
    assert problem(ledger, HERE) == ""  # none is stored yet

    check(ledger, HERE)
    check(ledger, HERE)

    with pytest.raises(SettingsError, match=f"^B2COPY_HOST is {THERE}, and this ledger belongs to {HERE}: "):
        check(ledger, THERE)
    assert "B2COPY_DATABASE_URL" in problem(ledger, THERE)
    assert f'`b2copy-sync migrate --b2copy-host {THERE} --why "..."`' in problem(ledger, THERE)
    assert problem(ledger, HERE) == ""


def test_of_two_hosts_that_start_at_once_one_is_stored(ledger: Ledger) -> None:
    def start(host: str) -> bool:
        try:
            check(ledger, host)
        except SettingsError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        accepted = list(threads.map(start, [HERE, THERE] * 8))

    hosts = {host for host, is_accepted in zip([HERE, THERE] * 8, accepted, strict=True) if is_accepted}
    assert len(hosts) == 1
    assert accepted.count(True) == 8


def test_only_migrate_with_a_reason_names_another_host(own_ledger_url: str) -> None:
    ledger = open_ledger(own_ledger_url)
    check(ledger, HERE)

    migrate(own_ledger_url, actor="ada", note="a new address", b2copy_host=THERE)
    migrate(own_ledger_url, actor="ada", note="again", b2copy_host=THERE)

    assert problem(ledger, THERE) == ""
    with pytest.raises(SettingsError, match=f"this ledger belongs to {THERE}"):
        check(ledger, HERE)
    [entry] = audit_of(ledger, "b2copy_host")
    detail = {"before": {"host": HERE}, "after": {"host": THERE}}
    assert entry == AuditEntry(entry.at, "ada", "move to host", "b2copy_host", "a new address", detail)
    ledger.close()


def test_the_host_does_not_change_while_a_worker_runs(own_ledger_url: str) -> None:
    ledger = open_ledger(own_ledger_url)
    check(ledger, HERE)
    with ledger.writing() as connection:
        note_running(connection, ThisWorker("host-a", 41))

    with pytest.raises(NotAllowed, match=r"(?s)workers run on this ledger:.*host-a pid 41.*stop them"):
        migrate(own_ledger_url, actor="ada", note="a new address", b2copy_host=THERE)
    migrate(own_ledger_url, actor="ada", note="the same", b2copy_host=HERE)
    assert problem(ledger, HERE) == ""

    migrate(own_ledger_url, actor="ada", note="it is dead", b2copy_host=THERE, ignore_running=True)
    assert problem(ledger, THERE) == ""
    ledger.close()
