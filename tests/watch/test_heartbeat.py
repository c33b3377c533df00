"""A probe finds a frozen worker, asks nobody for that, and costs next to nothing."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import event

from tasks import enqueue
from tests.support import until
from worker.instances import ledger
from worker.ledger import count_due, find_many, open_ledger
from worker.operation import State
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process
from worker.watch import heartbeat
from worker.watch.observe import observe_transactions

PROBE = [sys.executable, "-c", "import sys; sys.argv[1:] = ['health', '--live']; from worker.entry import main; main()"]


def probe(file: Path | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(PROBE, env=os.environ | {heartbeat.VARIABLE: str(file)}, capture_output=True, text=True)


def states(key: str) -> list[State]:
    return [found.state for found in find_many(ledger(), [key]).values()]


def cpu_s(command: list[str], file: Path) -> float:
    """Return the CPU of a command, the smallest of five."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=os.environ | {heartbeat.VARIABLE: str(file)}, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(5))


def test_a_worker_touches_its_file_until_it_is_frozen(worker: Callable[..., Process], environment: Environment) -> None:
    file = environment.folder / "worker.alive"
    process = worker(B2COPY_HEARTBEAT_FILE=str(file))
    until(file.exists)
    first = file.stat().st_mtime
    until(lambda: file.stat().st_mtime > first, 10)

    assert (heartbeat.problem(str(file)), file.stat().st_mode & 0o777) == ("", 0o600)
    process.send(signal.SIGSTOP)
    until(lambda: "frozen or has ended" in heartbeat.problem(str(file), oldest_s=3), 10)


def test_a_probe_says_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "worker.alive"
    heartbeat.touch(file)
    fresh = probe(file)
    os.utime(file, (time.time() - 31, time.time() - 31))
    old, absent, unnamed = probe(file), probe(tmp_path / "other"), probe("")

    assert (fresh.returncode, fresh.stderr) == (0, "")
    assert (old.returncode, absent.returncode, unnamed.returncode) == (1, 1, 1)
    assert "last touched 31 s ago" in old.stderr
    assert "no worker has touched it" in absent.stderr
    assert "B2COPY_HEARTBEAT_FILE is not set" in unnamed.stderr


def test_a_file_dated_in_the_future_is_not_a_living_worker(tmp_path: Path) -> None:
    file = tmp_path / "worker.alive"
    heartbeat.touch(file)
    os.utime(file, (time.time() + 3600, time.time() + 3600))

    assert "s in the future: the worker is frozen or has ended" in heartbeat.problem(str(file))


def test_a_pool_of_processes_is_refused_a_heartbeat_file(environment: Environment) -> None:
    file = environment.folder / "worker.alive"
    process = environment.worker("--pool", "processes", "-c", "6", restarts=False, B2COPY_HEARTBEAT_FILE=str(file))

    assert process.wait(20) == 2
    assert "B2COPY_HEARTBEAT_FILE cannot be used with --pool processes" in process.tail()
    assert not file.exists()


def test_a_probe_costs_little_more_than_the_interpreter(tmp_path: Path) -> None:
    file = tmp_path / "worker.alive"
    heartbeat.touch(file)

    assert cpu_s(PROBE, file) - cpu_s([sys.executable, "-c", "pass"], file) <= 0.06


def test_a_loop_that_does_not_come_round_is_stalled_and_one_that_has_ended_is_not() -> None:
    heartbeat.note_progress("money")
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 0.02)

    assert "money" in heartbeat.stalled_loops(0.02)
    assert heartbeat.stalled_loops(60) == []
    heartbeat.note_end("money")
    assert "money" not in heartbeat.stalled_loops(0.02)


def test_a_loop_that_waits_for_the_ledger_is_not_stalled(tmp_path: Path) -> None:
    opened = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", create=True)
    observe_transactions(opened.engine)
    heartbeat.note_progress("money")
    with opened.writing():
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 0.02)
        waiting = heartbeat.stalled_loops(0.02)
    with suppress(ZeroDivisionError), opened.writing():
        raise ZeroDivisionError
    opened.close()

    assert waiting == []
    assert "money" in heartbeat.stalled_loops(0.02)
    heartbeat.note_end("money")


def test_a_loop_that_waits_for_the_answer_to_begin_is_not_stalled(tmp_path: Path) -> None:
    """As behind a pooler that is paused: it takes the connection and answers nothing."""
    opened = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", create=True)
    begins, answers = threading.Event(), threading.Event()

    def hang(_: object) -> None:
        begins.set()
        answers.wait(20)

    event.listen(opened.engine, "begin", hang)
    observe_transactions(opened.engine)
    heartbeat.note_progress("money")
    thread = threading.Thread(target=lambda: count_due(opened))
    thread.start()
    assert begins.wait(20)
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 0.05)

    waiting = heartbeat.stalled_loops(0.05)
    answers.set()
    thread.join(20)
    opened.close()

    assert waiting == []
    assert "money" in heartbeat.stalled_loops(0.05)
    heartbeat.note_end("money")


HANGS_ONCE = """
import os, time
from worker.flow.gate import Gate
from worker.watch import heartbeat, metrics_and_heartbeat_steps

metrics_and_heartbeat_steps.STALLED_CALLS, metrics_and_heartbeat_steps.END_AFTER = 1, 4
heartbeat.TOUCH_EVERY_S = 0.25
available = Gate.available


def hang_once(*arguments):
    try:
        os.close(os.open(os.environ["HANGS_ONCE"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return available(*arguments)
    time.sleep(3600)


Gate.available = hang_once
from worker.entry import main
main()
"""


@pytest.mark.parametrize("pool", [(), ("--pool", "processes", "-c", "6")])
def test_a_worker_with_a_stalled_loop_ends_itself_and_the_next_one_does_its_work(
    pool: tuple[str, ...], worker: Callable[..., Process], active_environment: Environment
) -> None:
    active_environment.program = [sys.executable, "-P", "-c", HANGS_ONCE]
    hung = active_environment.folder / "hung"
    process = worker(*pool, B2COPY_CALL_DEADLINE="2s", HANGS_ONCE=str(hung))

    first = enqueue.fees(account_login="7", request_id="W1")
    ends = "loop money is permanently stalled: this process ends itself (exit code 70)"
    until(lambda: ends in process.tail(10_000), 30)
    second = enqueue.fees(account_login="7", request_id="W2")

    until(lambda: states(first.key) + states(second.key) == [State.SUCCEEDED] * 2, 40)
    assert "in hang_once" in process.tail(50_000)
    if pool:  # the pool starts another child
        until(lambda: "exited with 'exitcode 70'" in process.tail(50_000), 20)
        assert process.started == 1
    else:
        assert (process.started, process.returncode) == (2, heartbeat.STALLED_EXIT)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")

    with pytest.raises(OSError, match="Too many levels"):
        heartbeat.touch(tmp_path / "link")
    assert not (tmp_path / "target").exists()
