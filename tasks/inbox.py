"""Take in messages: record what they ask for, wake a worker, acknowledge. Late acks: a message leaves the broker only
after the ledger has committed."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery.exceptions import Reject
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from tasks.kind import Kind
from tasks.wake import wake_soon
from worker.app import ledger
from worker.errors import BadPayload
from worker.ledger import AWAY, fail_message, record

log = logging.getLogger(__name__)

# How Celery runs a task that takes messages in: acknowledged when the ledger has it, and not lost with the pool process
# that was just recording it. It does nothing else, so that no message can kill one process after the other.
TAKES_IN = {"bind": True, "acks_late": True, "reject_on_worker_lost": True}

# Shorter than the broker's visibility timeout, after which the message would come a second time.
PATIENCE = 3.0  # seconds to wait for a database that is away


def take_in(kind: Kind[Any], request: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Record the operation a message asks for; one that can't be taken becomes a failed operation that people see."""
    try:
        new = kind.new(_fields(kind, args, kwargs))
        _patiently(lambda: record(ledger(), [new], by=_sender(request.origin)))
    except RetryError:
        log.warning("the ledger is away: message %s goes back to the queue", request.id)
        raise Reject("the ledger is away", requeue=True) from None
    except Exception as error:  # BadPayload is the sender's fault, anything else is ours: both must be seen
        if not isinstance(error, BadPayload):
            log.exception("message %s failed on our side", request.id)
        raw = json.dumps({"args": args, "kwargs": kwargs}, default=str)
        if not keep(request.id, request.task, str(error), request.origin, raw):
            raise Reject("the ledger is away", requeue=True) from None
    else:
        wake_soon(new.lane)


def keep(message_id: str, task: str, why: str, origin: str | None, raw: str) -> bool:
    """Keep a message that can't be taken as a failed operation; return False if the ledger is away."""
    log.error("message %s can't be taken: %s", message_id, why)
    try:
        _patiently(lambda: fail_message(ledger(), message_id, task, why, by=_sender(origin), raw=raw))
    except Exception:  # whatever it was: what is not kept must not be acknowledged
        log.exception("message %s was not kept and goes back to the queue", message_id)
        time.sleep(1)
        return False
    return True


def _sender(origin: str | None) -> str:
    return f"message from {origin or 'unknown'}"


def _patiently(work: Callable[[], Any]) -> None:
    """Raises `RetryError` if the ledger is still away after `PATIENCE`."""
    patient = Retrying(retry=retry_if_exception_type(AWAY), wait=wait_fixed(0.25), stop=stop_after_delay(PATIENCE))
    patient(work)


def _fields(kind: Kind[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = list(kind.payload.model_fields)
    if len(args) > len(names):
        raise BadPayload(f"{kind.name}: {len(args)} arguments for {len(names)} fields: {', '.join(names)}")
    fields = dict(zip(names, args, strict=False))
    if doubled := fields.keys() & kwargs.keys():
        raise BadPayload(f"{kind.name}: {', '.join(sorted(doubled))} given twice")
    return fields | dict(kwargs)
