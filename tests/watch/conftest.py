"""`promtool(*arguments, stdin=...)` runs the checker of Prometheus and returns what it printed."""

import shutil
import subprocess
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def promtool() -> Callable[..., str]:
    if (program := shutil.which("promtool")) is None:
        pytest.skip("promtool is absent, and no Python package holds it: apt-get install prometheus")

    def run(*arguments: str, stdin: str = "") -> str:
        ran = subprocess.run([str(program), *arguments], input=stdin, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stderr or ran.stdout

    return run
