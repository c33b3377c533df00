"""A worker notes that it runs, and stops when its code may no longer run on the ledger's schema."""

import logging
import os
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from celery.platforms import EX_FAILURE
from celery.worker import state
from sqlalchemy import event, text

from tests.conftest import forget
from tests.support import until
from worker.instances import ledger
from worker.ledger.b2copy_host import check_b2copy_host
from worker.ledger.notices import notices_wanted_until
from worker.ledger.overview import overview
from worker.ledger.running_workers import note_stopped
from worker.ledger.schema import HEAD
from worker.ledgers_in_redis import LedgersInRedis
from worker.messages import dispatch_timer, note_running_worker
from worker.messages.dispatch_timer import DispatchTimer
from worker.messages.note_running_worker import RunningNote
from worker.operation import VERSION
from worker.settings import crm_settings
from worker.testbed.broker import Broker
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process


def test_a_worker_is_noted_while_it_runs(active_environment: Environment, worker: Callable[..., Process]) -> None:
    process = worker(restarts=False, B2COPY_RATE_LIMIT="600/minute")

    [noted] = until(lambda: overview(ledger()).workers)

    assert (noted.version, noted.schema_revision, noted.host) == (VERSION, HEAD, os.uname().nodename)
    assert (noted.pid, noted.rate_limit) == (process.pid, "600/minute")
    assert process.stop() == 0
    assert overview(ledger()).workers == []


def test_a_worker_notes_again_and_again_that_it_runs(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(note_running_worker, "NOTE_EVERY_S", 0.02)
    note = RunningNote(SimpleNamespace())
    note.start(SimpleNamespace())
    for _ in range(2):
        until(lambda: overview(ledger()).workers)
        with ledger().writing() as connection:
            note_stopped(connection, note._myself)

    until(lambda: overview(ledger()).workers)
    note._end()
    assert overview(ledger()).workers == []


def test_a_worker_that_delivers_notices_says_again_and_again_that_they_are_wanted(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever process dispatches: it may be one without a webhook each time."""
    monkeypatch.setenv("B2COPY_NOTIFY_TASK", "crm.fees_ended")
    forget()
    monkeypatch.setattr(note_running_worker, "NOTE_EVERY_S", 0.02)
    monkeypatch.setattr(note_running_worker, "WANT_NOTICES_EVERY_S", 0.02)
    note = RunningNote(SimpleNamespace())
    note.start(SimpleNamespace())
    for _ in range(2):
        until(lambda: notices_wanted_until(ledger()))
        with ledger().writing() as connection:
            connection.execute(text("UPDATE b2copy_ledger SET notices_until = 0"))

    until(lambda: notices_wanted_until(ledger()))
    note._end()


def test_a_worker_that_delivers_no_notices_does_not_say_so(active_environment: Environment) -> None:
    note = RunningNote(SimpleNamespace())
    note.start(SimpleNamespace())
    until(lambda: overview(ledger()).workers)
    note._end()

    assert notices_wanted_until(ledger()) is None


def test_no_pool_process_is_forked_while_the_note_is_written(active_environment: Environment) -> None:
    held: list[bool] = []
    note = RunningNote(SimpleNamespace())
    made = ledger().engine

    def on_begin(_: object) -> None:
        held.append(note_running_worker._no_fork.locked())

    event.listen(made, "begin", on_begin)

    note.start(SimpleNamespace())
    until(lambda: held)
    event.remove(made, "begin", on_begin)
    note._end()

    assert held[0]


def test_it_is_written_while_a_dispatch_takes_long(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch_timer, "DISPATCH_EVERY_S", 0.02)
    dispatches, may_end = threading.Event(), threading.Event()

    def dispatch() -> bool:
        dispatches.set()
        return may_end.wait(20)

    timer = DispatchTimer(SimpleNamespace())
    timer.start(SimpleNamespace(app=SimpleNamespace(tasks={"b2copy.ledger.dispatch": dispatch})))
    assert dispatches.wait(20)
    note = RunningNote(SimpleNamespace())

    note.start(SimpleNamespace())

    until(lambda: overview(ledger()).workers, within=5.0)
    timer.stop(SimpleNamespace())
    may_end.set()
    note._end()


def test_a_worker_that_was_frozen_during_a_migration_stops(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(state, "should_stop", None)
    with ledger().writing() as connection:
        connection.execute(text("UPDATE b2copy_schema_version SET oldest_reader = '9999'"))

    with caplog.at_level(logging.CRITICAL):
        RunningNote(SimpleNamespace()).start(SimpleNamespace())
        until(lambda: state.should_stop == EX_FAILURE)

    assert "Install the version that made the change" in caplog.text


def test_a_worker_whose_ledger_belongs_to_another_b2copy_stops(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(state, "should_stop", None)
    with ledger().writing() as connection:  # a backup of another installation has replaced it
        check_b2copy_host(connection, "https://b2copy.example.com")

    with caplog.at_level(logging.CRITICAL):
        RunningNote(SimpleNamespace()).start(SimpleNamespace())
        until(lambda: state.should_stop == EX_FAILURE)

    assert "this ledger belongs to https://b2copy.example.com" in caplog.text
    assert overview(ledger()).workers == []


def test_a_ledger_that_comes_later_to_our_redis_database_is_logged_once(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(note_running_worker, "NOTE_EVERY_S", 0.02)
    noted = LedgersInRedis(crm_settings())
    note = RunningNote(SimpleNamespace())

    with caplog.at_level(logging.CRITICAL):
        note.start(SimpleNamespace())
        until(lambda: noted.others("theirs") == [ledger().id])
        noted.note("theirs")
        for _ in range(3):
            until(lambda: noted.others("theirs") == [ledger().id])
            noted._redis.zrem("b2copy:ledgers", ledger().id)
        note._end()

    [line] = [record.message for record in caplog.records if record.levelno == logging.CRITICAL]
    assert line.startswith("B2COPY_REDIS_URL: workers of another ledger (theirs) use this Redis database")


def test_a_worker_stops_that_finds_another_ledger_in_redis_after_its_start(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis or the ledger was unavailable at the start."""
    monkeypatch.setattr(state, "should_stop", None)
    noted = LedgersInRedis(crm_settings())
    noted.note("theirs")
    note = RunningNote(SimpleNamespace())

    note.start(SimpleNamespace())
    until(lambda: state.should_stop == EX_FAILURE)
    note._end()

    assert "this worker stops" in caplog.text
    assert noted.others("theirs") == []


def test_a_worker_notes_that_it_runs_while_redis_is_away(active_environment: Environment, broker: Broker) -> None:
    broker.stop()
    note = RunningNote(SimpleNamespace())
    note.start(SimpleNamespace())

    until(lambda: overview(ledger()).workers)
    note._end()
