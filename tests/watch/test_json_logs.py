"""With B2COPY_LOG_FORMAT=json every line is an object that parses, and no line holds a secret."""

import io
import json
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import enqueue
from tests.support import until
from worker.operation import FINAL
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process
from worker.watch.json_logs import log_what_nobody_catches, use_json
from worker.watch.log_redaction import guard

CANARY = "canary7"


def json_in_json(secret: str, depth: int) -> str:
    text = json.dumps({"access_token": secret, "other": [1, None]})
    for _ in range(depth):
        text = json.dumps({"body": text})
    return text


secrets = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(lambda text: f"{CANARY}{text}{CANARY}")
forms = st.one_of(
    st.builds(json_in_json, secrets, st.integers(0, 3)),
    st.builds(lambda secret: repr({"password": secret}), secrets),
    st.builds(lambda secret: repr({"headers": [("Authorization", f"Bearer {secret}")]}), secrets),
    st.just(f"redis://user:{CANARY}@host:6379/0"),
    st.just(f"Authorization: Bearer {CANARY}\r\nAccept: */*"),
    st.just(f"POST /x?token={CANARY}&y=1"),
)


def logger_to(stream: io.StringIO) -> logging.Logger:
    logger = logging.Logger("crm")
    logger.addHandler(logging.StreamHandler(stream))
    use_json(logger)
    guard(logger)
    return logger


@given(forms, forms, st.booleans())
def test_no_line_holds_a_secret_and_every_line_parses(first: str, second: str, as_argument: bool) -> None:
    stream = io.StringIO()
    logger = logger_to(stream)
    extra: dict[str, Any] = {
        "body": second,
        "nested": {"answer": second},
        "api_token": CANARY,
        "object": Exception(second),
    }

    try:
        raise ValueError(first)
    except ValueError:
        logger.exception(*(("answer: %s", first) if as_argument else (first,)), extra=extra)

    [line] = stream.getvalue().splitlines()
    assert CANARY not in line
    fields = json.loads(line)
    assert (fields["level"], fields["logger"]) == ("error", "crm")
    assert "Traceback" in fields["error"]


def test_a_field_has_an_end() -> None:
    stream = io.StringIO()
    logger_to(stream).error("long", extra={"body": "x" * 1_000_000})

    assert len(stream.getvalue()) < 10_000


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    import sys

    before = (sys.excepthook, threading.excepthook)
    log_what_nobody_catches()
    yield caplog
    logging.captureWarnings(False)
    sys.excepthook, threading.excepthook = before


def test_warnings_and_exceptions_that_nobody_caught_are_records(records: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("Bearer canary7")

    thread = threading.Thread(target=fail, name="sender 3")
    thread.start()
    thread.join()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("token=canary7", stacklevel=1)

    assert "ended the thread sender 3" in records.text
    assert [record.name for record in records.records] == ["worker.watch.json_logs", "py.warnings"]


def test_a_worker_logs_a_line_for_each_attempt_and_everything_as_json(
    worker: Callable[..., Process], active_environment: Environment
) -> None:
    process = worker(B2COPY_LOG_FORMAT="json")
    enqueue.fees(account_login="7", request_id="W1")
    until(lambda: (found := enqueue.status("fees.process:W1")) and found.state in FINAL, 15)
    until(lambda: '"operation": "fees.process:W1"' in process.log.read_text())

    lines = [json.loads(line) for line in process.log.read_text().splitlines() if line.startswith("{")]
    attempt = next(line for line in lines if line.get("outcome") == "done")
    assert (attempt["operation"], attempt["kind"], attempt["lane"]) == ("fees.process:W1", "fees.process", "money")
    assert (attempt["state"], attempt["http_status"], attempt["request_id"]) == ("succeeded", 200, "W1")
    assert attempt["duration_ms"] >= 0
    assert attempt["worker"]
    assert any(line["logger"].startswith("celery.") for line in lines)
    assert "[2026-" not in process.log.read_text()
