"""A Celery app that keeps everything ours does not: results, tracebacks, events, DEBUG logs. For what they may hold."""

import os

from celery import Celery

from worker.http.client import Http
from worker.session.shared import SharedSession
from worker.settings import worker_settings

URL = os.environ.get("B2COPY_REDIS_URL", "")
app = Celery("canary", broker=URL, backend=URL)
app.conf.update(
    task_send_sent_event=True, worker_send_task_events=True, result_extended=True, worker_hijack_root_logger=True,
    broker_connection_retry_on_startup=True,
)  # fmt: skip


@app.task(name="canary.post")
def post(path: str) -> str:
    """Call B2COPY; return what it said, or fail with what happened."""
    settings = worker_settings()
    return Http(SharedSession(settings), settings).post(path, {}, repeatable=True).body.decode()
