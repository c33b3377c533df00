"""Store what cannot become a task: an unknown name, a pickle body, arguments that are no arguments.

Celery acknowledges such a message and writes a log line. Here it is first stored as a failed operation that people see,
and only then acknowledged. While the ledger is unavailable it goes back to the queue.
"""

import logging
from typing import Any

from celery.worker.consumer import Consumer

from worker.messages.inbox import store_failed

log = logging.getLogger(__name__)


class Inbox(Consumer):
    """Celery's consumer (`worker_consumer`). Its callbacks for messages that it cannot use store them."""

    def __init__(self, *args: Any, worker_options: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Leave out gossip, mingle and heartbeat between workers.

        Mingle costs a second at the start. While Redis is frozen, the heartbeat prevents a worker from ending.
        """
        alone = {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}
        super().__init__(*args, worker_options={**(worker_options or {}), **alone}, **kwargs)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        take = super().create_task_handler(*args, **kwargs)

        def take_or_store(message: Any) -> None:
            if problem := _problem_with(message):
                self._store(message, problem)
            else:
                take(message)

        return take_or_store

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self._store(message, "not a task message")

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._store(message, f"there is no task {_name(message)!r}")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._store(message, str(exc))

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._store(message, f"the body cannot be decoded: {exc}")

    def _store(self, message: Any, problem: str) -> None:
        headers = message.headers if isinstance(message.headers, dict) else {}
        # A message without an id of its own is identified by its delivery tag.
        message_id = str(headers.get("id") or message.properties.get("correlation_id") or message.delivery_tag)
        raw = message.body if isinstance(message.body, str) else message.body.decode(errors="backslashreplace")
        if store_failed(message_id, _name(message), problem, headers.get("origin"), raw):
            message.ack_log_error(log, self.connection_errors)
        else:
            message.reject_log_error(log, self.connection_errors, requeue=True)


def _name(message: Any) -> str:
    return str(message.headers.get("task", "unknown")) if isinstance(message.headers, dict) else "unknown"


def _problem_with(message: Any) -> str | None:
    """Return why a pool could not run this message, or None.

    Celery reads the body only in the pool, where a failure holds its slot for ever.
    https://docs.celeryq.dev/en/stable/internals/protocol.html#version-2
    """
    headers = message.headers
    if not isinstance(headers, dict) or "task" not in headers:
        return None  # protocol version 1, which Celery checks itself
    if not isinstance(headers["task"], str) or not isinstance(headers.get("id"), str):
        return "the headers task and id must be text"
    if headers.get("eta"):
        return "an eta or countdown is not supported here: send the message when it is time"
    try:
        body = message.payload
    except Exception:  # Celery meets it too and calls `on_decode_error`
        return None
    if isinstance(body, dict) and "args" in body:
        return None  # a mix of both versions, which Celery checks itself
    match body:
        case [list(), dict(), dict()]:
            return None
    return "the body must be three parts: a list of arguments, named arguments and options"
