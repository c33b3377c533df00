"""Log a line when some work begins to fail and when it succeeds again, so that an outage does not fill the log."""

import logging
import threading
import time


class OutageLog:
    """Logs the failures of one kind of work. Thread-safe.

    `failed` logs the first failure and one every `REMIND_S`; `succeeded` logs how many there were.
    """

    REMIND_S = 60.0  # seconds

    def __init__(self, log: logging.Logger, problem: str) -> None:
        """`problem` says what does not work and what happens instead."""
        self._log, self._problem = log, problem
        self._lock = threading.Lock()
        self._count = 0
        self._began = self._reminded = 0.0  # monotonic seconds

    def failed(self, error: BaseException) -> None:
        """Note a failure."""
        now = time.monotonic()
        with self._lock:
            self._count += 1
            if self._count == 1:
                self._began = now
            elif now - self._reminded < self.REMIND_S:
                return
            self._reminded = now
            count = self._count
        text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:500]
        if count == 1:
            self._log.warning("%s: %s", self._problem, text)
        else:
            self._log.warning("%s: %s (%d times in %.0f s)", self._problem, text, count, now - self._began)

    def succeeded(self) -> None:
        """Note a success. Takes no lock while nothing has failed."""
        if not self._count:
            return
        with self._lock:
            count, self._count = self._count, 0
        if count:
            self._log.warning("it works again after %d failures. The problem was: %s", count, self._problem)
