"""A process that does one contestant's work when told: JSON lines in, JSON lines out.

Each contestant runs in processes of its own, started and warm before the clock is: what is compared is the work, not
the imports. A part ends when its stdin does, and so with whoever started it.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from worker.testbed.processes import ProcessFailed

Action = Callable[..., Mapping[str, Any] | None]


class Part:
    """One such process: `python -m tests.bench.<name>`."""

    def __init__(self, name: str, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", f"tests.bench.{name}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=dict(environment),
                text=True,
            )

    def tell(self, action: str, **how: Any) -> None:
        """Start an action; `result` waits for its end."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps([action, how]) + "\n")
        self._popen.stdin.flush()

    def result(self) -> dict[str, Any]:
        """What the action returned, with `began` and `ended` (monotonic seconds) and the `cpu` seconds it took."""
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        if not line:
            raise ProcessFailed(f"{self._popen.args!r} ended:\n{self._log.read_text()[-2000:]}")
        told: dict[str, Any] = json.loads(line)
        return told

    def ask(self, action: str, **how: Any) -> dict[str, Any]:
        self.tell(action, **how)
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


def serve(**actions: Action) -> None:
    """Be such a process until stdin ends."""
    for line in sys.stdin:
        action, how = json.loads(line)
        cpu, began = time.process_time(), time.monotonic()
        result = actions[action](**how) or {}
        told = {"began": began, "ended": time.monotonic(), "cpu": time.process_time() - cpu} | dict(result)
        print(json.dumps(told), flush=True)
