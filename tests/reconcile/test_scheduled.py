"""The scheduled reconciliation: beat starts it, a worker makes it in slices, and another one continues it."""

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from tasks import reconcile as job  # the module: pytest would look into a task before there are settings
from tests.ledger.databases import on_sqlite
from tests.reconcile.book import plant
from tests.support import until
from worker.beat_schedule import schedule
from worker.errors import Unavailable
from worker.ledger import Ledger, pause
from worker.ledger.reconciliation import (
    STALE_MS,
    AccountThere,
    Run,
    current_run,
    differences,
    finish_run,
    is_due,
    start_run,
    store_page,
)
from worker.ledger.schema import reconciliation
from worker.reconcile.steps import ListUnusable
from worker.sandbox.control_client import SandboxControl
from worker.settings import crm_settings
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process

LIST = "accounts.list"


def is_finished(ledger: Ledger) -> bool:
    run = current_run(ledger)
    return run is not None and run.phase == "finished"


@on_sqlite
def test_beat_has_it_done_by_a_worker(
    fleet: Environment, ledger: Ledger, sandbox: SandboxControl, worker: Callable[..., Process]
) -> None:
    planted = plant(ledger, sandbox, 250, planted=4)
    fleet.settings["B2COPY_RECONCILE_EVERY"] = "24h"
    fleet.beat()
    process = worker()

    until(lambda: is_finished(ledger), within=30)

    run = current_run(ledger)
    assert run is not None
    assert {one.login: one.difference for one in differences(ledger, run)} == planted
    until(lambda: "reconciled with B2COPY: 4 differences" in process.current_log())


def test_nothing_is_scheduled_unless_the_setting_says_so() -> None:
    assert "b2copy.ledger.reconcile" not in {entry["task"] for entry in schedule(600).values()}
    assert "b2copy.ledger.reconcile" in {entry["task"] for entry in schedule(600, reconciles=True).values()}


@on_sqlite
def test_a_worker_without_the_setting_says_once_that_beat_has_it(
    fleet: Environment, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    job._warn_of_missing_setting.cache_clear()

    job.reconcile()
    job.reconcile()

    [line] = [record.getMessage() for record in caplog.records if record.name == "tasks.reconcile"]
    assert "beat has B2COPY_RECONCILE_EVERY, and this worker does not" in line
    assert current_run(ledger) is None


@pytest.fixture
def scheduled(fleet: Environment, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setenv("B2COPY_RECONCILE_EVERY", "10m")
    crm_settings.cache_clear()
    job._slices.forget()
    return fleet


@on_sqlite
def test_a_request_that_takes_longer_than_a_tick_is_sent_once(
    scheduled: Environment, ledger: Ledger, sandbox: SandboxControl
) -> None:
    plant(ledger, sandbox, 50)
    sandbox.switches(latency={LIST: 3.0})
    slow = threading.Thread(target=job.reconcile)
    slow.start()
    until(lambda: sandbox.counters()["calls"].get(LIST) == 1)

    ticks = [threading.Thread(target=job.reconcile) for _ in range(8)]
    for tick in ticks:
        tick.start()
    for tick in ticks:
        tick.join()
    another = job._Slices()  # of another process
    job._make_slice(another, 600_000)

    assert slow.is_alive()
    assert sandbox.counters()["calls"][LIST] == 1
    slow.join()


@on_sqlite
def test_a_run_that_nobody_finished_begins_again_after_a_day(
    scheduled: Environment, ledger: Ledger, sandbox: SandboxControl
) -> None:
    planted = plant(ledger, sandbox, 50, planted=1)
    old = start_run(ledger, "a worker that was killed")
    old = store_page(ledger, old, [AccountThere("1", "closed since", "1", None)], 1, is_end=True)
    with ledger.writing() as connection:
        then = old.started_at - STALE_MS
        connection.execute(reconciliation.update().values(started_at=then, stepped_at=then))

    def finished_today() -> bool:
        job.reconcile()
        return is_finished(ledger)

    until(finished_today)

    run = current_run(ledger)
    assert run is not None
    assert run.started_at > old.started_at - STALE_MS
    assert {one.login: one.difference for one in differences(ledger, run)} == planted


def test_what_another_process_has_just_finished_is_not_begun_again(ledger: Ledger) -> None:
    run = finish_run(ledger, start_run(ledger, "one"))

    assert not is_due(ledger, 600_000)
    assert start_run(ledger, "two", 600_000) == run
    for off_ms in (3_600_000, -600_000):  # the clock was an hour ahead; it is time
        with ledger.writing() as connection:
            connection.execute(reconciliation.update().values(started_at=run.started_at + off_ms))
        assert is_due(ledger, 600_000)
    assert start_run(ledger, "two", 600_000).started_by == "two"


@on_sqlite
def test_a_slice_ends_soon_and_the_next_one_continues(
    scheduled: Environment, ledger: Ledger, sandbox: SandboxControl
) -> None:
    plant(ledger, sandbox, 250)
    sandbox.switches(latency={"accounts.list": 0.3})

    job.reconcile()
    first = current_run(ledger)
    pause(ledger, "all", "test", "quiet")
    job.reconcile()
    assert current_run(ledger) == first
    with ledger.writing() as connection:
        connection.exec_driver_sql("DELETE FROM b2copy_flags")
    sandbox.switches(latency={})
    job.reconcile()

    assert first is not None
    assert (first.phase, 0 < first.position < 250) == ("reading", True)
    assert is_finished(ledger)
    job.reconcile()  # it is not due again
    finished = current_run(ledger)
    assert finished is not None
    assert finished.started_at == first.started_at
    with ledger.writing() as connection:
        connection.execute(reconciliation.update().values(started_at=finished.started_at - 600_000))
    job.reconcile()
    again = current_run(ledger)
    assert again is not None
    assert again.started_at > first.started_at


@pytest.mark.parametrize(
    ("error", "rest_s"), [(Unavailable("accounts", 503), 10.0), (ListUnusable("an account twice"), 600.0)]
)
@on_sqlite
def test_after_a_fault_the_reconciliation_rests(
    scheduled: Environment, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, error: Exception, rest_s: float
) -> None:
    now, steps, slowed = [1000.0], list[float](), list[Exception]()

    def fail(_: Run) -> None:
        steps.append(now[0])
        raise error

    slices, run = job._Slices(), start_run(ledger, "a test")
    monkeypatch.setattr(job, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(slices, "_reconciler", SimpleNamespace(step=fail))
    monkeypatch.setattr(slices, "_pace", SimpleNamespace(slow_down=slowed.append))
    for after_s in (0.0, 0.0, rest_s - 0.01, 0.02):
        now[0] += after_s
        assert slices.make(run) == run

    assert steps == [1000.0, now[0]]
    assert slowed == ([error, error] if isinstance(error, Unavailable) else [])
