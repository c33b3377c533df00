"""`b2copy-sync demo` as a newcomer runs it: what it shows, how it judges, and that nothing is left of it."""

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
from worker.cli.demo import SAMPLE
from worker.demo.report import judge
from worker.demo.rows import read
from worker.ledger import Ledger, open_ledger

README = Path(__file__).parents[2] / "README.md"
# A neighbour's shell: neither its Redis nor its database exists, and touching them would fail.
NEIGHBOUR = {"REDIS_URL": "redis://127.0.0.1:1/0", "DATABASE_URL": "sqlite:////nowhere/crm", "B2COPY_COLOUR": "blue"}


@dataclass
class Played:
    returncode: int
    said: str
    noted: str
    left: list[Path]


@contextmanager
def playing(folder: Path, *options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run the demo with a TMPDIR of its own, in a folder that is not the checkout."""
    command = [sys.executable, "-m", "worker.cli", "demo", *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | NEIGHBOUR | {"TMPDIR": str(folder)} | environment,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def ended(process: subprocess.Popen[str], folder: Path) -> Played:
    said, noted = process.communicate(timeout=50)
    return Played(process.returncode, said, noted, sorted(folder.glob("b2copy-*")))


def processes_of(folder: Path) -> list[int]:
    """Every process that names the folder: in its environment, or as its working directory (the broker)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            told = (entry / "environ").read_text(errors="replace") + str((entry / "cwd").readlink())
        except OSError:  # it has ended, or is somebody else's
            continue
        if str(folder) in told:
            found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def lying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV whose second and third rows foretell what will not happen."""
    path = tmp_path_factory.mktemp("lying") / "withdrawals.csv"
    path.write_text(
        "request_id,account_login,b2copy_says,words,must_end\n"
        "A1,101,SUCCESS,,succeeded\n"
        "A2,102,ERROR,no money,succeeded\n"
        "A3,103,UNKNOWN,account 999 is not found,rejected\n"
        "A4,104,ERROR,no money,fee_error\n"
    )
    return path


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, lying: Path) -> dict[str, Played]:
    """Two demos at once, to save the wait for their tokens to age: the sample's first rows, and the lying rows."""
    right, wrong = tmp_path_factory.mktemp("right"), tmp_path_factory.mktemp("wrong")
    latin = {"PYTHONIOENCODING": "latin-1"}  # has no check mark
    with (
        playing(right, "--rows", "40") as first,
        playing(wrong, "--csv", str(lying), "--json", **latin) as second,
    ):
        return {"right": ended(first, right), "wrong": ended(second, wrong)}


class TestDemo:
    def test_succeeds_when_every_withdrawal_ends_as_its_row_says(self, played: dict[str, Played]) -> None:
        right = played["right"]

        assert right.returncode == 0, right.said
        assert re.search(r"^ +1 +logins +exactly 1", right.said, re.M), right.said

    def test_leaves_nothing_behind(self, played: dict[str, Played]) -> None:
        assert played["right"].left == []

    def test_shows_what_the_readme_shows(self, played: dict[str, Played]) -> None:
        sample = re.search(r"```\n(b2copy-sync demo\n.*?)```", README.read_text(), re.S)

        assert sample
        assert shape(sample[1]) <= shape(played["right"].said)

    def test_says_nothing_on_stdout_but_lines_that_a_log_can_hold(self, played: dict[str, Played]) -> None:
        assert "\x1b" not in played["right"].said
        assert "\r" not in played["right"].said

    def test_fails_and_names_each_withdrawal_that_ended_otherwise(self, played: dict[str, Played]) -> None:
        wrong = played["wrong"]

        assert wrong.returncode == 1, wrong.noted
        assert 'A2 must end as succeeded "no money", but is fee_error "no money"' in wrong.noted
        assert re.search(r'A3 must end as rejected "account 999 is not found", but is rejected ".*103', wrong.noted)
        assert not re.search(r"A[14] must", wrong.noted)

    def test_tells_programs_the_same_in_one_document(self, played: dict[str, Played]) -> None:
        told = json.loads(played["wrong"].said)

        assert told["passed"] is False
        assert told["ended"] == {"succeeded": 1, "fee_error": 2, "rejected": 1}
        assert [one["request_id"] for one in told["differing"]] == ["A2", "A3"]

    def test_keeps_the_logs_of_a_demo_that_failed(self, played: dict[str, Played]) -> None:
        (folder,) = played["wrong"].left

        assert str(folder) in played["wrong"].noted
        kept = {path.name for path in folder.iterdir()}
        assert {"worker.log", "beat.log", "broker.log", "sandbox.log", "ledger.sqlite"} <= kept
        assert "ready" in (folder / "worker.log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="looks for what is left in /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_every_process_and_clears_the_folder(tmp_path: Path, number: int, code: int) -> None:
    with playing(tmp_path, "--rows", "5") as process:
        until(lambda: len(processes_of(tmp_path)) >= 5, within=20, every=0.1)

        process.send_signal(number)
        process.send_signal(number)  # impatience changes nothing
        stopped = ended(process, tmp_path)

    assert stopped.returncode == code, stopped.noted
    assert "stopped: every process has ended" in stopped.said
    assert stopped.left == []
    assert processes_of(tmp_path) == []


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    ledger = open_ledger(f"sqlite:///{tmp_path_factory.mktemp('ledger')}/ledger.sqlite", create=True)
    yield ledger
    ledger.close()


GOOD = {"logins": 1, "refreshes": 1, "refresh_reuses": 0, "unauthorized": 0, "calls": {}}


@pytest.mark.parametrize(
    ("counted", "twice", "restarts", "blamed"),
    [
        ({}, 0, 0, []),
        ({"logins": 2}, 0, 0, ["logins"]),
        ({"logins": 0}, 0, 0, ["logins"]),
        ({"refreshes": 0}, 0, 0, ["refreshes ahead of expiry"]),
        ({"refresh_reuses": 1}, 0, 0, ["refresh tokens used twice"]),
        ({"unauthorized": 1}, 0, 0, ["calls refused with 401"]),
        ({}, 1, 0, ["fee runs started twice"]),
        ({}, 0, 1, ["processes that died"]),
    ],
)
def test_the_figures_of_the_session_decide_too(
    empty: Ledger, counted: dict[str, int], twice: int, restarts: int, blamed: list[str]
) -> None:
    counters = GOOD | counted | {"effects": {"fees.process": {"more_than_once": twice}}}

    report = judge(empty, [], counters, restarts)

    assert [check.what for check in report.checks if not check.holds] == blamed
    assert report.passed == (not blamed)


class TestRows:
    @pytest.mark.parametrize(
        ("row", "told"),
        [
            ("W1,101,1,SUCCESS,,maybe", "line 2: must_end"),
            ("W1,101,soon,SUCCESS,,succeeded", "line 2: pending_seconds"),
            ("W1,101,1,SUCCESS,,succeeded,more", "line 2"),
            ("W1,101,1,SUCCESS,,succeeded\nW1,102,1,SUCCESS,,succeeded", "request_id W1 stands there twice"),
            ("W1,101,1,SUCCESS,,succeeded\nW2,101,2,SUCCESS,,succeeded", "login 101 is told to behave in two ways"),
            ("", "holds no withdrawal"),
        ],
    )
    def test_names_what_cannot_be_played(self, tmp_path: Path, row: str, told: str) -> None:
        path = tmp_path / "rows.csv"
        path.write_text(f"request_id,account_login,pending_seconds,b2copy_says,words,must_end\n{row}\n")

        with pytest.raises(ValueError, match=re.escape(told)):
            read(path)

    def test_the_sample_shows_every_way_to_end(self) -> None:
        rows = read(SAMPLE)

        assert len(rows) == 200
        assert {row.must_end for row in rows[:5]} == {"succeeded", "fee_error", "rejected"}
        assert sum(row.b2copy_says == "SUCCESS" and row.pending_seconds > 0 for row in rows) > 100


def shape(text: str) -> set[str]:
    """Each line with its numbers masked, as they differ from run to run."""
    masked = (re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)*", "#", line)).strip() for line in text.splitlines())
    return {line.replace("refreshes", "refresh").replace("logins", "login") for line in masked if line}
