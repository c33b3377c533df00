"""One line of JSON for each log record, ours and Celery's, and records for what usually goes to stderr unformatted."""

import json
import logging
import sys
import threading
from types import TracebackType
from typing import Any

from worker.iso_time import iso_time
from worker.watch.log_redaction import STANDARD_FIELDS

FIELD_LIMIT = 8192  # characters of one field

log = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """`ts` (RFC 3339, UTC), `level`, `logger`, `event`, the record's extra fields, `error` and `stack`."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "ts": iso_time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        fields |= {name: value for name, value in vars(record).items() if name not in STANDARD_FIELDS}
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        fields |= {name: text for name, text in (("error", record.exc_text), ("stack", record.stack_info)) if text}
        bounded = {name: value[:FIELD_LIMIT] if isinstance(value, str) else value for name, value in fields.items()}
        return json.dumps(bounded, ensure_ascii=False, default=lambda value: str(value)[:FIELD_LIMIT])


def use_json(logger: logging.Logger) -> None:
    """Let all handlers of `logger` write JSON. Call it before `worker.watch.log_redaction.guard`."""
    for handler in logger.handlers:
        handler.setFormatter(JsonFormatter())


def log_what_nobody_catches() -> None:
    """Write warnings and unhandled exceptions, of all threads, as log records: redacted and in the chosen format."""
    logging.captureWarnings(True)
    sys.excepthook = _log_unhandled
    threading.excepthook = lambda args: _log_unhandled(
        args.exc_type, args.exc_value, args.exc_traceback, args.thread.name if args.thread else "unknown"
    )


def _log_unhandled(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, thread: str = "main"
) -> None:
    if issubclass(kind, SystemExit | KeyboardInterrupt):
        return
    problem = (kind, error or kind(), trace)
    log.critical("an exception that nobody caught ended the thread %s", thread, exc_info=problem)
