"""The scheduled jobs: wake what is due, renew the session."""

import math
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from sqlalchemy import ColumnElement, text, update

from tasks import housekeeping
from tests.conftest import Configure, forget
from tests.operations import (
    LedgerClock,
    find_operation,
    hold_operation,
    make_wait,
    record_operations,
    succeed_operation,
)
from worker.crm import requests_table
from worker.instances import ledger
from worker.ledger import search
from worker.ledger.batches import cancel_batch
from worker.ledger.minute_statistics import SETTLED_MS
from worker.ledger.notices import want_notices
from worker.ledger.overview import overview
from worker.ledger.running_workers import ThisWorker, note_running
from worker.ledger.schema import ledger as ledger_row
from worker.ledger.schema import now_ms
from worker.ledger.statistics import statistics_of
from worker.messages import dispatch_timer
from worker.operation import NOTICE_KIND, State, WaitReason
from worker.sandbox.control_client import SandboxControl
from worker.testbed.local_system import Environment


@pytest.fixture
def due_in_ms(active_environment: Environment, sandbox: SandboxControl) -> Callable[[], int]:
    """An operation waits for a session, for another minute. Returns for how long."""
    make_wait(ledger(), hold_operation(ledger()), wait_reason=WaitReason.NO_SESSION, due_in_s=60.0)

    def remaining() -> int:
        waiting = find_operation(ledger())
        assert waiting.due_at is not None
        return waiting.due_at - waiting.state_since

    return remaining


def test_what_waits_for_a_session_is_due_when_there_is_one(due_in_ms: Callable[[], int]) -> None:
    assert due_in_ms() == 60_000

    housekeeping.refresh()

    assert due_in_ms() < 30_000


def test_what_waits_for_a_session_waits_while_the_login_is_refused(
    due_in_ms: Callable[[], int], sandbox: SandboxControl, active_environment: Environment
) -> None:
    sandbox.withdraw_key(active_environment.keys.key_id)

    housekeeping.refresh()
    housekeeping.refresh()  # while the fleet rests after the refused login

    assert due_in_ms() == 60_000


@pytest.mark.parametrize("reason", [WaitReason.NO_OTHER_LOGIN, WaitReason.NO_SEAMLESS_URL])
def test_the_service_admins_session_wakes_nothing_that_waits_for_something_else(
    active_environment: Environment, reason: WaitReason
) -> None:
    make_wait(ledger(), hold_operation(ledger()), wait_reason=reason, due_in_s=60.0)
    due_at = find_operation(ledger()).due_at

    housekeeping.refresh()

    assert find_operation(ledger()).due_at == due_at


def test_the_back_offices_session_wakes_what_waits_for_it_alone(
    active_environment: Environment, configure: Configure, sandbox: SandboxControl
) -> None:
    password = active_environment.folder / "password"
    password.write_text("sandbox\n")
    password.chmod(0o600)
    configure(back_office_email="office@broker.example", back_office_password_file=password)
    reasons = (WaitReason.NO_SESSION, WaitReason.NO_OTHER_LOGIN, WaitReason.NO_SEAMLESS_URL)
    for reason in reasons:
        make_wait(ledger(), hold_operation(ledger(), reason), wait_reason=reason, due_in_s=60.0)
    sandbox.withdraw_key(active_environment.keys.key_id)  # the service admin gets no session

    housekeeping.refresh()

    waits_s = {reason: _wait_s(reason) for reason in reasons}
    assert waits_s.pop(WaitReason.NO_OTHER_LOGIN) < 30
    assert set(waits_s.values()) == {60}


def _wait_s(name: str) -> float:
    waiting = find_operation(ledger(), name)
    assert waiting.due_at is not None
    return (waiting.due_at - waiting.state_since) / 1000


def test_one_dispatch_in_the_whole_fleet_wakes(active_environment: Environment) -> None:
    record_operations(ledger(), *(f"W{number}" for number in range(250)))
    with ledger().writing() as connection:
        for _ in range(5):
            note_running(connection, ThisWorker())
    with active_environment.broker.client as client:
        housekeeping.dispatch()
        assert client.llen("b2copy.money") == 3

        client.delete("b2copy.money")
        with ledger().writing() as connection:  # however long the first dispatch took, it was this very moment
            connection.execute(update(ledger_row).values(dispatched_at=now_ms() + 200))
        housekeeping.dispatch()
        assert client.llen("b2copy.money") == 0


