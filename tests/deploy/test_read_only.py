"""A worker, beat and the command run as in a container: another user, no capability, a read-only file system."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import until
from worker.ledger import find, open_ledger
from worker.ledger.migrations import migrate
from worker.operation import State
from worker.testbed.local_system import Environment, b2copy_sync, wait_for_worker

ROOT = Path(__file__).parents[2]
USER = 10001
AS_CONTAINER = (
    "unshare", "--mount", "sh", str(Path(__file__).with_name("read_only.sh")),
)  # fmt: skip


def inside(environment: Environment) -> list[str]:
    return [*AS_CONTAINER, str(environment.folder), sys.base_prefix, str(ROOT)]


@pytest.mark.timeout(120)
@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"),
    reason="NOT REHEARSED: a read-only file system needs root, unshare and setpriv",
)
def test_everything_runs_as_another_user_on_a_read_only_file_system(environment: Environment) -> None:
    migrate(environment.database_url)
    key = environment.folder / "private.pem"
    shutil.copy(environment.settings["B2COPY_PRIVATE_KEY_FILE"], key)
    environment.settings["B2COPY_PRIVATE_KEY_FILE"] = str(key)
    for path in (environment.folder, *environment.folder.rglob("*")):
        os.chown(path, USER, USER)
    refused = (
        "sh",
        "-c",
        f"id -u; touch {ROOT}/x || touch /usr/x || touch {sys.base_prefix}/x || touch /tmp/x && echo writes to /tmp",
    )
    rehearsed = subprocess.run(
        [*inside(environment), *refused], env=environment.variables, capture_output=True, text=True, timeout=30
    )
    if rehearsed.returncode and "unshare" in rehearsed.stderr + rehearsed.stdout:
        pytest.skip(f"NOT REHEARSED: {rehearsed.stderr.strip()}")
    assert rehearsed.stdout == f"{USER}\nwrites to /tmp\n", rehearsed.stderr
    assert rehearsed.stderr.count("Read-only file system") == 3

    worker = environment.run(
        "worker", *inside(environment), *b2copy_sync(), "worker", "--loglevel", "INFO", restarts=False
    )
    beat = environment.run("beat", *inside(environment), *b2copy_sync(), "beat", "--loglevel", "INFO", restarts=False)
    wait_for_worker(worker)
    command = [*inside(environment), sys.executable, "-m", "worker.cli", "fees", "--account", "7", "--request-id", "W1"]
    ran = subprocess.run(command, env=environment.variables, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    ledger = open_ledger(environment.database_url)
    until(lambda: (found := find(ledger, "fees.process:W1")) and found.state is State.SUCCEEDED, within=20)
    ledger.close()
    assert beat.running
    worker.terminate()
    beat.terminate()
    assert (worker.wait(20), beat.wait(20)) == (0, 0)
    assert "Read-only" not in worker.log.read_text() + beat.log.read_text()
