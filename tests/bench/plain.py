"""The plain Celery task: `requests.post` in a task, fed by `delay`. Acked early, no result, no retry, no ledger.

As a part it is the feeder; its worker is started with `celery -A tests.bench.plain`.
"""

import logging
import os

import requests
from celery import Celery

from tests.bench.loop import post
from tests.bench.part import serve

app = Celery("plain", broker=os.environ["BENCH_BROKER"], set_as_current=False)
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
# A line for each task received and done costs a fifth: it is spared them.
for name in ("celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(name).setLevel(logging.WARNING)


@app.task(name="plain.post")
def send(number: int, batch: str) -> None:
    post(requests, number, batch)


def feed(batch: str, count: int) -> None:
    for number in range(count):
        send.delay(number, batch)


if __name__ == "__main__":
    serve(feed=feed)
