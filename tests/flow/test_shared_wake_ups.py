"""Many operations may share one wake-up: who enqueues sends none for a moment, and who reads one stays that long."""

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import event

from tasks import enqueue
from tests.flow.conftest import put
from tests.support import until
from worker.flow import pusher as module
from worker.flow.pusher import Pusher
from worker.flow.retry_policy import RetryPolicy
from worker.ledger import Ledger, search
from worker.messages import wake_up as wake
from worker.operation import Outcome, State
from worker.queues import WAKE_UP_LASTS_S, queue_of
from worker.settings import worker_settings
from worker.testbed.broker import Broker
from worker.testbed.environment import Stage

Unread = Callable[[], int]


@pytest.fixture
def unread(broker: Broker) -> Unread:
    """Takes the unread wake-ups away, and tells how many they were."""

    def take() -> int:
        with broker.client as client:
            return sum(client.lpop(queue_of("money")) is not None for _ in range(client.llen(queue_of("money"))))

    return take


def test_a_wake_up_serves_what_is_enqueued_soon_after(
    in_stage: Stage, unread: Unread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake, "_sent", {})
    monkeypatch.setattr(wake, "WAKE_UP_LASTS_S", 60.0)
    enqueue.fees(account_login="7", request_id="W1")
    assert unread() == 1

    enqueue.fees(account_login="7", request_id="W2")
    assert unread() == 0

    monkeypatch.setattr(wake, "WAKE_UP_LASTS_S", 0.0)
    enqueue.fees(account_login="7", request_id="W3")
    assert unread() == 1


def test_a_drain_stays_for_what_is_recorded_without_a_wake_up(
    books: Ledger, policy: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STAY", 1.0)
    looks: list[object] = []
    event.listen(books.engine, "commit", looks.append)
    pusher = Pusher(books, {"fees.process": lambda claim: Outcome("done")}, worker_settings(), policy)
    drain = threading.Thread(target=pusher.drain, args=("money",))
    drain.start()
    until(lambda: looks)  # it has found nothing

    put(books, "W1")

    drain.join(10)
    [operation] = search(books)
    assert operation.state is State.SUCCEEDED


def test_a_drain_stays_longer_than_a_wake_up_lasts() -> None:
    assert module.STAY > WAKE_UP_LASTS_S