def test_only_a_dispatch_that_did_its_work_ends_the_outage(
    active_environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    def set_dispatched_at(value: ColumnElement[int] | int) -> None:
        with ledger().writing() as connection:
            connection.execute(update(ledger_row).values(dispatched_at=value))

    dispatch_timer.outage.failed(ConnectionError("the ledger is gone"))
    set_dispatched_at(now_ms() + 200)  # another process dispatched: this one still does not know
    assert not housekeeping.dispatch()
    assert "it works again" not in caplog.text

    set_dispatched_at(0)
    assert housekeeping.dispatch()

    assert "it works again" in caplog.text


@pytest.mark.parametrize(("running", "wake_ups"), [(0, 1), (1, 1), (2, 2)])
def test_dispatch_sends_no_more_wake_ups_than_workers_run(
    active_environment: Environment, running: int, wake_ups: int
) -> None:
    """A wake-up for a worker that drains already costs it more than an operation does."""
    record_operations(ledger(), *(f"W{number}" for number in range(250)))
    with ledger().writing() as connection:
        for _ in range(running):
            note_running(connection, ThisWorker())
    with active_environment.broker.client as client:
        housekeeping.dispatch()

        assert client.llen("b2copy.money") == wake_ups
        assert not client.exists("b2copy.default", "b2copy.bulk", "b2copy.notify")  # nothing is due there


def test_dispatch_takes_the_requests_of_the_sql_api_and_wakes_a_worker_for_them(
    active_environment: Environment,
) -> None:
    with ledger().writing() as crm:
        crm.execute(
            text("INSERT INTO b2copy_requests (kind, payload) VALUES ('fees.process', :payload)"),
            {"payload": '{"account_login": "7", "request_id": "W1"}'},
        )
    with active_environment.broker.client as client:
        housekeeping.dispatch()

        assert find_operation(ledger()).state == State.QUEUED
        assert client.llen("b2copy.money") == 1


def test_a_dispatch_does_its_other_work_before_it_has_taken_all_requests(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "TAKE_S", 0.0)
    monkeypatch.setattr(requests_table, "BATCH", 1)
    with ledger().writing() as crm:
        for name in ("W1", "W2", "W3", "W4"):
            crm.execute(
                text("INSERT INTO b2copy_requests (kind, payload, lane) VALUES ('fees.process', :payload, 'bulk')"),
                {"payload": f'{{"account_login": "7", "request_id": "{name}"}}'},
            )

    left = []
    for _ in range(2):
        with ledger().writing() as connection:
            connection.execute(update(ledger_row).values(dispatched_at=0))
        assert housekeeping.dispatch()
        with ledger().reading() as connection:
            left.append(connection.execute(text("SELECT count(*) FROM b2copy_requests")).scalar_one())

    assert left == [3, 2]


def test_each_minute_is_summarized_once_when_it_is_settled(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often, batches are swept that were forgotten."""
    settled_s, now, done = SETTLED_MS / 1000, [0.0], list[str]()
    monkeypatch.setattr(housekeeping, "time", SimpleNamespace(time=lambda: now[0], monotonic=lambda: now[0]))
    monkeypatch.setattr(housekeeping, "_summarized", -1)
    monkeypatch.setattr(housekeeping, "summarize_minutes", lambda _: done.append("minutes"))
    monkeypatch.setattr(housekeeping, "sweep_forgotten", lambda _: done.append("batches"))

    def times_done(at_s: float) -> int:
        now[0] = 1_800_000_000.0 + at_s
        housekeeping._run_minute_jobs()
        assert done.count("minutes") == done.count("batches")
        return done.count("minutes")

    seconds = [settled_s - 1, settled_s - 0.5, settled_s, settled_s + 30, settled_s + 59, settled_s + 60]
    assert [times_done(at_s) for at_s in seconds] == [1, 1, 2, 2, 2, 3]


@pytest.fixture
def minute_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Does the jobs of the minute in which this process has run for so many seconds."""
    now = [0.0]
    monkeypatch.setattr(housekeeping, "time", SimpleNamespace(time=time.time, monotonic=lambda: now[0]))
    monkeypatch.setattr(housekeeping, "_unwanted_since", math.inf)

    def run(at_s: float) -> None:
        now[0] = at_s
        monkeypatch.setattr(housekeeping, "_summarized", -1)
        housekeeping._run_minute_jobs()

    return run


def states_of_notices() -> set[State]:
    return {one.state for one in search(ledger(), kind=NOTICE_KIND)}


@pytest.mark.parametrize(("task", "state"), [("", State.CANCELLED), ("crm.fees_ended", State.QUEUED)])
def test_a_week_after_the_last_worker_that_delivers_notices_nothing_waits_for_one(
    active_environment: Environment,
    monkeypatch: pytest.MonkeyPatch,
    minute_of: Callable[[float], None],
    task: str,
    state: State,
) -> None:
    if task:
        monkeypatch.setenv("B2COPY_NOTIFY_TASK", task)
        forget()
    want_notices(ledger())
    succeed_operation(ledger())
    LedgerClock(ledger()).advance(8 * 86_400)
    assert statistics_of(overview(ledger())).late_s["notify"] >= 8 * 86_400

    minute_of(1_000.0)
    minute_of(1_000.0 + housekeeping.UNWANTED_FOR_S)

    assert states_of_notices() == {state}
    assert bool(statistics_of(overview(ledger())).late_s["notify"]) is bool(task)


def test_a_worker_that_starts_before_the_one_that_delivers_notices_cancels_none(
    active_environment: Environment, minute_of: Callable[[float], None]
) -> None:
    """The whole fleet was down for more than a week, or the ledger came from an old backup."""
    want_notices(ledger())
    succeed_operation(ledger())
    LedgerClock(ledger()).advance(8 * 86_400)

    minute_of(1_000.0)
    minute_of(1_000.0 + housekeeping.UNWANTED_FOR_S - 1)
    want_notices(ledger())
    minute_of(1_000.0 + housekeeping.UNWANTED_FOR_S)
    LedgerClock(ledger()).advance(8 * 86_400)
    minute_of(1_060.0 + housekeeping.UNWANTED_FOR_S)  # the time begins again

    assert states_of_notices() == {State.QUEUED}


def test_dispatch_cancels_what_a_person_cancelled_as_a_batch(active_environment: Environment) -> None:
    record_operations(ledger(), "B1", "B2", lane="bulk", batch="book")
    cancel_batch(ledger(), "book", "ada", "the wrong file")  # and the process of the person dies

    housekeeping.dispatch()

    assert {find_operation(ledger(), name).state for name in ("B1", "B2")} == {State.CANCELLED}
