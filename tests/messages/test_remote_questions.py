"""Which broadcast is a question that a worker answers: read in this process; `test_remote_control` asks a worker."""

import base64
import json
from typing import Any

import pytest

from worker.messages.remote_control import ALLOWED, REPLY_EXCHANGE, is_allowed

REPLY = {"exchange": REPLY_EXCHANGE, "routing_key": "q"}


def broadcast(**changes: Any) -> dict[str, Any]:
    """Return a `ping` as kombu broadcasts it; `changes` replace what it asks."""
    question = {"method": "ping", "arguments": {}, "destination": None, "reply_to": REPLY} | changes
    return {
        "body": base64.b64encode(json.dumps(question).encode()).decode(),
        "content-type": "application/json",
        "headers": {"clock": 1},
        "properties": {"body_encoding": "base64", "delivery_tag": "t"},
    }


@pytest.mark.parametrize("method", sorted(ALLOWED))
def test_a_question_is_answered(method: str) -> None:
    assert is_allowed(broadcast(method=method))


@pytest.mark.parametrize(
    "body",
    [
        {"arguments": None},
        {"arguments": {"with_defaults": False}, "method": "conf"},
        {"arguments": {"safe": None}, "method": "active"},
        {"destination": ["worker@host"]},
        {"reply_to": None},
        {"pattern": None},
    ],
    ids=json.dumps,
)
def test_a_question_may_be_asked_in_each_way_that_celery_does(body: dict[str, Any]) -> None:
    assert is_allowed(broadcast(**body))
    assert is_allowed(broadcast(**body) | {"headers": {}})


@pytest.mark.parametrize(
    "body",
    [
        {"method": "shutdown"},
        {"method": ["ping"]},
        {"arguments": {"surprise": 1}},
        {"arguments": {"safe": 1}, "method": "stats"},
        {"destination": "all"},
        {"pattern": "(a+)+$"},
        {"reply_to": {"exchange": "", "routing_key": "celery"}},
        {"reply_to": {"exchange": REPLY_EXCHANGE, "routing_key": ["q"]}},
        {"reply_to": {"exchange": REPLY_EXCHANGE}},
        {"reply_to": "q"},
        {"reply_to": {}},
    ],
    ids=json.dumps,
)
def test_a_command_or_a_question_answered_elsewhere_is_ignored(body: dict[str, Any]) -> None:
    assert not is_allowed(broadcast(**body))


@pytest.mark.parametrize(
    "changes",
    [
        {"properties": {"body_encoding": "utf-8", "delivery_tag": "t"}},
        {"properties": {"body_encoding": "base64", "delivery_tag": ["t"]}},
        {"properties": {"body_encoding": "base64"}},
        {"content-type": "application/x-python-serialize"},
        {"headers": {"compression": "gzip"}},
        {"headers": {"clock": "x"}},
        {"headers": None},
        {"body": "!"},
        {"body": base64.b64encode(b"[]").decode()},
        {"body": base64.b64encode(b"{}").decode()},
    ],
    ids=json.dumps,
)
def test_a_malformed_broadcast_is_ignored(changes: dict[str, Any]) -> None:
    assert not is_allowed(broadcast() | changes)
    assert not is_allowed("no message")
