"""Dispatch from a timer in every worker, so that the system works without beat."""

import logging
import threading
import time
from typing import Any

from celery import bootsteps

from worker.ledger.due import DISPATCH_EVERY_S
from worker.per_process import fork_lock
from worker.watch.outage_log import OutageLog

log = logging.getLogger(__name__)

_no_fork = fork_lock()

outage = OutageLog(log, "dispatch failed, the next one tries again")
"""Logs failed dispatches: the timer's and those that beat's messages start. The task notes its successes itself."""


class DispatchTimer(bootsteps.StartStopStep):
    """A thread of the worker's main process. In Celery's own timer an unavailable ledger would stop consuming."""

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._stopping = threading.Event()

    def start(self, worker: Any) -> None:
        """Start a thread that dispatches every `DISPATCH_EVERY_S`."""
        threading.Thread(target=self._run, args=(worker.app,), name="b2copy-dispatch", daemon=True).start()

    def stop(self, worker: Any) -> None:
        """End the thread."""
        self._stopping.set()

    def _run(self, app: Any) -> None:
        dispatch = app.tasks["b2copy.ledger.dispatch"]
        began = time.monotonic()
        while not self._stopping.wait(began + DISPATCH_EVERY_S - time.monotonic()):
            began = time.monotonic()
            try:
                with _no_fork:
                    dispatch()
            except Exception as error:
                outage.failed(error)
