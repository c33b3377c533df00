"""Read every message before Celery does, so that no message ends the worker and none is dropped.

If a message has an unknown name, wrong arguments or a pickle body, Celery writes a log line and acknowledges it; some
bodies raise an error in Celery's own code. Here each message is read first and handed to Celery in one plain form: as a
task of ours with its arguments, or as a call of `b2copy.message.store`, which stores the message as a failed operation
that people see. A read is no operation and must leave nothing in the ledger, so one that is wrong is dropped.
"""

import inspect
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from celery.worker.consumer import Consumer
from kombu.utils.json import dumps

from worker.messages.ask_read import TASK as READ_TASK
from worker.messages.bad_message_text import PROBLEM_LIMIT, bounded_ascii, short
from worker.messages.inbox import STORE_TASK, store_failed
from worker.messages.safe_envelope import UNUSABLE, Unusable
from worker.messages.task_message import TaskMessage, read_task_message
from worker.queues import LANES, READS
from worker.watch.observe import observe_read
from worker.watch.outage_log import OutageLog

log = logging.getLogger(__name__)

_expired = OutageLog(log, "messages of beat expired and are dropped. Did no worker run, or is a machine's clock wrong?")
_OURS = "b2copy."  # other names are refused, because Celery's own tasks run any task that a message names

# The clock of a CRM's host may be so far behind ours, as in `session/timings.py`. Beat's messages live for a minute.
CLOCK_SKEW = timedelta(seconds=5)


class CheckingConsumer(Consumer):
    """Celery's consumer, which checks each message before Celery reads it. Set as `worker_consumer`."""

    def __init__(self, *args: Any, worker_options: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Leave out gossip, mingle and heartbeat between workers.

        Mingle costs a second at the start. While Redis is frozen, the heartbeat prevents a worker from ending.
        """
        alone = {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}
        super().__init__(*args, worker_options={**(worker_options or {}), **alone}, **kwargs)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        """Return what kombu calls for each message."""
        take = super().create_task_handler(*args, **kwargs)

        def take_or_store(message: Any) -> None:
            original = message.body
            try:
                if self._prepare(message):
                    take(message)
                else:
                    message.ack_log_error(log, self.connection_errors)
            except Exception as error:
                # kombu counts KeyError among the connection errors.
                if isinstance(error, self.connection_errors) and not isinstance(error, KeyError):
                    raise
                log.exception("Celery failed on a message. It becomes a failed operation; a read is dropped")
                self._store_here(message, original, f"Celery failed on it: {type(error).__name__}")

        return take_or_store

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self._store_here(message, message.body, "not a task message")

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._store_here(message, message.body, f"there is no task {exc}")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._store_here(message, message.body, str(exc))

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._store_here(message, message.body, f"the body cannot be decoded: {exc}")

    def _prepare(self, message: Any) -> bool:
        """Give `message` its plain form. Returns False if the message needs no work."""
        try:
            wanted = read_task_message(message)
            self._check(wanted)
            now = datetime.now(UTC)
            if wanted.expires_at is not None and self._is_internal(wanted.task):
                if wanted.expires_at <= now:  # a message of the schedule; the next one does the work
                    _expired.failed(TimeoutError(f"{wanted.task} expired at {wanted.expires_at}"))
                    return False
                _expired.succeeded()
            elif wanted.expires_at is not None and wanted.expires_at <= now - CLOCK_SKEW:
                raise Unusable(f"it expired at {wanted.expires_at} before a worker could record it")
        except Exception as error:  # any error that decoding foreign bytes raises
            if self._drop_read(message):
                return False
            problem = str(error) if isinstance(error, Unusable) else f"{type(error).__name__}: {error}"
            wanted = _storing(message, problem)
        message.headers = {"lang": "py", "task": wanted.task, "id": wanted.id, "origin": wanted.origin}
        if wanted.traceparent is not None:
            message.headers["traceparent"] = wanted.traceparent
        message.properties = {"correlation_id": wanted.id}
        message.body = dumps([wanted.args, wanted.kwargs, {}])
        message.content_type, message.content_encoding = "application/json", "utf-8"
        return True

    def _check(self, wanted: TaskMessage) -> None:
        if not wanted.task.startswith(_OURS) or wanted.task == STORE_TASK or wanted.task not in self.app.tasks:
            raise Unusable(f"there is no task {short(wanted.task)!r}")
        if self._is_internal(wanted.task):
            try:
                given = inspect.signature(self.app.tasks[wanted.task].run).bind(*wanted.args, **wanted.kwargs)
            except TypeError as error:
                raise Unusable(f"{wanted.task} is internal, and its arguments are wrong: {error}") from None
            if given.arguments.get("lane", LANES[0]) not in LANES:
                raise Unusable(f"{wanted.task}: there is no such lane; there are {', '.join(LANES)}")

    def _is_internal(self, task: str) -> bool:
        return not self.app.tasks[task].acks_late

    def _drop_read(self, message: Any) -> bool:
        """Return whether a wrong message is a read, and count it. Its arguments may name a client: no log has them."""
        task = message.headers.get("task")
        in_reads = (message.delivery_info or {}).get("routing_key") == READS
        if task != READ_TASK and not (in_reads and task not in self.app.tasks):
            return False
        log.warning("a message that is no usable read was dropped, and nobody gets an answer: use tasks.enqueue.read")
        observe_read("unknown", "malformed")
        return True

    def _store_here(self, message: Any, body: Any, problem: str) -> None:
        """Store a message in this thread, for errors that Celery finds after `_prepare`."""
        if self._drop_read(message):
            message.ack_log_error(log, self.connection_errors)
            return
        arguments = _storing(message, problem, body).kwargs
        if store_failed(**arguments):
            message.ack_log_error(log, self.connection_errors)
        else:
            message.reject_log_error(log, self.connection_errors, requeue=True)


def _storing(message: Any, problem: str, body: Any = None) -> TaskMessage:
    """Return the call that stores a bad message."""
    headers = message.headers
    body = message.body if body is None else body
    raw = body if isinstance(body, bytes | str) else b""
    message_id = headers.get("id") or message.delivery_tag
    kwargs = {
        "message_id": message_id,
        "task": short(headers.get("task", "unknown")),
        "problem": bounded_ascii(problem, PROBLEM_LIMIT),
        "origin": short(headers["origin"]) if headers.get("origin") else None,
        # An unusable envelope holds its evidence already.
        "raw": raw.decode("ascii", "replace") if message.content_type == UNUSABLE and isinstance(raw, bytes)
        else bounded_ascii(raw),
    }  # fmt: skip
    return TaskMessage(message.delivery_tag, STORE_TASK, [], kwargs, None, None)
