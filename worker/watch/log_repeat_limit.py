"""Limit how often a log handler writes the same warning or error.

While Redis or the ledger is unavailable, Celery and our own threads meet the same error many times a second.
"""

import logging
import threading
import time

BURST = 3  # warnings of one kind that are written in a window
WINDOW_S = 10.0  # seconds; further warnings of the kind are only counted


class RepeatLimit(logging.Filter):
    """Write `BURST` warnings of one kind per `WINDOW_S`; the first one of the next window says how many were left out.

    Records are of one kind if they come from the same line of code and logger, with the same type of error.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str, int, str], tuple[float, int]] = {}  # kind -> window's begin, count

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write the record."""
        if record.levelno < logging.WARNING:
            return True
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        kind = (record.name, record.pathname, record.lineno, error)
        now = time.monotonic()
        with self._lock:
            began, count = self._seen.get(kind, (now, 0))
            left_out = 0
            if now - began > WINDOW_S:
                left_out, began, count = max(0, count - BURST), now, 0
            self._seen[kind] = (began, count + 1)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} more like this were left out)", None
        return count < BURST


def limit_repeats(logger: logging.Logger) -> None:
    """Limit the handlers of `logger`. Doing it twice changes nothing."""
    for handler in logger.handlers:
        if not any(isinstance(known, RepeatLimit) for known in handler.filters):
            handler.addFilter(RepeatLimit())
