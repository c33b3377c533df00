"""Text from outside is never markup, a control character or a second line, whatever command prints it."""

import contextlib
import io
import json
import os
import pty
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.command import Ran
from tests.operations import hold_operation, record_operation
from worker.cli import main, output
from worker.ledger import Ledger, fail_message, open_ledger, pause, replay, settle
from worker.ledger.pauses import resume
from worker.operation import AttemptRecord, State, Step, Transition
from worker.testbed.processes import clean_environment

SNIPPETS = (
    "[bold red]paid[/]", "[/x]", "[link=http://127.0.0.1/evil]click[/link]", ":skull:", "\\", "%s %d {key}",
    "\x1b]0;owned\x07", "\x1b[2J\x1b[31m", "\x9b31m", "\u202e", "\u2066", "\u200b", "\n", "\r\n", "\u2028", "\x85",
    "\t", "\x7f", "\ue000", "\U000e0001", "x\n[2026-11-24 12:00:00] operation W9 succeeded", "é", "漢字", '"', "'",
)  # fmt: skip
pieces = st.sampled_from(SNIPPETS) | st.text("ab [](){}\x00\x1b\n\u202e", max_size=5)
hostile = st.lists(pieces, min_size=3, max_size=20).map("-".join)
PATIENT = settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

Run = Callable[..., Ran]


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    monkeypatch.setenv("B2COPY_DATABASE_URL", url)
    monkeypatch.setenv("B2COPY_REDIS_URL", "redis://127.0.0.1:1/0")
    ledger = open_ledger(url, create=True)
    yield ledger
    ledger.close()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run the command in this process, many times a second, with its output in a pipe's stead."""

    def command(*arguments: str) -> Ran:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
        for console in (output.out, output.err):
            console.cache_clear()
        monkeypatch.setattr(sys, "argv", ["b2copy-sync", *arguments])
        code: Any = 0
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            try:
                main()
            except SystemExit as end:
                code = end.code
        out, err = (_text(stream) for stream in streams)
        return Ran(code, out, err)

    yield command
    for console in (output.out, output.err):
        console.cache_clear()


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    written: bytes = stream.buffer.getvalue()
    return written.decode()


def operation_with(ledger: Ledger, name: str, text: str) -> str:
    """Record an operation in which everything holds the text that may come from outside."""
    claimed = hold_operation(ledger, name)
    attempt = AttemptRecord(
        int(time.time() * 1000), 5, text, text, 400, text, steps=(Step(text, 1, 500, text),), request_id=text
    )
    transition = Transition(
        claimed, State.FAILED, failure_reason="unresolved", attempt=attempt, outcome_unknown=True, unknown_step=text,
        progress={text: text},
    )  # fmt: skip
    settle(ledger, [transition])
    replay(ledger, [claimed.key], actor=text, note=text, not_done=True)
    return claimed.key


def check(ran: Ran, benign: Ran) -> None:
    """The command's output has the lines of its benign twin, and each can be printed."""
    for written, expected in ((ran.out, benign.out), (ran.err, benign.err)):
        lines = written.split("\n")
        assert [line for line in lines if not line.isprintable()] == []
        assert len(lines) == len(expected.split("\n")), written
    assert ran.code == benign.code


@PATIENT
@given(text=hostile)
def test_operations_are_shown_as_they_are(text: str, ledger: Ledger, run: Run) -> None:
    names = [f"{kind}{time.monotonic_ns()}" for kind in "hb"]
    keys = [operation_with(ledger, name, each) for name, each in zip(names, (text, "benign"), strict=True)]
    messages = [
        fail_message(ledger, name, "b2copy.call", each, by=each, raw=each).key
        for name, each in zip(names, (text, "benign"), strict=True)
    ]

    for command in (["status"], ["failed", "show"], ["failed", "replay", "--why", "x", "--dry-run"]):
        check(run(*command, keys[0]), run(*command, keys[1]))
        check(run(*command, messages[0]), run(*command, messages[1]))
    check(run("failed", "list"), run("failed", "list"))
    exported = run("status", keys[0], "--json")
    assert [line for line in exported.out.split("\n") if not line.isprintable()] == []
    assert json.loads(exported.out)["audit"][-1]["note"] == text
    assert json.loads(exported.out)["attempts"][0]["steps"][0]["name"] == text


@PATIENT
@given(text=hostile)
def test_pauses_are_shown_as_they_are(text: str, ledger: Ledger, run: Run) -> None:
    def shown(text: str) -> list[Ran]:
        key = record_operation(ledger, f"W{time.monotonic_ns()}").key
        pause(ledger, "money", text, text)
        ran = [run("health"), run("status", key), run("pause", "--lane", "money", "--why", "x")]
        resume(ledger, "money", "ann", "done")
        return ran

    for hostile, benign in zip(shown(text), shown("benign"), strict=True):
        check(hostile, benign)


@PATIENT
@given(text=hostile.filter(lambda text: "\0" not in text))
def test_arguments_and_files_are_named_as_they_are(text: str, ledger: Ledger, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"

    def every(value: str) -> list[Ran]:
        file.write_text(f'account_login,request_id,"{value.replace(chr(34), "")}"\n7,W1,y\n', newline="")
        return [
            run("status", f"x{value}"),
            run(f"x{value}"),
            run("failed", "list", "--since", f"x{value}"),
            run("fees", "--account", f"x {value}", "--request-id", "W1"),
            run("request", f"x{value}"),
            run("request", "fees.process", f"x{value}"),
            run("call", f"x{value}", "--key", "1"),
            run("import", str(file), "--dry-run"),
        ]

    for ran in every(text):
        assert ran.code in {2, 5}, ran
        assert [line for line in (ran.out + ran.err).split("\n") if not line.isprintable()] == []
        assert ran.err.count("\n") <= 2, ran.err


@pytest.mark.parametrize("name", ["W1[/x]", "W[link=http://127.0.0.1/evil]click[/link]", "W[blink][red]paid[/]"])
def test_the_progress_line_of_a_terminal_is_no_markup(name: str, ledger: Ledger) -> None:
    del ledger
    pid, terminal = pty.fork()
    if pid == 0:
        environment = clean_environment(TERM="xterm-256color") | {
            variable: os.environ[variable] for variable in ("B2COPY_DATABASE_URL", "B2COPY_REDIS_URL")
        }
        arguments = ["fees", "--account", "7", "--request-id", name, "--wait", "--timeout", "1s"]
        os.execve(sys.executable, [sys.executable, "-m", "worker.cli", *arguments], environment)
    shown = b""
    while select.select([terminal], [], [], 30)[0]:
        try:
            shown += os.read(terminal, 65536)
        except OSError:
            break
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 4, shown.decode()
    assert b"Traceback" not in shown
    assert re.search(rb"\x1b\]|\x1b\[[\d;]*5m", shown) is None
    assert name in shown.decode()
