"""A message as kombu gives it to the consumer."""

import json
from typing import Any

from kombu.message import Message

FEES = "b2copy.fees.process"
BODY = [["7"], {"request_id": "W1"}, {}]


class Delivered(Message):
    """A message that notes what becomes of it."""

    def __init__(self, body: Any = BODY, headers: Any = None, queue: str = "b2copy.inbox", **fields: Any) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {
            "headers": {"task": FEES, "id": "m1", "origin": "crm@host"} | (headers or {}),
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "delivery_tag": "tag",
            "delivery_info": {"exchange": "", "routing_key": queue},
        }
        super().__init__(raw, **(given | fields))  # type: ignore[no-untyped-call]
        self.noted: list[str] = []

    def ack_log_error(self, *args: Any, **options: Any) -> None:
        self.noted.append("acknowledged")

    def reject_log_error(self, *args: Any, requeue: bool = False, **options: Any) -> None:
        self.noted.append("back to the queue" if requeue else "dropped")
