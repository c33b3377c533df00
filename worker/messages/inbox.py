"""Take in messages: record what they ask for, wake a worker, acknowledge.

Acknowledgement is late: a message leaves the broker only after the ledger has committed. A message that is wrong is
stored as a failed operation `message:<id>`. If a fault of ours prevents its recording, or if this worker does not list
its path, it becomes a row of `b2copy_requests`, where the dispatch of any worker tries it again. In the queue it would
come back at once, as long as the trouble lasts.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from celery.exceptions import Reject
from sqlalchemy import Connection
from sqlalchemy.exc import DataError
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from worker.app import app
from worker.errors import BadPayload, PathNotListed, PayloadConflict
from worker.instances import ledger
from worker.ledger import DATABASE_UNAVAILABLE_ERRORS, fail_message, find, leave_request, record
from worker.ledger.engine import limit_lock_waits
from worker.messages.bad_message_text import NAME_LIMIT, PROBLEM_LIMIT, bounded_ascii, short
from worker.messages.task_message import arguments_as_text
from worker.messages.wake_up import wake_soon
from worker.operation import MESSAGE_SENDER, New, Recorded
from worker.operation_kind import Kind
from worker.settings import crm_settings
from worker.watch import metrics
from worker.watch.outage_log import OutageLog
from worker.watch.tracing import requesting

log = logging.getLogger(__name__)

STORE_TASK = "b2copy.message.store"

# A message is acknowledged when the ledger has it, and is delivered again if the pool process dies while recording it.
# These tasks do nothing but record, so that no message can kill one process after the other.
_OPTIONS = {"acks_late": True, "reject_on_worker_lost": True}

# Seconds to wait for an unavailable ledger. Shorter than the broker's visibility timeout, after which the message would
# be delivered a second time.
PATIENCE_S = 3.0
_RETRY_S = 0.25  # seconds between two tries to record
LOCK_WAIT_MS = 1_000  # ms that a message waits for an open transaction that records the same key
_RETURN_PAUSE_S = 1.0  # seconds before a message goes back to the queue, because the queue delivers it again at once

_outage = OutageLog(log, "the ledger is unavailable: messages go back to the queue")


def register_task(kind: Kind[Any]) -> None:
    """Register the Celery task `b2copy.<kind>`, which takes in messages that ask for an operation of this kind."""

    def take(self: Any, *args: Any, **kwargs: Any) -> None:
        take_in(kind, self.request, args, kwargs)

    take.__doc__ = f"Take in a message that asks for {kind.name}: {', '.join(kind.payload.model_fields)}."
    app.task(name=f"b2copy.{kind.name}", bind=True, **_OPTIONS)(take)


@app.task(name=STORE_TASK, **_OPTIONS)
def store(message_id: str, task: str, problem: str, origin: str | None, raw: str) -> None:
    """Store a bad message. Internal: started by the consumer."""
    if not store_failed(message_id, task, problem, origin, raw):
        raise Reject("the ledger is unavailable", requeue=True)


def take_in(kind: Kind[Any], request: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Record the operation that a message asks for. If that is impossible, store the message for people or dispatch."""
    try:
        new = kind.new(_fields(kind, args, kwargs), crm_settings())
        with requesting(new.kind, new.lane, getattr(request, "traceparent", None)) as trace:
            new = new._replace(trace_id=trace)
            recorded = _with_patience(partial(_record, new, _sender(request.origin)))
    except DATABASE_UNAVAILABLE_ERRORS as error:
        raise _returned(error) from None
    except Exception as error:
        is_wrong = isinstance(error, BadPayload | DataError) and not isinstance(error, PathNotListed)
        if not is_wrong and _left_to_dispatch(kind, request, args, kwargs, error):
            return
        problem = error.summary if isinstance(error, PayloadConflict) else str(error)
        problem, raw = bounded_ascii(problem, PROBLEM_LIMIT), bounded_ascii(arguments_as_text(args, kwargs))
        if not store_failed(request.id, request.task, problem, request.origin, raw):
            raise Reject("the ledger is unavailable", requeue=True) from None
    else:
        _outage.succeeded()
        _count("recorded" if recorded.created else "known")
        wake_soon(new.lane)


