"""A log line holds no secret, is one record, and steers no terminal, whatever was logged and wherever it goes."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from celery.utils.log import ColorFormatter
from hypothesis import given
from hypothesis import strategies as st

from tests.support import until
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process, clean_environment
from worker.watch.log_redaction import LIMIT, clean, guard
from worker.watch.printable import one_line

FORGED = "x\n[2026-11-24 12:00:00: INFO] operation W9 succeeded\x1b[2K\x1b]0;owned\x07\u202e\x9b31m"


class JsonFormatter(logging.Formatter):
    """Like those of the usual packages: message and extra fields in one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"message": record.getMessage(), "body": getattr(record, "body", None), "error": record.exc_text}
        return json.dumps(fields, ensure_ascii=False)


@pytest.fixture
def log() -> Callable[..., str]:
    """Log through a guarded handler; return what was written."""
    logger = logging.Logger("crm")

    def write(*args: Any, formatter: logging.Formatter | None = None, level: int = logging.ERROR, **more: Any) -> str:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter or logging.Formatter("[%(asctime)s: %(levelname)s] %(message)s"))
        logger.handlers = [handler]
        guard(logger)
        guard(logger)
        logger.log(level, *args, **more)
        return stream.getvalue()

    return write


def starts_of_records(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("    ")]


@given(st.text())
def test_one_line_is_one_line_that_prints(text: str) -> None:
    shown = one_line(text)

    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    assert json.loads(json.dumps(shown)) == shown


def test_a_value_forges_no_record(log: Callable[..., str]) -> None:
    written = log("message %s cannot be recorded: %s", FORGED, "no path")

    assert len(written.splitlines()) == 1
    assert written.rstrip("\n").isprintable()
    assert "x\\n[2026-11-24" in written


def test_an_error_forges_no_record_and_its_traceback_is_still_there(log: Callable[..., str]) -> None:
    try:
        raise ValueError(f"Bearer canary-token {FORGED}")
    except ValueError:
        written = log("it failed", exc_info=True, stack_info=True)

    assert len(starts_of_records(written)) == 1
    assert "    Traceback (most recent call last):" in written
    assert "canary" not in written
    assert all(line.isprintable() for line in written.splitlines())


def test_what_a_format_string_takes_from_outside_forges_no_record(log: Callable[..., str]) -> None:
    formatter = logging.Formatter("[%(levelname)s] %(task_id)s: %(message)s")

    written = log("done", formatter=formatter, extra={"task_id": FORGED})

    assert len(starts_of_records(written)) == 1
    assert "\x1b" not in written


def test_the_colours_of_celery_stay(log: Callable[..., str]) -> None:
    written = log("%s", "\x1b[31mpaid", formatter=ColorFormatter("%(message)s", use_color=True))

    assert written.startswith("\x1b[")
    assert "\\u001b[31mpaid" in written


def test_arguments_that_do_not_fit_are_logged_all_the_same(log: Callable[..., str]) -> None:
    written = log("%d of %d", "password=canary")

    assert "%d of %d" in written
    assert "canary" not in written


def test_a_message_has_an_end(log: Callable[..., str]) -> None:
    assert len(log("x" * 1_000_000)) < LIMIT + 200


@pytest.mark.parametrize("secret", ['pass"word\\', "canary", "a\nb"])
def test_a_line_of_json_is_one_line_that_parses(log: Callable[..., str], secret: str) -> None:
    body = {"access_token": f"canary{secret}", "nested": json.dumps({"password": f"canary{secret}"})}

    written = log("answer: %s", json.dumps(body), formatter=JsonFormatter(), extra={"body": body})

    assert len(written.splitlines()) == 1
    assert "canary" not in written
    assert json.loads(written)["body"]["access_token"] == "[redacted]"


@pytest.mark.parametrize("message", ["done", "Bearer canary-1"])
def test_no_field_of_a_record_holds_a_secret_whatever_the_message_holds(message: str) -> None:
    fields = {"answer": "Bearer canary-2", "body": {"password": "canary-3"}, "safe": "money", "tries": 2}
    record = logging.makeLogRecord({"msg": message, **fields})

    clean(record)

    assert "canary" not in repr(vars(record))
    assert vars(record)["safe"] == "money"
    assert vars(record)["tries"] == 2


def test_a_record_that_was_changed_after_it_was_cleaned_is_cleaned_again(log: Callable[..., str]) -> None:
    record = logging.makeLogRecord({"msg": "done"})
    clean(record)
    record.msg = "Bearer canary"

    clean(record)

    assert record.getMessage() == "Bearer [redacted]"


CRM = """
import logging, sys
from tasks import enqueue
import worker.messages.wake_up

root = logging.getLogger()
before = (list(root.handlers), list(root.filters))
handler = logging.StreamHandler(sys.stdout)              # added after our import
root.addHandler(handler)
logging.getLogger("worker.messages.wake_up").addHandler(logging.StreamHandler(sys.stdout))
ours = [n for n, l in logging.root.manager.loggerDict.items()
        if isinstance(l, logging.Logger) and n.split(".")[0] in ("worker", "tasks")]
for name in ours + ["worker.messages.wake_up"]:
    logging.getLogger(name).warning("redis://:canary@host refused %s", {"access_token": "canary"})
    try:
        raise ValueError("Bearer canary")
    except ValueError:
        logging.getLogger(name).exception("failed")
logging.getLogger("crm").warning("password=theirs")
assert (before, handler.formatter) == (([], []), None)
print(len(ours), "loggers")
"""


def test_our_loggers_redact_in_a_process_of_the_crm_and_nothing_of_the_crms_is_touched() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", CRM],
        env=clean_environment(B2COPY_DATABASE_URL="sqlite:////nowhere", B2COPY_REDIS_URL="redis://127.0.0.1:1/0"),
        capture_output=True,
        text=True,
    )

    assert ran.returncode == 0, ran.stderr
    assert "canary" not in ran.stdout + ran.stderr
    assert ran.stdout.count("redis://:[redacted]@host refused") > 3
    assert "password=theirs" in ran.stdout


def test_messages_from_outside_forge_no_record_in_a_workers_log(
    environment: Environment, worker: Callable[..., Process]
) -> None:
    process = worker()
    for headers in ({"task": "b2copy.nonsense", "id": FORGED}, {"task": "b2copy.call", "id": FORGED}):
        properties = {"delivery_info": {"exchange": "", "routing_key": "b2copy.inbox"}, "delivery_tag": headers["task"]}
        envelope = {
            "body": "W1tdLCB7InBhdGgiOiAieCJ9LCB7fV0=",  # [[], {"path": "x"}, {}]
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers | {"lang": "py", "root_id": FORGED, "kwargsrepr": FORGED, "origin": FORGED},
            "properties": properties | {"body_encoding": "base64", "correlation_id": FORGED},
        }
        with environment.broker.client as client:
            client.lpush("b2copy.inbox", json.dumps(envelope))

    until(lambda: process.log.read_text().count("cannot be recorded") >= 2)

    written = process.log.read_text()
    assert "x\\n[2026-11-24" in written
    assert [line for line in written.splitlines() if line.startswith("[2026-11-24 12:00:00: INFO]")] == []
    assert "\x07" not in written
    assert "\x1b]" not in written
