"""Which of Celery's remote commands a worker obeys: questions only.

Every client that may publish to Redis can send a command to all workers: to stop taking messages, to serve another
queue, to shut down. An answer goes wherever the command says, with our rights, unless that is checked.
"""

import base64
import json
from typing import Any

ALLOWED = frozenset({"ping", "active_queues", "conf", "stats", "active", "reserved", "registered"})
REPLY_EXCHANGE = "reply.celery.pidbox"


def is_allowed(message: Any) -> bool:
    """Return whether a broadcast message is one of these questions, well formed. Never raises."""
    try:
        body = json.loads(base64.b64decode(message["body"]))
        is_simple = body.get("arguments") in (None, {}) or body["method"] in {"conf", "active"}
        return (
            message["properties"]["body_encoding"] == "base64"
            and isinstance(message["properties"]["delivery_tag"], str)
            and message["content-type"] == "application/json"
            and not message["headers"].get("compression")
            and _is_clock(message["headers"].get("clock", 0))
            and body["method"] in ALLOWED
            and is_simple
            and isinstance(body.get("destination"), list | None)
            and not body.get("pattern")  # a regular expression of a stranger's may run for hours
            and (body.get("reply_to") is None or _is_reply_queue(body["reply_to"]))
        )
    except Exception:  # any error that decoding foreign bytes raises
        return False


def _is_clock(value: Any) -> bool:
    """Return whether this is a logical clock of Celery's. The highest one seen goes into every answer from then on."""
    return isinstance(value, int) and 0 <= value < 2**53


def _is_reply_queue(reply_to: Any) -> bool:
    return reply_to["exchange"] == REPLY_EXCHANGE and isinstance(reply_to["routing_key"], str)
