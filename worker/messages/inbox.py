"""Take in messages: record what they ask for, wake a worker, acknowledge.

Acknowledgement is late: a message leaves the broker only after the ledger has committed.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery.exceptions import Reject
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from worker.app import app, ledger
from worker.errors import BadPayload
from worker.kind import Kind
from worker.ledger import DATABASE_UNAVAILABLE_ERRORS, fail_message, record
from worker.messages.wake_up import wake_soon
from worker.settings import crm_settings

log = logging.getLogger(__name__)

# Acknowledged when the ledger has it, and not lost with the pool process that was recording it. Such a task does
# nothing else, so that no message can kill one process after the other.
_OPTIONS = {"bind": True, "acks_late": True, "reject_on_worker_lost": True}

PATIENCE_S = 3.0  # for a database that is unavailable; shorter than the broker's visibility timeout, after which the
# message would come a second time


def register_task(kind: Kind[Any]) -> None:
    """Register the Celery task `b2copy.<kind>`, which takes in messages that ask for an operation of this kind."""

    def take(self: Any, *args: Any, **kwargs: Any) -> None:
        take_in(kind, self.request, args, kwargs)

    take.__doc__ = f"Take in a message that asks for {kind.name}: {', '.join(kind.payload.model_fields)}."
    app.task(name=f"b2copy.{kind.name}", **_OPTIONS)(take)


def take_in(kind: Kind[Any], request: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Record the operation that a message asks for. If that is impossible, store a failed operation that people see."""
    try:
        new = kind.new(_fields(kind, args, kwargs), crm_settings())
        _with_patience(lambda: record(ledger(), [new], by=_sender(request.origin)))
    except RetryError:
        log.warning("the ledger is unavailable: message %s goes back to the queue", request.id)
        raise Reject("the ledger is unavailable", requeue=True) from None
    except Exception as error:  # BadPayload is the sender's fault, anything else is ours: both must be seen
        if not isinstance(error, BadPayload):
            log.exception("message %s failed on our side", request.id)
        raw = json.dumps({"args": args, "kwargs": kwargs}, default=str)
        if not store_failed(request.id, request.task, str(error), request.origin, raw):
            raise Reject("the ledger is unavailable", requeue=True) from None
    else:
        wake_soon(new.lane)


def store_failed(message_id: str, task: str, problem: str, origin: str | None, raw: str) -> bool:
    """Store a message that cannot be recorded as a failed operation. Returns False if it could not be stored."""
    log.error("message %s cannot be recorded: %s", message_id, problem)
    try:
        _with_patience(lambda: fail_message(ledger(), message_id, task, problem, by=_sender(origin), raw=raw))
    except Exception:  # whatever it was, a message that is not stored must not be acknowledged
        log.exception("message %s was not stored and goes back to the queue", message_id)
        time.sleep(1)
        return False
    return True


def _sender(origin: str | None) -> str:
    return f"message from {origin or 'unknown'}"


def _with_patience(work: Callable[[], Any]) -> None:
    """Raises `RetryError` if the ledger is still unavailable after `PATIENCE_S`."""
    retrying = Retrying(
        retry=retry_if_exception_type(DATABASE_UNAVAILABLE_ERRORS),
        wait=wait_fixed(0.25),
        stop=stop_after_delay(PATIENCE_S),
    )
    retrying(work)


def _fields(kind: Kind[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = list(kind.payload.model_fields)
    if len(args) > len(names):
        raise BadPayload(f"{kind.name}: {len(args)} arguments for {len(names)} fields: {', '.join(names)}")
    fields = dict(zip(names, args, strict=False))
    if doubled := fields.keys() & kwargs.keys():
        raise BadPayload(f"{kind.name}: {', '.join(sorted(doubled))} given twice")
    return fields | dict(kwargs)
