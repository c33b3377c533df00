"""sandbox: a local B2COPY, and the settings to use it."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Command
from worker.testbed.processes import clean_environment

COMMAND = [sys.executable, "-m", "worker.cli", "sandbox", "--port", "0"]


def test_prints_settings_with_which_a_login_succeeds(b2copy_sync: Command, tmp_path: Path) -> None:
    command = [*COMMAND, "--set", "access_lifetime=5"]
    with subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(6)]
        settings = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines)
        ran = b2copy_sync("session", "renew", "--json", **settings)
        keys = Path(settings["B2COPY_PRIVATE_KEY_FILE"]).parent
        process.send_signal(signal.SIGINT)

    assert ran.document["outcome"] == "login"
    assert process.returncode == 0
    assert not keys.exists()


def test_refuses_a_switch_that_is_none(b2copy_sync: Command) -> None:
    ran = b2copy_sync("sandbox", "--set", "acces_lifetime=5")

    assert ran.code == 2
    assert "did you mean access_lifetime?" in ran.err


def test_lists_its_switches(b2copy_sync: Command) -> None:
    assert "access_lifetime=900.0  Seconds." in b2copy_sync("sandbox", "--list").out
