"""The console as a process: what it refuses, and that it serves and ends."""

import resource
import socket
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.support import until
from worker.ledger import Ledger
from worker.testbed.local_system import Environment
from worker.testbed.ports import free_port


def test_it_listens_for_others_only_with_access_control(b2copy_sync: Command, ledger: Ledger) -> None:
    ran = b2copy_sync("console", "--listen", "0.0.0.0:8080")

    assert ran.code == 2
    assert "B2COPY_CONSOLE_ACCESS=proxy or password" in ran.err


def test_it_serves_until_a_signal(environment: Environment, ledger: Ledger) -> None:
    port = free_port()
    process = environment.run(
        "console", sys.executable, "-m", "worker.cli", "console", "--listen", f"127.0.0.1:{port}", restarts=False
    )

    def page() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/system", timeout=5) as answer:
            return str(answer.read().decode())

    def answers() -> bool:
        try:
            return "read-only" in page()
        except OSError:
            return False

    until(answers, within=20)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"access_token=abc\r\n\r\n")
        connection.recv(1000)
    process.terminate()
    process.wait(10)

    log = process.tail(100)
    assert "Traceback" not in log
    assert "Invalid HTTP request received" in log
    assert "WARNING:" not in log, "the HTTP server has log handlers of its own, which do not redact"


def test_a_port_in_use_is_named_and_not_said_to_be_served(b2copy_sync: Command, ledger: Ledger) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ran = b2copy_sync("console", "--listen", address)

    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"{address} cannot be used: Address already in use; choose another address by --listen\n"


def test_a_person_is_added_with_a_password_from_standard_input(tmp_path: Path) -> None:
    path = tmp_path / "people"

    command = [sys.executable, "-m", "worker.cli", "console-user", "ann", "--role", "operator", "--file", str(path)]
    ran = subprocess.run(command, input="a long password 1\n", capture_output=True, text=True, check=True)

    assert ran.stdout == "ann: operator\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("ann:$argon2id$")


def test_a_full_disk_leaves_the_password_file_as_it_is_and_is_named_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "people"
    command = [sys.executable, "-m", "worker.cli", "console-user", "ann", "--role", "operator", "--file", str(path)]
    subprocess.run(command, input="a long password 1\n", capture_output=True, text=True, check=True)
    before = path.read_text()

    ran = subprocess.run(
        command,
        input="a long password 2\n",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50)),  # bytes
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ran.returncode, ran.stderr) == (1, f"{path}: File too large\n")
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["people"]


@pytest.mark.parametrize("given", [b"a long passw\xf6rd\n", b"\xef\xbb\xbfa long password\n", b"a long\0password\n"])
def test_a_password_that_is_no_line_of_text_is_refused_and_not_shown(tmp_path: Path, given: bytes) -> None:
    path = tmp_path / "people"
    command = [sys.executable, "-m", "worker.cli", "console-user", "ann", "--role", "operator", "--file", str(path)]

    ran = subprocess.run(command, input=given, capture_output=True, check=False)

    assert ran.returncode == 2
    assert ran.stderr == b"standard input must hold the password as one line of UTF-8 text\n"
    assert not path.exists()
