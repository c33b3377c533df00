"""The scheduled reconciliation: beat starts it, a worker makes it in slices, and another one continues it."""

from collections.abc import Callable

import pytest

from tasks import reconcile as job  # the module: pytest would look into a task before there are settings
from tests.ledger.databases import on_sqlite
from tests.reconcile.book import plant
from tests.support import until
from worker.beat_schedule import schedule
from worker.ledger import Ledger, pause
from worker.ledger.reconciliation import current_run, differences
from worker.ledger.schema import reconciliation
from worker.sandbox.control_client import SandboxControl
from worker.settings import crm_settings
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process


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

    assert {one.login: one.difference for one in differences(ledger)} == planted
    until(lambda: "reconciled with B2COPY: 4 differences" in process.current_log())


def test_nothing_is_scheduled_unless_the_setting_says_so() -> None:
    assert "b2copy.ledger.reconcile" not in {entry["task"] for entry in schedule(600).values()}
    assert "b2copy.ledger.reconcile" in {entry["task"] for entry in schedule(600, reconciles=True).values()}


@on_sqlite
def test_a_slice_ends_soon_and_the_next_one_continues(
    fleet: Environment, ledger: Ledger, sandbox: SandboxControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B2COPY_RECONCILE_EVERY", "10m")
    crm_settings.cache_clear()
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
