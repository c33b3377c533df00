"""The examples of deploy/examples run as the files that they are, with the tools of their languages."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import until
from tests.webhook.conftest import SECRETS, secret_file  # noqa: F401
from worker.testbed.ports import free_port
from worker.testbed.processes import clean_environment

EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"
SECRET = SECRETS[0]
WITHDRAWALS = "CREATE TABLE withdrawals (id TEXT, state TEXT); INSERT INTO withdrawals VALUES ('W1', 'new');"
"""The CRM's own table."""

Start = Callable[..., int]


def tool(name: str) -> str:
    """Return the path of a program, or skip the test."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: this example is NOT tested here")
    return found


def needs_pg() -> None:
    """Skip the test if Node has no package `pg`."""
    found = subprocess.run([tool("node"), "-e", "require('pg')"], capture_output=True)
    if found.returncode:
        pytest.skip("Node's package pg is not installed (npm install pg, NODE_PATH): this example is NOT tested here")


def run(*command: str | Path, stdin: bytes | None = None, **environment: str) -> str:
    """Run a program to its end and return what it prints."""
    # NODE_PATH: where `npm install pg` was done.
    variables = {name: os.environ[name] for name in ("NODE_PATH",) if name in os.environ} | environment
    done = subprocess.run(
        [str(part) for part in command],
        input=stdin,
        env=clean_environment(**variables),
        capture_output=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a server and returns the port on which it listens.

    `{port}` in the command stands for a free port. What it prints goes to `<tmp_path>/printed`.
    """
    started: list[subprocess.Popen[bytes]] = []

    def start_server(*command: str | Path, **environment: str) -> int:
        port = free_port()
        filled = [str(part).replace("{port}", str(port)) for part in command]
        with (tmp_path / "printed").open("wb") as printed:
            process = subprocess.Popen(filled, env=clean_environment(**environment), stdout=printed, stderr=printed)
        started.append(process)
        until(lambda: process.poll() is None and _listens(port))
        return port

    yield start_server
    for process in started:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
