"""The last gate before a log line leaves: no token, whoever wrote it."""

import logging
import re

_SECRETS = re.compile(
    r"(?P<bearer>\b(?:Bearer|Basic)\s+)[^\s'\",}]+"
    r"|(?P<field>[\"']?(?:external_token|access_?token|refresh_?token|secret_key|password)[\"']?\s*[:=]\s*[\"']?)[^\s'\",}]+"
    r"|\beyJ[\w-]+(?:\.[\w-]*){0,2}",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """Return `text` with bearer tokens, JWTs and token fields blanked."""
    return _SECRETS.sub(lambda found: f"{found['bearer'] or found['field'] or ''}[redacted]", text)


class Redacted(logging.Formatter):
    """Another formatter's output, traceback included, redacted."""

    def __init__(self, formatter: logging.Formatter | None) -> None:
        super().__init__()
        self._formatter = formatter or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        return redacted(self._formatter.format(record))


def guard(logger: logging.Logger | None = None) -> None:
    """Redact whatever the handlers of `logger` (the root logger) write. Doing it twice changes nothing."""
    for handler in (logger or logging.getLogger()).handlers:
        if not isinstance(handler.formatter, Redacted):
            handler.setFormatter(Redacted(handler.formatter))
