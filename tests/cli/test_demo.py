"""`b2copy-sync demo` as a newcomer runs it: what it prints, when it fails, and that it leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import until
from worker.demo.endings import compare
from worker.demo.read_withdrawals import SAMPLE, read
from worker.ledger import Ledger, open_ledger

README = Path(__file__).parents[2] / "README.md"
# Variables of another program. Neither its Redis nor its database exists, so to use them would fail.
FOREIGN = {"REDIS_URL": "redis://127.0.0.1:1/0", "DATABASE_URL": "sqlite:////nowhere/crm", "B2COPY_COLOUR": "blue"}


@dataclass
class Finished:
    returncode: int
    out: str
    err: str
    left: list[Path]


@contextmanager
def running_demo(folder: Path, *options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run the demo with a TMPDIR of its own, in a folder that is not the checkout."""
    command = [sys.executable, "-m", "worker.cli", "demo", *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | FOREIGN | {"TMPDIR": str(folder)} | environment,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def finish(process: subprocess.Popen[str], folder: Path) -> Finished:
    out, err = process.communicate(timeout=50)
    return Finished(process.returncode, out, err, sorted(folder.glob("b2copy-*")))


def processes_of(folder: Path) -> list[int]:
    """Return each process with the folder in its environment or as its working directory (the broker)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "environ").read_text(errors="replace") + str((entry / "cwd").readlink())
        except OSError:  # it has ended, or is another user's
            continue
        if str(folder) in text:
            found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def wrong_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file whose second and third rows expect what does not happen."""
    path = tmp_path_factory.mktemp("csv") / "withdrawals.csv"
    path.write_text(
        "request_id,account_login,b2copy_status,message,must_end\n"
        "A1,101,SUCCESS,,succeeded\n"
        "A2,102,ERROR,no money,succeeded\n"
        "A3,103,UNKNOWN,account 999 is not found,rejected\n"
        "A4,104,ERROR,no money,fee_error\n"
    )
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, wrong_csv: Path) -> dict[str, Finished]:
    """Two demos at once, because each must wait until its tokens age: the sample's first rows, and the wrong rows."""
    right, wrong = tmp_path_factory.mktemp("right"), tmp_path_factory.mktemp("wrong")
    latin = {"PYTHONIOENCODING": "latin-1"}  # cannot encode the check mark
    with (
        running_demo(right, "--rows", "40") as first,
        running_demo(wrong, "--csv", str(wrong_csv), "--json", **latin) as second,
    ):
        return {"right": finish(first, right), "wrong": finish(second, wrong)}


