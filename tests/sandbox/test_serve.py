"""`python -m worker.sandbox`: the sandbox alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from worker.sandbox.control import SandboxControl
from worker.sandbox.keys import new_key_pair

SANDBOX = [sys.executable, "-m", "worker.sandbox"]


def test_says_where_it_is_and_ends_when_told(tmp_path: Path) -> None:
    public = tmp_path / "public.pem"
    public.write_text(new_key_pair(tmp_path, "k1").public_key)
    switches = tmp_path / "switches.json"
    switches.write_text('{"access_lifetime": 5, "fees": {"pending_polls": 3}}')
    given = ["--key", f"k1={public}", "--switches", str(switches), "--set", "status_as=name", "--set", "clock_skew=5"]

    with subprocess.Popen(SANDBOX + given, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        control = SandboxControl(process.stdout.readline().strip())
        told = control.switches()
        process.terminate()

    assert process.returncode == 0
    assert (told["access_lifetime"], told["status_as"], told["clock_skew"]) == (5, "name", 5)
    assert told["fees"]["pending_polls"] == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 is not a loopback address"),
        (["--set", "acces_lifetime=5"], "acces_lifetime"),
        (["--set", "access_lifetime"], "is not NAME=VALUE"),
        (["--key", "k1=/nowhere.pem"], "/nowhere.pem"),
    ],
)
def test_refuses_what_it_cannot_use(given: list[str], said: str) -> None:
    refused = subprocess.run(SANDBOX + given, capture_output=True, text=True, timeout=20)

    assert refused.returncode == 2
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr
