"""Clean log records: blank secrets, and escape line ends and terminal codes.

    our loggers ── Redaction ──> any handlers, also those of the CRM or an error tracker
    all loggers ───────────────> our handlers ── Redacted ──> the line

A line that begins at the margin begins a record. All further lines of a record, such as tracebacks, are indented. So a
line end in a value from outside cannot forge a record.
"""

import copy
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worker.watch.printable import many_lines, one_line
from worker.watch.redact import may_hold_secret, redacted, redacted_value

OUR_LOGGERS = ("worker", "tasks")
LIMIT = 32_768  # characters of one message
_INDENT = "    "
_CLEANED = "b2copy_cleaned"  # field of a record that was cleaned
STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", _CLEANED}
"""What every record has; its other fields were given as `extra`."""
_COLOUR = re.compile(r"(\x1b\[[\d;]*m)")  # colour codes of Celery's formatter; those in a message are escaped
_plain = logging.Formatter()


class Redaction(logging.Filter):
    """Cleans a logger's records before any handler sees them. Drops none."""

    def filter(self, record: logging.LogRecord) -> bool:
        clean(record)
        return True


_redaction = Redaction()


class Redacted(logging.Formatter):
    """Formats a cleaned copy of the record with another formatter, and redacts the result once more."""

    def __init__(self, formatter: logging.Formatter | None) -> None:
        super().__init__()
        self._formatter = formatter or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        if not _is_clean(record):
            record = copy.copy(record)
            clean(record)
        text = redacted(self._formatter.format(record))
        if text.isprintable():  # one line
            return text
        if text.startswith("{"):  # JSON: its strings hold no line end
            return many_lines(text)
        first, *others = text.split("\n")
        others = [line if line.startswith(_INDENT) else _INDENT + line for line in others]
        return "\n".join(map(_escape_all_but_colour, [first, *others]))


def clean(record: logging.LogRecord) -> None:
    """Redact and escape a record in place: message, traceback and extra fields. Doing it twice changes nothing."""
    if _is_clean(record):
        return
    try:
        message = record.getMessage()
    except (TypeError, ValueError, KeyError):  # logging would report arguments that do not fit, with their values
        message = f"{record.msg!r} {record.args!r}"
    message = message.rstrip("\n")
    if len(message) > LIMIT:
        message = f"{message[:LIMIT]} ... ({len(message) - LIMIT} more characters)"
    extra = {name: value for name, value in vars(record).items() if name not in STANDARD_FIELDS}
    texts = [value for value in extra.values() if isinstance(value, str)]
    texts_are_safe = not may_hold_secret("\n".join([message, *texts]))  # one check for all, as most records are safe
    record.msg, record.args = one_line(message if texts_are_safe else redacted(message)), ()
    if record.exc_info and not record.exc_text:
        record.exc_text = _plain.formatException(record.exc_info)  # formatters use this text
    record.exc_text = record.exc_text and _indented(record.exc_text)
    record.stack_info = record.stack_info and _indented(record.stack_info)
    for name, value in extra.items():
        if not (texts_are_safe and isinstance(value, str)):
            setattr(record, name, redacted_value(value))
    setattr(record, _CLEANED, None)
    setattr(record, _CLEANED, _state_of(record))


def _is_clean(record: logging.LogRecord) -> bool:
    """Return whether the record was cleaned and has not changed since."""
    return bool(getattr(record, _CLEANED, None) == _state_of(record))


def _state_of(record: logging.LogRecord) -> tuple[Any, ...]:
    return record.msg, record.args, record.exc_info, record.exc_text, record.stack_info, len(vars(record))


def guard(logger: logging.Logger | None = None) -> None:
    """Redact what the handlers of `logger` (the root logger) write. Doing it twice changes nothing."""
    for handler in (logger or logging.getLogger()).handlers:
        if not isinstance(handler.formatter, Redacted):
            handler.setFormatter(Redacted(handler.formatter))


def guard_our_loggers() -> None:
    """Redact what our own loggers log, for all handlers. Touches no logger and no handler of others.

    A filter holds for one logger and not for those below it. So each of our modules gets one, imported or not: some are
    imported later, with the first message to the broker for instance.
    """
    for name in _our_modules():
        logging.getLogger(name).addFilter(_redaction)


def _our_modules() -> Iterator[str]:
    """Return the names of all modules and packages of ours."""
    root = Path(__file__).parents[2]
    for package in OUR_LOGGERS:
        for path in (root / package).rglob("*.py"):
            yield ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _indented(text: str) -> str:
    lines = many_lines(redacted(text)).split("\n")
    return "\n".join(line if line.startswith(_INDENT) else _INDENT + line for line in lines)


def _escape_all_but_colour(line: str) -> str:
    return "".join(part if _COLOUR.fullmatch(part) else one_line(part) for part in _COLOUR.split(line))
