"""Notices as messages to a Celery task of the CRM's own (B2COPY_NOTIFY_TASK), as any Celery client sends them.

The task gets one argument, a dict: what the body of the webhook is. Its task id is the notice's id, the same each time.
https://docs.celeryq.dev/en/stable/userguide/calling.html
"""

import asyncio
import json
from collections.abc import Callable
from functools import partial

from worker.celery_settings import App, publishing_settings
from worker.errors import Unavailable
from worker.http.answer import one_line
from worker.http.curl import always_allowed
from worker.http.daemon_threads import DaemonThreads
from worker.per_process import PerProcess
from worker.settings import Settings

THREADS = 2  # for calls of the CRM's broker: if it hangs, no other call of this process waits for it


class NotifyTask:
    """The CRM's task. Safe to share between threads and across a fork."""

    def __init__(self, settings: Settings) -> None:
        self._task, self._queue = settings.notify_task, settings.notify_queue
        url = settings.notify_broker_url or settings.redis_url
        at_broker = settings.model_copy(update={"redis_url": url})
        self._app = PerProcess(lambda: App("b2copy-notices", lambda: at_broker, publishing_settings))
        self._threads = PerProcess(lambda: DaemonThreads(THREADS, "b2copy-notices"))

    async def publish(
        self,
        notice_id: str,
        body: str,
        trace_id: str | None = None,
        before_send: Callable[[], None] = always_allowed,
    ) -> None:
        """Send one notice to the CRM's queue. It is delivered if the broker has taken the message.

        Raises `Unavailable` if the broker has not confirmed it, and what `before_send` raises.
        """
        before_send()
        send = partial(self._send, notice_id, body, trace_id)
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads(), send)
        except Exception as error:  # by kombu, the Redis client or the socket
            text = one_line(f"{type(error).__name__}: {error}")
            raise Unavailable(f"notice: the CRM's broker did not take the message: {text}") from None

    def _send(self, notice_id: str, body: str, trace_id: str | None) -> None:
        headers = {"traceparent": trace_id} if trace_id else {}
        self._app().send_task(
            self._task, args=[json.loads(body)], task_id=notice_id, queue=self._queue, headers=headers, retry=False
        )
