"""A process of a contestant (see `serve.py`), as seen by its parent."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.testbed.processes import ProcessFailed


class Part:
    """The process `python -m tests.bench.<name>`, with the project's Python or another one."""

    def __init__(
        self, name: str, environment: Mapping[str, str], log: Path, python: Path = Path(sys.executable)
    ) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._popen = subprocess.Popen(
                [str(python), "-m", f"tests.bench.{name}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=dict(environment),
                text=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def start(self, action: str, **how: Any) -> None:
        """Start an action. `result` waits for its end."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps([action, how]) + "\n")
        self._popen.stdin.flush()

    def result(self) -> dict[str, Any]:
        """Return what the action returned, with `began`, `ended` (monotonic seconds), `cpu` (s) and `peak_mb`."""
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        if not line:
            raise ProcessFailed(f"{self._popen.args!r} ended:\n{self._log.read_text()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self, action: str, **how: Any) -> dict[str, Any]:
        self.start(action, **how)
        return self.result()

    def close(self) -> None:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.close()
        try:
            self._popen.wait(10)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._popen.stdout.close()
