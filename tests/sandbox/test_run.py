"""`python -m worker.sandbox`: the sandbox alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from worker.sandbox.__main__ import main
from worker.sandbox.control_client import SandboxControl
from worker.sandbox.switches import Switches
from worker.testbed.keys import new_key_pair

SANDBOX = [sys.executable, "-m", "worker.sandbox"]


def test_prints_its_url_and_ends_on_sigterm(tmp_path: Path) -> None:
    public = tmp_path / "public.pem"
    public.write_text(new_key_pair(tmp_path, "k1").public_key)
    switches = tmp_path / "switches.json"
    switches.write_text('{"access_lifetime": 5, "fees": {"pending_polls": 3}}')
    given = ["--key", f"k1={public}", "--switches", str(switches), "--set", "status_as=name", "--set", "clock_skew=5"]
    given += ["--set", "admin_id=7"]

    with subprocess.Popen(SANDBOX + given, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        control = SandboxControl(process.stdout.readline().strip())
        current = control.switches()
        process.terminate()

    assert process.returncode == 0
    assert (current["access_lifetime"], current["status_as"], current["clock_skew"]) == (5, "name", 5)
    assert current["admin_id"] == "7"
    assert current["fees"]["pending_polls"] == 3


def test_lists_its_switches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0

    listed = capsys.readouterr().out
    assert "access_lifetime=900.0  Seconds.\n" in listed
    assert [line.partition("=")[0] for line in listed.splitlines()] == list(Switches.model_fields)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 is not a loopback address"),
        (["--set", "acces_lifetime=5"], "acces_lifetime is not a switch: did you mean access_lifetime?"),
        (["--set", "fees.pending=5"], "fees.pending is not a switch"),
        (["--set", "access_lifetime=-1"], "access_lifetime: Input should be greater than 0"),
        (["--set", "access_lifetime"], "is not NAME=VALUE"),
        (["--key", "k1=/nowhere.pem"], "/nowhere.pem"),
    ],
)
def test_refuses_unusable_arguments(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given) == 2

    assert message in capsys.readouterr().err
