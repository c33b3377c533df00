"""Messages that no worker can use."""

import pickle
from typing import Any

from kombu.connection import Connection
from kombu.messaging import Producer

from tests.faults.ledger.crm import foreign_app

INBOX = "b2copy.inbox"
TASK = {"task": "b2copy.fees.process", "id": "a", "lang": "py", "argsrepr": "", "kwargsrepr": ""}


def send_all(broker_url: str) -> int:
    """Send one of each sort. Returns how many: each must be stored in the ledger, also what is no message at all."""
    app = foreign_app(broker_url)
    app.send_task("b2copy.nonsense", kwargs={"a": 1}, queue=INBOX)
    app.send_task("b2copy.fees.process", kwargs={"account": "1"}, queue=INBOX)
    app.send_task("b2copy.fees.process", args=["1", "2", "3"], queue=INBOX)
    connect: Any = Connection  # kombu publishes no types
    with connect(broker_url) as connection:
        producer: Any = Producer(connection.channel())  # type: ignore[no-untyped-call]
        body: tuple[Any, ...] = ([], {"account_login": "1", "request_id": "pickled"}, {})
        _publish(producer, "pickled", pickle.dumps(body), "application/x-python-serialize", "binary")
        _publish(producer, "cut", b'[[], {"account_login": "1', "application/json", "utf-8")
        _publish(producer, "bytes", b"\xff\xfe\x00", "application/json", "utf-8")
        _publish(producer, "number", b"7", "application/json", "utf-8")
        connection.default_channel.client.lpush(INBOX, "not a message")
    return 8


def _publish(producer: Any, name: str, body: bytes, content_type: str, encoding: str) -> None:
    producer.publish(
        body,
        routing_key=INBOX,
        exchange="",
        content_type=content_type,
        content_encoding=encoding,
        headers=TASK | {"id": name},
        correlation_id=name,
    )
