"""Read a task message of Celery's, both protocol versions, and refuse what this worker does not do.

https://docs.celeryq.dev/en/stable/internals/protocol.html
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from kombu.utils.json import object_hook

from worker import exact_json
from worker.messages.bad_message_text import short
from worker.messages.safe_envelope import UNUSABLE, Unusable

_JSON, _PICKLE = "application/json", "application/x-python-serialize"  # a pickle could run code
# What the sender wants to happen after the task. This worker would publish it with its own rights, and "after the task"
# is when the operation was recorded, not when B2COPY has done it.
_FOLLOW_UPS = ("callbacks", "errbacks", "chain", "chord")
_SHAPE = "the body must be three parts: a list of arguments, named arguments and options"


class TaskMessage(NamedTuple):
    """What a message asks for. `expires_at`: after this time the sender does not want it any more."""

    id: str
    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    origin: str | None
    expires_at: datetime | None
    traceparent: str | None = None


def read_task_message(message: Any) -> TaskMessage:
    """Read a kombu message. Raises `Unusable`, and any error that decoding foreign bytes raises."""
    headers: Mapping[str, Any] = message.headers
    if message.content_type == UNUSABLE:
        raise Unusable(headers.get("problem", "no message of Celery's"))
    body = _decoded(message)
    # Version 1 has everything in the body; there is also a mix, whose headers count.
    fields = {**body, **headers} if isinstance(body, dict) and "args" in body else dict(headers)
    if "task" not in fields or (isinstance(body, dict) and "args" not in body and "task" not in headers):
        raise Unusable("not a task message")
    if not isinstance(fields["task"], str) or not isinstance(fields.get("id"), str) or not fields["id"]:
        raise Unusable("task and id must be text")
    if isinstance(body, dict) and "args" in body:
        args, kwargs, options = body["args"], body.get("kwargs", {}), body
    elif isinstance(body, list) and len(body) == 3:
        args, kwargs, options = body
    else:
        raise Unusable(_SHAPE)
    if not (isinstance(args, list) and isinstance(kwargs, dict) and isinstance(options, dict)):
        raise Unusable(_SHAPE)
    if unwanted := [name for name in _FOLLOW_UPS if options.get(name)]:
        raise Unusable(
            f"{', '.join(unwanted)}: this worker starts no other tasks. Ask for the operation alone, and for its state"
            " with enqueue.status or b2copy-sync status"
        )
    if fields.get("eta"):
        raise Unusable("an eta or countdown is not supported here: send the message when it is time")
    origin = fields.get("origin")
    return TaskMessage(
        id=fields["id"],
        task=fields["task"],
        args=args,
        kwargs=kwargs,
        origin=short(origin) if origin else None,
        expires_at=_instant(fields.get("expires")),
        traceparent=short(fields["traceparent"]) if fields.get("traceparent") else None,
    )


def _decoded(message: Any) -> Any:
    if not message.body:
        return None
    if message.content_type != _JSON:
        given = "pickle" if message.content_type == _PICKLE else short(message.content_type)
        raise Unusable(f"the body cannot be decoded: it is {given}, and must be {_JSON}")
    try:
        # A client in Python may send dates and UUIDs in a form of kombu's. No field accepts them: the error says so.
        return exact_json.loads(message.body, restore=object_hook)
    except Exception as error:
        raise Unusable(f"the body cannot be decoded: {type(error).__name__}: {short(error)}") from None


def _instant(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        instant = datetime.fromisoformat(value)
        return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    except (TypeError, ValueError):
        raise Unusable("expires must be a time as Celery writes it: ISO 8601") from None


def arguments_as_text(args: Any, kwargs: Any) -> str:
    """Return arguments as JSON, for evidence."""
    return json.dumps({"args": args, "kwargs": kwargs}, default=str)