class TestDemo:
    def test_succeeds_when_every_withdrawal_ends_as_its_row_says(self, finished: dict[str, Finished]) -> None:
        right = finished["right"]

        assert right.returncode == 0, right.out
        assert re.search(r"^ +1 +logins +exactly 1", right.out, re.M), right.out

    def test_leaves_nothing_behind(self, finished: dict[str, Finished]) -> None:
        assert finished["right"].left == []

    def test_shows_what_the_readme_shows(self, finished: dict[str, Finished]) -> None:
        sample = re.search(r"```\n(b2copy-sync demo\n.*?)```", README.read_text(), re.S)

        assert sample
        assert shape(sample[1]) <= shape(finished["right"].out)

    def test_prints_plain_lines_when_stdout_is_no_terminal(self, finished: dict[str, Finished]) -> None:
        assert "\x1b" not in finished["right"].out
        assert "\r" not in finished["right"].out

    def test_fails_and_names_each_withdrawal_that_ended_unexpectedly(self, finished: dict[str, Finished]) -> None:
        wrong = finished["wrong"]

        assert wrong.returncode == 1, wrong.err
        assert 'A2 must end as succeeded "no money", but is fee_error "no money"' in wrong.err
        assert re.search(r'A3 must end as rejected "account 999 is not found", but is rejected ".*103', wrong.err)
        assert not re.search(r"A[14] must", wrong.err)

    def test_prints_the_report_as_one_json_document(self, finished: dict[str, Finished]) -> None:
        document = json.loads(finished["wrong"].out)

        assert document["passed"] is False
        assert document["ended"] == {"succeeded": 1, "fee_error": 2, "rejected": 1}
        assert [one["request_id"] for one in document["unexpected"]] == ["A2", "A3"]

    def test_saves_the_logs_of_a_demo_that_failed(self, finished: dict[str, Finished]) -> None:
        (folder,) = finished["wrong"].left

        assert str(folder) in finished["wrong"].err
        saved = {path.name for path in folder.iterdir()}
        assert {"worker.log", "beat.log", "broker.log", "sandbox.log", "ledger.sqlite"} <= saved
        assert "ready" in (folder / "worker.log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="looks for what is left in /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_every_process_and_removes_the_folder(tmp_path: Path, number: int, code: int) -> None:
    with running_demo(tmp_path, "--rows", "5") as process:
        until(lambda: len(processes_of(tmp_path)) >= 5, within=20, every=0.1)

        process.send_signal(number)
        process.send_signal(number)  # a second signal changes nothing
        stopped = finish(process, tmp_path)

    assert stopped.returncode == code, stopped.err
    assert "stopped: every process has ended" in stopped.out
    assert stopped.left == []
    assert processes_of(tmp_path) == []


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    ledger = open_ledger(f"sqlite:///{tmp_path_factory.mktemp('ledger')}/ledger.sqlite", create=True)
    yield ledger
    ledger.close()


GOOD = {"logins": 1, "refreshes": 1, "refresh_reuses": 0, "unauthorized": 0, "calls": {}}


@pytest.mark.parametrize(
    ("counted", "twice", "restarts", "failing"),
    [
        ({}, 0, 0, []),
        ({"logins": 2}, 0, 0, ["logins"]),
        ({"logins": 0}, 0, 0, ["logins"]),
        ({"refreshes": 0}, 0, 0, ["refreshes before expiry"]),
        ({"refresh_reuses": 1}, 0, 0, ["refresh tokens used twice"]),
        ({"unauthorized": 1}, 0, 0, ["calls refused with 401"]),
        ({}, 1, 0, ["fee runs started twice"]),
        ({}, 0, 1, ["processes that died"]),
    ],
)
def test_each_figure_must_hold(
    empty: Ledger, counted: dict[str, int], twice: int, restarts: int, failing: list[str]
) -> None:
    counters = GOOD | counted | {"effects": {"fees.process": {"more_than_once": twice}}}

    report = compare(empty, [], counters, restarts)

    assert [check.name for check in report.checks if not check.holds] == failing
    assert report.passed == (not failing)


class TestRows:
    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("W1,101,1,SUCCESS,,maybe", "line 2: must_end"),
            ("W1,101,soon,SUCCESS,,succeeded", "line 2: pending_seconds"),
            ("W1,101,1,SUCCESS,,succeeded,more", "line 2"),
            ("W1,101,1,SUCCESS,,succeeded\nW1,102,1,SUCCESS,,succeeded", "request_id W1 occurs twice"),
            (
                "W1,101,1,SUCCESS,,succeeded\nW2,101,2,SUCCESS,,succeeded",
                "the rows of account_login 101 contradict each other",
            ),
            ("", "has no rows"),
        ],
    )
    def test_names_what_is_unusable(self, tmp_path: Path, row: str, message: str) -> None:
        path = tmp_path / "rows.csv"
        path.write_text(f"request_id,account_login,pending_seconds,b2copy_status,message,must_end\n{row}\n")

        with pytest.raises(ValueError, match=re.escape(message)):
            read(path)

    def test_the_sample_shows_every_way_to_end(self) -> None:
        rows = read(SAMPLE)

        assert len(rows) == 200
        assert {row.must_end for row in rows[:5]} == {"succeeded", "fee_error", "rejected"}
        assert sum(row.b2copy_status == "SUCCESS" and row.pending_seconds > 0 for row in rows) > 100


def shape(text: str) -> set[str]:
    """Return each line with its numbers masked, because they differ from run to run."""
    masked = (re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)*", "#", line)).strip() for line in text.splitlines())
    return {line.replace("refreshes", "refresh").replace("logins", "login") for line in masked if line}
