"""One worker for all tests of a module, and a Celery client that knows nothing of ours but the broker."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from tests.tasks.conftest import control, ended, fleet, name
from worker.operation import FailureReason, Operation, State
from worker.testbed.local_system import Environment

__all__ = ["control", "crm", "fleet", "name", "publish", "push"]

FEES = "b2copy.fees.process"
Name = Callable[[], str]
Publish = Callable[..., None]


@pytest.fixture
def crm(fleet: Environment) -> Iterator[Any]:
    """A Celery app that knows nothing of ours but the broker."""
    with Celery("crm", broker=fleet.broker.url, set_as_current=False) as app:
        yield app


@pytest.fixture
def publish(crm: Any) -> Publish:
    """Publish a message to the inbox as kombu does, with any body and headers."""

    def raw(body: Any, headers: dict[str, Any], **more: Any) -> None:
        with crm.connection_for_write() as connection:
            connection.Producer().publish(body, exchange="", routing_key="b2copy.inbox", headers=headers, **more)

    return raw


@pytest.fixture
def push(fleet: Environment) -> Callable[[Any], None]:
    """Put any item into the inbox, as a client does that is not kombu."""

    def item(value: Any) -> None:
        with fleet.broker.client as client:
            client.lpush("b2copy.inbox", value if isinstance(value, bytes | str) else json.dumps(value))

    return item


def send(crm: Any, task: str = FEES, *args: Any, **options: Any) -> str:
    return str(crm.send_task(task, args, queue="b2copy.inbox", **options).id)


def stored(message_id: str) -> Operation:
    """Wait for a message to be stored as a failed operation."""
    operation = ended(f"message:{message_id}")
    assert (operation.state, operation.failure_reason) == (State.FAILED, FailureReason.BAD_PAYLOAD)
    return operation


def problem_of(operation: Operation) -> str:
    assert operation.result is not None
    return str(operation.result["error"])
