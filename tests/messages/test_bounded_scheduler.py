"""Beat's messages do not fill Redis while nobody takes them."""

import logging
import time
from collections.abc import Callable

import pytest

from tests.support import until
from worker.app import app
from worker.messages.bounded_scheduler import WAITING_MAX, BoundedScheduler
from worker.queues import HOUSEKEEPING
from worker.testbed.broker import Broker
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process


def test_beat_sends_nothing_while_its_messages_wait_and_goes_on_when_a_worker_takes_them(
    environment: Environment, worker: Callable[..., Process]
) -> None:
    beat = environment.beat(restarts=False)

    def sent() -> int:
        return beat.current_log().count("Sending due task")

    with environment.broker.client as client:
        message = until(lambda: client.lindex(HOUSEKEEPING, 0))
        client.lpush(HOUSEKEEPING, *[message] * (WAITING_MAX - 10))  # beat sends the last ones
        until(lambda: client.llen(HOUSEKEEPING) >= WAITING_MAX)
        ends = time.monotonic() + 3.0  # three more messages are due
        until(lambda: time.monotonic() >= ends)
        assert client.llen(HOUSEKEEPING) == WAITING_MAX
        assert beat.current_log().count("beat sends nothing") == 1

        worker()
        until(lambda: "it works again" in beat.current_log())
        before = sent()
        until(lambda: sent() >= before + 3)
        assert client.llen(HOUSEKEEPING) < 10


def test_a_redis_that_does_not_tell_how_many_wait_keeps_beat_from_nothing(
    active_environment: Environment, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = BoundedScheduler(app)
    entry, producer = scheduler.schedule["wake what is due"], scheduler.producer
    broker.kill()

    with caplog.at_level(logging.ERROR):
        scheduler.apply_entry(entry, producer)
    assert [record.name for record in caplog.records] == ["celery.beat"]

    broker.start()
    scheduler.apply_entry(entry, producer)
    with broker.client as client:
        assert client.llen(HOUSEKEEPING) == 1
