"""Many operations may share one wake-up: its sender sends no other for a moment, and its reader stays that long."""

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import event

from tasks import enqueue
from tests.flow.conftest import Engine, LocalDestination, in_background
from tests.operations import find_operation, record_operation
from tests.support import until
from worker.flow import lane
from worker.ledger import Ledger
from worker.messages import wake_up
from worker.operation import State
from worker.queues import WAKE_UP_LASTS_S, queue_of
from worker.testbed.broker import Broker
from worker.testbed.local_system import Environment

CountUnread = Callable[[], int]


@pytest.fixture
def count_unread(broker: Broker) -> CountUnread:
    """Removes the unread wake-ups and returns how many there were."""

    def count() -> int:
        with broker.client as client:
            return sum(client.lpop(queue_of("money")) is not None for _ in range(client.llen(queue_of("money"))))

    return count


def test_a_wake_up_serves_what_is_enqueued_soon_after(
    active_environment: Environment, count_unread: CountUnread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake_up, "_sent_at", {})
    monkeypatch.setattr(wake_up, "WAKE_UP_LASTS_S", 60.0)
    enqueue.fees(account_login="7", request_id="W1")
    assert count_unread() == 1

    enqueue.fees(account_login="7", request_id="W2")
    assert count_unread() == 0

    monkeypatch.setattr(wake_up, "WAKE_UP_LASTS_S", 0.0)
    enqueue.fees(account_login="7", request_id="W3")
    assert count_unread() == 1


def test_a_drain_stays_for_what_is_recorded_without_a_wake_up(
    ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "RECHECK_AFTER_S", 1.0)
    queries: list[object] = []
    event.listen(ledger.engine, "commit", queries.append)
    drain = threading.Thread(target=engine().drain, args=("money",))
    drain.start()
    until(lambda: queries)  # it has found nothing

    record_operation(ledger)

    drain.join(10)
    assert find_operation(ledger).state == State.SUCCEEDED
    assert len(queries) < 10  # meanwhile it sleeps


def test_a_running_drain_stays_as_long_after_a_further_wake_up(
    ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "RECHECK_AFTER_S", 0.0)
    may_answer = threading.Event()
    record_operation(ledger)
    pusher = engine(LocalDestination(lambda request_id: may_answer.wait(20) and {}))
    drain = in_background(pusher)
    until(lambda: find_operation(ledger).state == State.RUNNING)
    monkeypatch.setattr(lane, "RECHECK_AFTER_S", 60.0)

    pusher.drain("money")
    may_answer.set()
    until(lambda: find_operation(ledger).state == State.SUCCEEDED)
    drain.join(0.3)  # the time in which it would end

    assert drain.is_alive()
    pusher.stop()
    drain.join(20)


def test_a_drain_stays_longer_than_a_wake_up_lasts() -> None:
    assert lane.RECHECK_AFTER_S > WAKE_UP_LASTS_S
