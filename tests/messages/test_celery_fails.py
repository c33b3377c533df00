"""Whatever Celery itself raises for one message: the message is stored, and the worker goes on."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from celery.worker.consumer import Consumer

from tests.conftest import forget
from tests.messages.delivered import BODY, Delivered
from worker.instances import ledger
from worker.ledger import search
from worker.messages.consumer import CheckingConsumer
from worker.testbed.local_system import Environment


@pytest.fixture
def deliver(active_environment: Environment, monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], Delivered]:
    """Give a message to a consumer whose Celery fails on it."""
    from worker.app import app  # reads the settings, which the fixtures have made

    app.loader.import_default_modules()

    def give(error: Exception) -> Delivered:
        def fails(message: Any) -> None:
            raise error

        monkeypatch.setattr(Consumer, "create_task_handler", lambda self: fails)
        consumer = CheckingConsumer.__new__(CheckingConsumer)
        consumer.app, consumer.connection_errors = app, (ConnectionError, KeyError)
        message = Delivered()
        consumer.create_task_handler()(message)
        return message

    return give


@pytest.mark.parametrize("error", [ValueError("expected 3, got 2"), KeyError("task"), RecursionError(), TypeError()])
def test_a_message_that_celery_fails_on_is_stored_and_acknowledged(
    deliver: Callable[[Exception], Delivered], error: Exception
) -> None:
    message = deliver(error)

    assert message.noted == ["acknowledged"]
    [stored] = search(ledger(), kind="message")
    assert stored.key == "message:m1"
    assert stored.result == {"error": f"Celery failed on it: {type(error).__name__}"}
    assert stored.payload["message"] == json.dumps(BODY)


def test_a_broken_connection_reaches_celery_which_connects_again(deliver: Callable[[Exception], Delivered]) -> None:
    with pytest.raises(ConnectionError):
        deliver(ConnectionError("gone"))

    assert search(ledger(), kind="message") == []


def test_the_message_goes_back_to_the_queue_while_the_ledger_is_away(
    deliver: Callable[[Exception], Delivered], monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.messages import inbox

    monkeypatch.setattr(inbox, "PATIENCE_S", 0.0)
    monkeypatch.setattr(inbox, "_RETURN_PAUSE_S", 0.0)
    monkeypatch.setenv("B2COPY_DATABASE_URL", "postgresql://crm@127.0.0.1:1/crm")
    forget()

    assert deliver(ValueError("x")).noted == ["back to the queue"]
