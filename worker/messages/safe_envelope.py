"""Make each item of a queue an envelope that kombu can deliver. Other programs may put any bytes into a queue.

kombu reads the envelope right after it has taken the item from Redis. If that fails, the worker ends and the item is
lost. It would also unpack a compressed body (a few hundred bytes may become gigabytes), restore typed objects from
headers, and put a rejected message wherever the sender's routing says. So an item is checked first and written again
with what we use; one that is unusable is replaced by an envelope that says why and holds the evidence.
"""

import base64
import binascii
import json
import uuid
from collections.abc import Mapping
from typing import Any

from worker.exact_json import unique_names
from worker.messages.bad_message_text import PROBLEM_LIMIT, bounded_ascii, is_bounded_ascii, short
from worker.queues import INBOX, QUEUES

ENVELOPE_LIMIT = 1024 * 1024  # bytes; a payload may have 64 KB of JSON
UNUSABLE = "application/x-b2copy-unusable"  # content type of an envelope that holds only the text of a bad message
# Headers that are taken over; all others are dropped.
_HEADERS = ("task", "id", "origin", "eta", "expires", "problem", "traceparent")
_TEXT_HEADERS = ("task", "id", "problem", "traceparent")


class Unusable(ValueError):
    """The message cannot become an operation: the text says why, for people."""


def deliverable(item: bytes, queue: str) -> bytes:
    """Return an envelope for an item of `queue`. Never raises."""
    try:
        envelope = _checked(item)
    except Exception as error:
        envelope = _unusable(item, str(error) if isinstance(error, Unusable) else f"no message of Celery's: {error}")
    envelope["properties"] = {
        "delivery_tag": str(uuid.uuid4()),
        "correlation_id": envelope["headers"].get("id"),
        "body_encoding": "base64",
        "delivery_info": {"exchange": "", "routing_key": queue},
        "priority": 0,
    }
    return json.dumps(envelope).encode()


def restorable(stored: bytes) -> tuple[str, bytes]:
    """Return queue and item of a delivery that kombu noted as not acknowledged. Never raises.

    A note that is not ours goes to the inbox, where it is stored as a bad message.
    """
    try:
        raw, _, queue = json.loads(stored)
        if isinstance(raw, dict) and queue in QUEUES:
            return queue, json.dumps(raw).encode()
    except Exception:  # noqa: S110  # any error: kombu did not write it
        pass
    return INBOX, stored


def _checked(item: bytes) -> dict[str, Any]:
    if len(item) > ENVELOPE_LIMIT:
        raise Unusable(f"it has {len(item)} bytes, {ENVELOPE_LIMIT} are allowed")
    envelope = json.loads(item, object_pairs_hook=unique_names)
    if not isinstance(envelope, dict):
        raise Unusable("no message of Celery's")
    headers = _checked_headers(envelope.get("headers") or {})
    properties = envelope.get("properties") or {}
    body = _body(envelope.get("body"), properties.get("body_encoding") if isinstance(properties, dict) else None)
    content_type, encoding = envelope.get("content-type"), envelope.get("content-encoding")
    # Such an envelope is our own if a worker has put it back into the queue. Its text is bounded then.
    if content_type == UNUSABLE and not is_bounded_ascii(body):
        raise Unusable(f"its content type is {UNUSABLE}, which no sender may use")
    return {
        "body": base64.b64encode(body).decode(),
        "content-type": content_type if isinstance(content_type, str) else None,
        "content-encoding": encoding if isinstance(encoding, str) else None,
        "headers": headers,
    }


def _checked_headers(headers: Any) -> dict[str, Any]:
    if not isinstance(headers, dict):
        raise Unusable("its headers must be named values")
    if headers.get("compression"):
        raise Unusable("a compressed message is not unpacked: send it without compression")
    checked = {name: headers[name] for name in _HEADERS if headers.get(name) is not None}
    for name, value in checked.items():
        if not isinstance(value, str) and (name in _TEXT_HEADERS or not isinstance(value, int | float)):
            raise Unusable(f"its header {name} must be text")
    return checked


def _body(body: Any, encoding: Any) -> bytes:
    if body is None:
        return b""
    if not isinstance(body, str):
        raise Unusable("its body must be text")
    if encoding in (None, "utf-8", "utf8"):
        return body.encode("utf-8", "surrogatepass")
    if encoding != "base64":
        raise Unusable(f"its body_encoding {short(encoding)} is unknown: base64 is expected")
    try:
        return base64.b64decode(body)
    except (binascii.Error, ValueError):
        raise Unusable("its body is not base64") from None


def _unusable(item: bytes, problem: str) -> dict[str, Any]:
    try:
        given = json.loads(item[:ENVELOPE_LIMIT])["headers"]
    except Exception:
        given = None
    named: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    headers = {name: short(named[name]) for name in ("task", "id", "origin") if isinstance(named.get(name), str)}
    return {
        "body": base64.b64encode(bounded_ascii(item).encode()).decode(),
        "content-type": UNUSABLE,
        "content-encoding": "binary",
        "headers": {"id": str(uuid.uuid4()), **headers, "problem": bounded_ascii(problem, PROBLEM_LIMIT)},
    }
