"""A process that does the work of one contestant: it reads commands from stdin and answers on stdout, in JSON lines.

It is started and warm before the clock starts, because the work is compared and not the imports. It ends with its
stdin, and so with the process that started it.
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
    """The process `python -m tests.bench.<name>`, as seen by its parent."""

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

    def start(self, action: str, **how: Any) -> None:
        """Start an action. `result` waits for its end."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps([action, how]) + "\n")
        self._popen.stdin.flush()

    def result(self) -> dict[str, Any]:
        """Return what the action returned, with `began`, `ended` (monotonic seconds) and the `cpu` seconds used."""
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


def serve(**actions: Action) -> None:
    """Run the actions that stdin names, until stdin ends."""
    for line in sys.stdin:
        action, how = json.loads(line)
        cpu, began = time.process_time(), time.monotonic()
        result = actions[action](**how) or {}
        answer = {"began": began, "ended": time.monotonic(), "cpu": time.process_time() - cpu} | dict(result)
        print(json.dumps(answer), flush=True)
