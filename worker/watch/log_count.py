"""Count what is logged, so that an alert can ask for errors without reading logs."""

import logging

from worker.watch import metrics


class RecordCount(logging.Filter):
    """Counts warnings and errors by level. Drops none."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            metrics.LOG_RECORDS.labels(record.levelname.lower()).inc()
        return True


def count_records(logger: logging.Logger) -> None:
    """Count what the handlers of `logger` write. Doing it twice changes nothing."""
    for handler in logger.handlers:
        if not any(isinstance(known, RecordCount) for known in handler.filters):
            handler.addFilter(RecordCount())
