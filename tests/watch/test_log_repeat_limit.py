"""An outage leaves a few lines in the log, and says how many more there were."""

import logging

import pytest

from worker.watch.log_repeat_limit import BURST, RepeatLimit
from worker.watch.outage_log import OutageLog


def test_the_same_trouble_is_written_a_few_times_and_other_lines_always() -> None:
    limit = RepeatLimit()

    def record(level: int, line: int, message: str = "it failed: %s") -> logging.LogRecord:
        return logging.LogRecord("worker", level, "file.py", line, message, ("x",), None)

    assert [limit.filter(record(logging.WARNING, 1)) for _ in range(10)] == [True] * BURST + [False] * (10 - BURST)
    assert limit.filter(record(logging.WARNING, 2))
    assert all(limit.filter(record(logging.INFO, 1)) for _ in range(10))


def test_two_outages_that_one_line_of_code_writes_do_not_hide_each_other() -> None:
    limit = RepeatLimit()

    def record(logger: str) -> logging.LogRecord:
        return logging.LogRecord(logger, logging.WARNING, "outage_log.py", 42, "%s: %s", ("x", "y"), None)

    assert [limit.filter(record("dispatch")) for _ in range(BURST + 1)] == [True] * BURST + [False]
    assert limit.filter(record("inbox"))


def test_the_first_line_after_the_window_says_how_many_were_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.watch.log_repeat_limit.WINDOW_S", 0.0)
    limit = RepeatLimit()
    record = logging.LogRecord("worker", logging.ERROR, "file.py", 1, "it failed: %s", ("x",), None)
    limit._seen[("worker", "file.py", 1, "")] = (0.0, BURST + 7)

    assert limit.filter(record)
    assert record.getMessage() == "it failed: x (7 more like this were left out)"


def test_an_outage_is_one_line_when_it_begins_and_one_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    outage = OutageLog(logging.getLogger("worker.test"), "no wake-up was sent")
    outage.succeeded()
    for _ in range(50):
        outage.failed(ConnectionError("refused"))
    outage.succeeded()
    outage.succeeded()

    assert [record.getMessage() for record in caplog.records] == [
        "no wake-up was sent: ConnectionError: refused",
        "it works again after 50 failures. The problem was: no wake-up was sent",
    ]
