"""A Celery app that stores and sends what ours does not: results, tracebacks, events, DEBUG logs."""

import os

from celery import Celery

from tests.support import post as send
from worker.http import Http
from worker.operation import OnUnknown
from worker.session.shared_session import SharedSession
from worker.settings import worker_settings

URL = os.environ.get("B2COPY_REDIS_URL", "")
app = Celery("canary", broker=URL, backend=URL)
app.conf.update(
    task_send_sent_event=True, worker_send_task_events=True, result_extended=True, worker_hijack_root_logger=True,
    broker_connection_retry_on_startup=True,
)  # fmt: skip


@app.task(name="canary.post")  # type: ignore[untyped-decorator]
def post(path: str) -> str:
    """Call B2COPY; return its answer, or fail with the error."""
    settings = worker_settings()
    return send(Http({"service_admin": SharedSession(settings)}, settings), path, {}, OnUnknown.REPEAT).body.decode()
