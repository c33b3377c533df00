"""Local processes: supervised, in a clean environment, and ended with their supervisor. The broker."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import until
from worker.testbed.broker import Broker
from worker.testbed.processes import Process, clean_environment

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


PROC = Path("/proc/self").exists()


def alive(pid: int) -> bool:
    """Return whether the process runs. A zombie does not: it only waits to be reaped."""
    try:
        if PROC:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True


def test_a_process_that_dies_is_started_again(tmp_path: Path) -> None:
    process = Process("sleeper", SLEEPER, tmp_path / "log").start()
    first = process.pid

    process.kill()

    until(lambda: process.running and process.pid != first)
    assert process.started == 2
    process.stop()


def test_a_stopped_process_stays_stopped(tmp_path: Path) -> None:
    process = Process("sleeper", SLEEPER, tmp_path / "log").start()
    pid = process.pid

    assert process.stop() == -signal.SIGTERM

    assert not alive(pid)
    assert not process.running


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace_period(tmp_path: Path) -> None:
    ignoring = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        " print('ignoring', flush=True); time.sleep(60)"
    )
    process = Process("ignoring", [sys.executable, "-c", ignoring], tmp_path / "log").start()
    until(lambda: "ignoring" in process.tail())

    assert process.stop(grace=0.1) == -signal.SIGKILL


def test_the_children_of_a_killed_process_end_with_it(tmp_path: Path) -> None:
    parent = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    process = Process("parent", [sys.executable, "-c", parent], tmp_path / "log", restarts=False).start()
    child = int(until(process.tail))

    process.kill()

    until(lambda: not alive(child))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a child when its parent dies")
def test_processes_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    supervisor = f"""
import sys, time
from pathlib import Path
from worker.testbed.processes import Process
process = Process("sleeper", ["sleep", "60"], Path({str(tmp_path / "log")!r})).start()
print(process.pid, flush=True)
time.sleep(60)
"""
    started = subprocess.Popen([sys.executable, "-c", supervisor], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    with started, started.stdout:
        pid = int(started.stdout.readline())
        # Once it is `sleep`, the kernel ends it. Before that, die_with_parent.py sees that its parent has ended.
        until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")

        started.kill()

    until(lambda: not alive(pid))


def test_no_foreign_setting_reaches_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "DATABASE_URL", "CELERY_BROKER_URL", "B2COPY_HOST"):
        monkeypatch.setenv(name, "redis://somebody")

    environment = clean_environment(B2COPY_ADMIN_ID="42")

    assert "redis://somebody" not in environment.values()
    assert environment["B2COPY_ADMIN_ID"] == "42"
    assert environment["PATH"] == os.environ["PATH"]


def test_the_log_of_the_current_run_can_be_read_alone(tmp_path: Path) -> None:
    process = Process("sleeper", SLEEPER, tmp_path / "log").start()
    until(lambda: process.current_log() == "up\n")

    process.kill()

    until(lambda: process.started == 2 and process.current_log() == "up\n")
    assert process.tail() == "up\nup"
    process.stop()


class TestBroker:
    def test_has_its_data_after_a_kill(self, tmp_path: Path) -> None:
        broker = Broker(tmp_path / "broker").start()
        url, client = broker.url, broker.client
        client.rpush("queue", "message")
        until(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0)

        broker.kill()
        broker.start()

        assert broker.url == url
        assert client.lrange("queue", 0, -1) == ["message"]
        client.close()
        broker.stop()

    def test_requires_its_password(self, broker: Broker) -> None:
        with socket.create_connection(("127.0.0.1", broker.port)) as stranger:
            stranger.sendall(b"FLUSHALL\r\n")

            assert stranger.recv(100).startswith(b"-NOAUTH")

    @pytest.mark.skipif(not PROC, reason="reads /proc")
    def test_its_password_is_not_on_the_command_line(self, broker: Broker) -> None:
        command = Path(f"/proc/{broker.pid}/cmdline").read_text()

        assert broker.url.split("@")[0].rpartition(":")[2] not in command
