"""Keep what cannot become a task: an unknown name, a pickle body, arguments that are no arguments.

Celery acknowledges such a message and writes a log line. Ours is first kept as a failed operation that people see, and
only then acknowledged; while the ledger is away it goes back to the queue.
"""

import logging
from typing import Any

from celery.worker.consumer import Consumer

from tasks.inbox import keep

log = logging.getLogger(__name__)


class Inbox(Consumer):
    """Celery's consumer (`worker_consumer`), whose callbacks for messages it cannot take keep them."""

    def __init__(self, *args: Any, worker_options: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Leave out the talk between workers: it costs a second at the start, and while Redis is frozen the heartbeat
        would keep a worker from ending."""
        alone = {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}
        super().__init__(*args, worker_options={**(worker_options or {}), **alone}, **kwargs)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        take = super().create_task_handler(*args, **kwargs)

        def take_or_keep(message: Any) -> None:
            if why := _unfit(message):
                self._keep(message, why)
            else:
                take(message)

        return take_or_keep

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self._keep(message, "not a task message")

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._keep(message, f"there is no task {_name(message)!r}")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._keep(message, str(exc))

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._keep(message, f"the body can't be decoded: {exc}")

    def _keep(self, message: Any, why: str) -> None:
        headers = message.headers if isinstance(message.headers, dict) else {}
        # A message without an id of its own is told from others by its delivery.
        message_id = str(headers.get("id") or message.properties.get("correlation_id") or message.delivery_tag)
        raw = message.body if isinstance(message.body, str) else message.body.decode(errors="backslashreplace")
        if keep(message_id, _name(message), why, headers.get("origin"), raw):
            message.ack_log_error(log, self.connection_errors)
        else:
            message.reject_log_error(log, self.connection_errors, requeue=True)


def _name(message: Any) -> str:
    return str(message.headers.get("task", "unknown")) if isinstance(message.headers, dict) else "unknown"


def _unfit(message: Any) -> str | None:
    """Why a pool would choke on it: Celery looks into the body only there, where a failure holds its slot for ever.

    https://docs.celeryq.dev/en/stable/internals/protocol.html#version-2
    """
    headers = message.headers
    if not isinstance(headers, dict) or "task" not in headers:
        return None  # version 1, which is looked into before
    if not isinstance(headers["task"], str) or not isinstance(headers.get("id"), str):
        return "the headers task and id must be text"
    if headers.get("eta"):
        return "an eta or countdown is not kept here: send the message when it is time"
    try:
        body = message.payload
    except Exception:  # whatever it is, Celery meets it too and tells its callbacks
        return None
    if isinstance(body, dict) and "args" in body:
        return None  # a mix of both versions, looked into before
    match body:
        case [list(), dict(), *_]:
            return None
    return "the body must be a list of arguments, named arguments and options"
