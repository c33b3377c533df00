"""A notice to the CRM's own Celery task: a message as any Celery client sends it, or an error that makes it wait."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kombu.connection import Connection

from tasks import enqueue
from tests.support import until
from tests.tasks.conftest import ended
from tests.webhook.test_endpoint import BODY, TRACE
from worker.errors import GateClosed, LeaseTooShort, Unavailable
from worker.flow.meaning_table import Becomes, meaning_of
from worker.http import event_loop
from worker.instances import ledger
from worker.ledger import search
from worker.queues import UNACKED, UNACKED_INDEX
from worker.settings import Settings
from worker.testbed.broker import Broker
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process
from worker.webhook.notify_task import NotifyTask


def publish(redis_url: str, before_send: Any = lambda: None, **settings: Any) -> None:
    usual = {"redis_url": redis_url, "redis_ca_file": None, "notify_broker_url": None, "notify_queue": "crm"}
    made = Settings.model_construct(**usual | {"notify_task": "crm.fees_ended"} | settings)
    event_loop().run(NotifyTask(made).publish("ntc_1_ab", BODY, TRACE, before_send))


def received(url: str, queue: str = "crm") -> Any:
    """Return the next message of a queue, as a foreign client reads it."""
    with Connection(url) as connection, connection.SimpleQueue(queue) as simple:
        message = simple.get(timeout=5)
        message.ack()
        return message


def test_the_task_gets_the_webhooks_body_under_the_notices_id(broker: Broker) -> None:
    publish(broker.url)
    publish(broker.url)

    messages = [received(broker.url) for _ in range(2)]
    assert {message.headers["id"] for message in messages} == {"ntc_1_ab"}
    assert messages[0].headers["task"] == "crm.fees_ended"
    assert messages[0].headers["traceparent"] == TRACE
    args, kwargs, _ = messages[0].payload
    assert (args, kwargs) == ([json.loads(BODY)], {})


def test_a_broker_of_the_crms_own_gets_it_instead_of_ours(broker: Broker) -> None:
    theirs = broker.url.replace("/0", "/1") if broker.url.endswith("/0") else f"{broker.url}/1"
    publish(broker.url, notify_broker_url=theirs)

    assert received(theirs).headers["id"] == "ntc_1_ab"


@pytest.mark.parametrize("fault", ["dead", "read-only"])
def test_a_broker_that_takes_nothing_makes_the_notice_wait(broker: Broker, fault: str, tmp_path: Path) -> None:
    url = "redis://127.0.0.1:1/0" if fault == "dead" else broker.url
    if fault == "read-only":
        with Connection(broker.url) as connection:
            connection.default_channel.client.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(Unavailable, match="the CRM's broker did not take the message") as caught:
            publish(url)
    finally:
        with Connection(broker.url) as connection:
            connection.default_channel.client.config_set("min-replicas-to-write", 0)

    assert meaning_of(caught.value).becomes is Becomes.WAIT


def test_nothing_is_published_if_the_lease_is_too_short(broker: Broker) -> None:
    def refuse() -> None:
        raise LeaseTooShort("too little is left of the lease")

    with pytest.raises(GateClosed):
        publish(broker.url, refuse)
    with Connection(broker.url) as connection:
        assert until(lambda: connection.default_channel.client.llen("crm") == 0)


HOLDING_CRM = """
import os, time
from celery import Celery

app = Celery("crm", broker=os.environ["B2COPY_REDIS_URL"])

@app.task(name="crm.fees_ended", acks_late=True)
def fees_ended(notice):
    with open(os.environ["TOLD"], "a") as told:
        told.write(notice["data"]["key"] + "\\n")
    while not os.path.exists(os.environ["MAY_END"]):
        time.sleep(0.02)
"""


def test_a_notice_that_the_crms_worker_holds_for_long_on_our_redis_stays_the_crms(
    active_environment: Environment, worker: Callable[..., Process], tmp_path: Path
) -> None:
    (tmp_path / "holding_crm.py").write_text(HOLDING_CRM)
    told, may_end = tmp_path / "told", tmp_path / "may_end"
    solo = ("--pool", "solo", "--without-mingle", "--without-gossip")
    variables: Any = {"PYTHONPATH": str(tmp_path), "TOLD": str(told), "MAY_END": str(may_end)}
    active_environment.run("crm", sys.executable, "-m", "celery", "-A", "holding_crm", "worker", *solo, **variables)
    worker(B2COPY_NOTIFY_TASK="crm.fees_ended")
    enqueue.fees(account_login="7", request_id="W1")
    until(told.exists)

    with active_environment.broker.client as client:
        [note] = until(lambda: client.hvals("unacked"))  # the CRM's app keeps kombu's names
        # A damaged note of ours, which is younger than the CRM's: when it has come back, the CRM's would have come too.
        client.hset(UNACKED, "evil", "garbage")
        client.zadd(UNACKED_INDEX, {"evil": time.time()})
        until(lambda: search(ledger(), kind="message"), within=30)

        assert note in client.hvals("unacked")
        assert [found.payload["message"] for found in search(ledger(), kind="message")] == ["garbage"]
        assert client.llen("b2copy.inbox") == 0
        may_end.touch()
        until(lambda: not client.exists("unacked"))
    ended("fees.process:W1")
    assert told.read_text().splitlines().count("fees.process:W1") == 1
