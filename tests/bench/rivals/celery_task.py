"""A plain Celery task: early ack, no result."""

import logging
from typing import Any

from celery import Celery

from tests.bench.rivals.post import PAUSE_S, REDIS, TRIES, post
from tests.bench.serve import paced, serve

app = Celery("plain", broker=REDIS, set_as_current=False)
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
# Celery's two log lines per task cost a fifth of the throughput, so the plain task runs without them.
for name in ("celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(name).setLevel(logging.WARNING)

retried = {"autoretry_for": (Exception,), "max_retries": TRIES - 1, "default_retry_delay": PAUSE_S}
task = app.task(name="plain.post", **retried)(post)


def feed(batch: str, count: int, per_second: float = 0.0) -> dict[str, Any]:
    calls: list[tuple[str, float, float]] = []
    for name in paced(batch, count, per_second, calls):
        task.delay(name)
    return {"calls": calls}


if __name__ == "__main__":
    serve(feed=feed)