def _left_to_dispatch(
    kind: Kind[Any], request: Any, args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception
) -> bool:
    """Leave a message to dispatch after an error of ours or `PathNotListed`.

    Returns False if that fails too, unless it is an outage.
    """
    why, cause = (str(error), None) if isinstance(error, PathNotListed) else ("an error of ours", error)
    log.error("message %s waits in b2copy_requests: %s", short(request.id), why, exc_info=cause)
    try:
        payload, trace = json.dumps(_fields(kind, args, kwargs)), getattr(request, "traceparent", None)
        _with_patience(lambda: leave_request(ledger(), kind.name, payload, _sender(request.origin), trace))
    except DATABASE_UNAVAILABLE_ERRORS as outage:
        raise _returned(outage) from None
    except Exception:
        log.exception("message %s cannot be left in b2copy_requests", short(request.id))
        return False
    _outage.succeeded()
    _count("left")
    return True


def _record(new: New, by: str) -> Recorded:
    """Record one operation. A transaction that holds its key for long holds this process up for a second only."""

    def work(connection: Connection) -> Recorded:
        limit_lock_waits(connection, LOCK_WAIT_MS)
        return record(ledger(), [new], by, connection)[0]

    return ledger().write(work)


def store_failed(message_id: str, task: str, problem: str, origin: str | None, raw: str) -> bool:
    """Store a message that cannot be recorded as a failed operation. Returns False if the ledger is unavailable.

    `problem` and `raw` are texts of `bad_message_text`. If even they cannot be stored, the message is stored without
    them, because a message must not come back for ever.
    """
    log.error("message %s cannot be recorded: %s", short(message_id), problem)
    try:
        _store(message_id, task, problem, origin, raw)
    except DATABASE_UNAVAILABLE_ERRORS as error:  # an outage is no reason to drop the evidence
        _return_later(error)
        return False
    except Exception:
        digest = hashlib.sha256(raw.encode()).hexdigest()
        try:
            _store(digest, "unknown", "neither it nor its evidence can be stored", None, f"sha256 {digest}")
        except Exception as error:
            _return_later(error)
            return False
        log.exception("message %s was stored without its evidence", short(message_id))
    _outage.succeeded()
    _count("refused")
    return True


def _store(message_id: str, task: str, problem: str, origin: str | None, raw: str) -> None:
    """Raises one of `DATABASE_UNAVAILABLE_ERRORS`, or what the database raises about these values."""
    name = message_id if len(message_id) <= NAME_LIMIT and message_id.isprintable() else short(message_id)
    by = _sender(origin)

    def store_once() -> None:
        stored = fail_message(ledger(), name, short(task), problem, by=by, raw=raw)
        if not stored.created and (known := find(ledger(), stored.key)) and known.payload.get("message") != raw:
            # Another message has the same id. Both must be seen.
            digest = hashlib.sha256(raw.encode()).hexdigest()[:16]
            fail_message(ledger(), f"{name}:{digest}", short(task), problem, by=by, raw=raw)

    _with_patience(store_once)


def _count(result: str) -> None:
    metrics.INBOX_MESSAGES.labels(result).inc()


def _returned(error: Exception) -> Reject:
    """Wait, then return what puts the message back into its queue."""
    _return_later(error)
    return Reject("the ledger is unavailable", requeue=True)


def _return_later(error: Exception) -> None:
    _count("returned")
    _outage.failed(error)
    time.sleep(_RETURN_PAUSE_S)


def _sender(origin: str | None) -> str:
    return f"{MESSAGE_SENDER} {short(origin) if origin else 'unknown'}"


def _with_patience(work: Callable[[], Any]) -> Any:
    """Raises one of `DATABASE_UNAVAILABLE_ERRORS` if the ledger is still unavailable after `PATIENCE_S`."""
    retrying = Retrying(
        retry=retry_if_exception_type(DATABASE_UNAVAILABLE_ERRORS),
        wait=wait_fixed(_RETRY_S),
        stop=stop_after_delay(PATIENCE_S),
        reraise=True,
    )
    return retrying(work)


def _fields(kind: Kind[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = list(kind.payload.model_fields)
    if len(args) > len(names):
        raise BadPayload(f"{kind.name}: {len(args)} arguments for {len(names)} fields: {', '.join(names)}")
    fields = dict(zip(names, args, strict=False))
    if doubled := fields.keys() & kwargs.keys():
        raise BadPayload(f"{kind.name}: {', '.join(sorted(doubled))} given twice")
    return fields | dict(kwargs)
