"""The plain Celery task: `requests.post` in a task, called with `delay`. Early ack, no result, no retry, no ledger.

Run as a module it is the process that calls `delay`. Its worker is `celery -A tests.bench.plain worker`.
"""

import logging
import os

import requests
from celery import Celery

from tests.bench.loop import post
from tests.bench.part import serve

app = Celery("plain", broker=os.environ["BENCH_BROKER"], set_as_current=False)
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
# Celery's two log lines per task cost a fifth of the throughput, so the plain task runs without them.
for name in ("celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(name).setLevel(logging.WARNING)


def send(number: int, batch: str) -> None:
    post(requests, number, batch)


task = app.task(name="plain.post")(send)


def feed(batch: str, count: int) -> None:
    for number in range(count):
        task.delay(number, batch)


if __name__ == "__main__":
    serve(feed=feed)
