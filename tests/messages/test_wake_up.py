"""Wake-ups: one message per lane is enough, more are sent for a backlog, and a broker that is gone harms nobody."""

import base64
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from tasks import enqueue, housekeeping
from tests.operations import find_operation, record_operations
from tests.support import until
from worker.app import app
from worker.errors import Unavailable
from worker.instances import ledger
from worker.messages import wake_up
from worker.messages.wake_up import AFTER_FAILURE_S, wake, wake_soon, wake_ups_for
from worker.queues import LANES, WAKE_UP_LASTS_S
from worker.testbed.local_system import Environment


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock that `wake_soon` reads: set its one item."""
    clock = [1000.0]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return clock[0]

    monkeypatch.setattr(wake_up, "time", Clock)
    monkeypatch.setattr(wake_up, "_sent_at", {})
    return clock


def unread(environment: Environment, lane: str) -> list[dict[str, Any]]:
    with environment.broker.client as client:
        items = [json.loads(item) for item in client.lrange(f"b2copy.{lane}", 0, -1)]
    assert {item["headers"]["task"] for item in items} <= {"b2copy.push"}
    return [json.loads(base64.b64decode(item["body"]))[1] for item in items]


@pytest.mark.parametrize(
    ("due", "wake_ups"), [(0, 0), (1, 1), (100, 1), (101, 2), (200, 2), (1600, 16), (1601, 16), (10_000, 16)]
)
def test_each_hundred_due_operations_wake_one_more_worker(due: int, wake_ups: int) -> None:
    assert wake_ups_for(due) == wake_ups


def test_a_lane_never_has_more_unread_wake_ups_than_asked_for(active_environment: Environment) -> None:
    assert wake("money", 2)
    assert unread(active_environment, "money") == [{"ledger_id": ledger().id, "lane": "money"}] * 2
    assert wake("money")
    assert wake("money", 2)
    assert len(unread(active_environment, "money")) == 2
    assert wake("money", 5)
    assert len(unread(active_environment, "money")) == 5
    assert wake("bulk", 1)
    assert unread(active_environment, "bulk") == [{"ledger_id": ledger().id, "lane": "bulk"}]


def test_a_process_wakes_a_lane_once_in_a_moment(active_environment: Environment, now: list[float]) -> None:
    wake_soon("money")
    assert len(unread(active_environment, "money")) == 1

    with active_environment.broker.client as client:
        client.delete("b2copy.money")
    now[0] += WAKE_UP_LASTS_S / 2
    wake_soon("money")
    wake_soon("bulk", 3)
    assert (len(unread(active_environment, "money")), len(unread(active_environment, "bulk"))) == (0, 3)

    now[0] += WAKE_UP_LASTS_S
    wake_soon("money")
    assert len(unread(active_environment, "money")) == 1


def test_after_the_broker_failed_no_caller_waits_for_it_for_a_while(
    active_environment: Environment, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    active_environment.broker.stop()
    assert not wake("money")
    wake_soon("money")
    active_environment.broker.start()

    now[0] += AFTER_FAILURE_S
    wake_soon("money")
    assert unread(active_environment, "money") == []

    now[0] += 2 * WAKE_UP_LASTS_S
    assert "it works again" not in caplog.text
    wake_soon("money")
    assert len(unread(active_environment, "money")) == 1
    assert "no wake-up was sent, dispatch will repeat it" in caplog.text
    assert "it works again after 2 failures" in caplog.text


ANSWER_S = 0.5  # seconds that a client waits for an answer of Redis, in production 5; a wake-up waits for two of them


@pytest.fixture
def frozen(active_environment: Environment, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Return a context in which Redis accepts connections and answers nothing."""
    monkeypatch.setattr(wake_up, "_sent_at", {})
    monkeypatch.setitem(app.conf.broker_transport_options, "socket_timeout", ANSWER_S)
    app._after_fork()  # connections with this timeout

    @contextmanager
    def freeze() -> Iterator[None]:
        os.kill(active_environment.broker.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(active_environment.broker.pid, signal.SIGCONT)

    return freeze


def seconds_of(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def test_while_redis_is_frozen_one_call_of_a_crm_waits_for_it_and_the_others_do_not(
    active_environment: Environment, frozen: Callable[[], Any]
) -> None:
    took_s: list[float] = []

    def call(number: int) -> None:
        took_s.append(seconds_of(lambda: enqueue.fees(account_login="7", request_id=f"W{number}")))

    call(0)  # opens the ledger
    wake_up._sent_at.clear()
    callers = [threading.Thread(target=call, args=(number,)) for number in range(1, 41)]
    with frozen():
        for caller in callers:
            caller.start()
            time.sleep(0.02)
        for caller in callers:
            caller.join()

    waited_s = sorted(took_s)
    assert len(took_s) == 41
    assert waited_s[-1] < 6 * ANSWER_S
    assert waited_s[-2] < 2 * ANSWER_S
    assert enqueue.status("fees.process:W40") is not None


def test_after_a_failure_no_lane_waits_for_the_broker(
    active_environment: Environment, frozen: Callable[[], Any]
) -> None:
    with frozen():
        wake_soon("bulk")
        began = time.monotonic()
        for lane in LANES:
            wake_soon(lane)
        assert time.monotonic() - began < 2 * ANSWER_S


def test_a_frozen_redis_does_not_hold_back_the_requests_of_the_sql_api(
    active_environment: Environment, frozen: Callable[[], Any]
) -> None:
    for lane in LANES:
        record_operations(ledger(), f"due-{lane}", lane=lane)
    with ledger().writing() as crm:
        crm.exec_driver_sql(
            """INSERT INTO b2copy_requests (kind, payload)
            VALUES ('fees.process', '{"account_login": "7", "request_id": "W1"}')"""
        )
    with frozen():
        took_s = seconds_of(housekeeping.dispatch)

    assert find_operation(ledger(), "W1")
    assert took_s < 6 * ANSWER_S


def test_a_read_does_not_wait_for_callers_that_a_frozen_redis_holds(active_environment: Environment) -> None:
    with ExitStack() as held:
        for _ in range(app.conf.broker_pool_limit):
            held.enter_context(app.producer_or_acquire())

        began = time.monotonic()
        with pytest.raises(Unavailable, match="ask again later"):
            enqueue.read("accounts", timeout_s=10)

    assert time.monotonic() - began < 5


class JobTimeoutError(Exception):
    """The time limit of a CRM's own task, as in RQ: an error that no library of ours defines."""


@pytest.mark.parametrize("limit", [SoftTimeLimitExceeded, JobTimeoutError])
@pytest.mark.parametrize("is_connected", [False, True])
def test_the_time_limit_of_the_crms_own_task_reaches_the_task(
    active_environment: Environment,
    frozen: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
    limit: type[Exception],
    is_connected: bool,
) -> None:
    """It says nothing about the operation, which is recorded already."""

    def end(*_: object) -> None:
        raise limit

    if is_connected:
        wake("bulk")
    handler = signal.signal(signal.SIGALRM, end)
    try:
        with frozen():
            signal.setitimer(signal.ITIMER_REAL, ANSWER_S / 2)
            with pytest.raises(limit):
                enqueue.fees(account_login="7", request_id="W1")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)

    assert enqueue.status("fees.process:W1") is not None
    monkeypatch.setattr(wake_up, "_sent_at", {})
    wake_soon("money")
    assert until(lambda: unread(active_environment, "money")) == [{"ledger_id": ledger().id, "lane": "money"}]
