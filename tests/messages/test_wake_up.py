"""Wake-ups: one message per lane is enough, more are sent for a backlog, and a broker that is gone harms nobody."""

import base64
import json
from typing import Any

import pytest

from worker.instances import ledger
from worker.messages import wake_up
from worker.messages.wake_up import AFTER_FAILURE_S, wake, wake_soon, wake_ups_for
from worker.queues import WAKE_UP_LASTS_S
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
