"""Take in messages: record what they ask for, wake a worker, acknowledge. Late acks: a message leaves the broker only
after the ledger has committed."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from celery.exceptions import Reject
from sqlalchemy.exc import OperationalError
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from tasks.kind import Kind
from tasks.wake import wake
from worker.app import ledger
from worker.errors import BadPayload
from worker.ledger import fail_message, record

log = logging.getLogger(__name__)

# Shorter than the broker's visibility timeout, after which the message would come a second time.
PATIENCE = 5.0  # seconds to wait for a database that is away


def take_in(kind: Kind[Any], request: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Record the operation a message asks for; one that can't be taken becomes a failed operation that people see."""
    patient = Retrying(
        retry=retry_if_exception_type(OperationalError), wait=wait_fixed(0.25), stop=stop_after_delay(PATIENCE)
    )
    try:
        patient(_record, kind, request, args, kwargs)
    except RetryError:
        log.warning("the ledger is away: message %s goes back to the queue", request.id)
        raise Reject("the ledger is away", requeue=True) from None


def _record(kind: Kind[Any], request: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    sender = f"message from {request.origin or 'unknown'}"
    try:
        new = kind.new(_fields(kind, args, kwargs))
        record(ledger(), [new], by=sender)
    except BadPayload as error:
        raw = json.dumps({"args": args, "kwargs": kwargs}, default=str)
        fail_message(ledger(), request.id, request.task, str(error), by=sender, raw=raw)
        log.error("message %s can't be taken: %s", request.id, error)
    else:
        wake(new.lane)


def _fields(kind: Kind[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = list(kind.payload.model_fields)
    if len(args) > len(names):
        raise BadPayload(f"{kind.name}: {len(args)} arguments for {len(names)} fields: {', '.join(names)}")
    fields = dict(zip(names, args, strict=False))
    if doubled := fields.keys() & kwargs.keys():
        raise BadPayload(f"{kind.name}: {', '.join(sorted(doubled))} given twice")
    return fields | dict(kwargs)
