"""Remote commands: a worker answers questions and obeys nobody."""

import json
from typing import Any

import pytest

from tests.messages.conftest import FEES, Name, send
from tests.support import until
from tests.tasks.conftest import ended
from worker.operation import State
from worker.queues import QUEUES
from worker.testbed.local_system import Environment


def test_a_worker_answers_what_doctor_asks_and_does_not_tell_the_password(fleet: Environment, crm: Any) -> None:
    inspect = crm.control.inspect(timeout=10, limit=1)
    [answered] = crm.control.ping(timeout=10, limit=1)
    [queues] = (inspect.active_queues() or {}).values()
    [conf] = (inspect.conf() or {}).values()

    assert list(answered.values()) == [{"ok": "pong"}]
    assert {queue["name"] for queue in queues} == set(QUEUES) - {"b2copy.notify"}  # it has no webhook
    assert "visibility_timeout" in conf["broker_transport_options"]
    assert fleet.broker.url.split(":")[2].partition("@")[0] not in json.dumps(conf)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("cancel_consumer", {"queue": "b2copy.inbox"}),
        ("add_consumer", {"queue": "celery"}),
        ("rate_limit", {"task_name": FEES, "rate_limit": "1/h"}),
        ("time_limit", {"task_name": FEES, "hard": 1}),
        ("pool_shrink", {"n": 8}),
        ("pool_grow", {"n": 500}),
        ("autoscale", {"max": 1, "min": 1}),
        ("revoke", {"task_id": "x"}),
        ("enable_events", {}),
        ("hello", {"from_node": "x", "revoked": {"x": 1}}),
        ("shutdown", {}),
        ("pool_restart", {}),
        ("no such command", {}),
    ],
)
def test_a_worker_obeys_no_command(
    fleet: Environment, crm: Any, name: Name, command: str, arguments: dict[str, Any]
) -> None:
    assert crm.control.broadcast(command, arguments=arguments, reply=True, timeout=0.3) == []

    with fleet.broker.client as client:
        client.lpush("celery", "a neighbour's message")
        request_id = name()
        send(crm, FEES, "7", request_id, task_id="x")
        assert ended(f"fees.process:{request_id}").state == State.SUCCEEDED
        assert client.llen("celery") == 1
        client.delete("celery")
    assert [process.started for process in fleet.processes] == [1]


@pytest.mark.parametrize(
    "change",
    [
        {"reply_to": {"exchange": "", "routing_key": "celery"}},
        {"reply_to": "celery"},
        {"pattern": "(a+)+$", "matcher": "regex"},
        {"arguments": {"surprise": 1}},
        {"destination": "all"},
    ],
    ids=json.dumps,
)
def test_a_question_that_would_be_answered_elsewhere_or_is_malformed_is_ignored(
    fleet: Environment, crm: Any, change: dict[str, Any]
) -> None:
    [worker] = fleet.processes
    with crm.connection_for_write() as connection:
        mailbox = crm.control.mailbox(connection)
        reply_to = {"exchange": mailbox.reply_exchange.name, "routing_key": mailbox.oid}
        question = {"method": "ping", "arguments": {}, "destination": None, "reply_to": reply_to, "ticket": "t"}
        producer = connection.Producer()
        producer.publish(question | change, exchange=mailbox.exchange, declare=[mailbox.exchange], headers={"clock": 1})
        producer.publish("no question", exchange=mailbox.exchange, headers={"clock": "x"})
        for clock in (int("9" * 4_300), -1):  # no JSON writer takes the number after the first one
            producer.publish(question, exchange=mailbox.exchange, headers={"clock": clock})

    [answered] = crm.control.ping(timeout=10, limit=1)

    assert list(answered.values()) == [{"ok": "pong"}]
    with fleet.broker.client as client:
        assert not client.llen("celery")
    until(lambda: "remote command was ignored" in worker.current_log())
    assert worker.started == 1
