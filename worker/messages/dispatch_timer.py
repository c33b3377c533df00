"""Dispatch from a timer in every worker, so that the system works without beat."""

import logging
import threading
from typing import Any

from celery import bootsteps

log = logging.getLogger(__name__)


class DispatchTimer(bootsteps.StartStopStep):
    """A thread of the worker's main process. In Celery's own timer an unavailable ledger would stop consuming."""

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._stopping = threading.Event()

    def start(self, worker: Any) -> None:
        """Start a thread that dispatches once a second."""
        threading.Thread(target=self._tick, args=(worker.app,), name="b2copy-dispatch", daemon=True).start()

    def stop(self, worker: Any) -> None:
        """End the thread."""
        self._stopping.set()

    def _tick(self, app: Any) -> None:
        dispatch = app.tasks["b2copy.ledger.dispatch"]
        while not self._stopping.wait(1.0):
            try:
                dispatch()
            except Exception as error:  # whatever it was, the next second tries again
                log.warning("dispatch failed: %s", error)
