"""Supervised local processes: they start in a clean environment, are restarted when they die, and end with us.

kombu 5.7 ends a busy worker when Redis restarts, so a worker needs a supervisor here as in production.
"""

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from worker.settings import PREFIX

_DIE_WITH_PARENT = str(Path(__file__).with_name("die_with_parent.py"))
_FOREIGN = {"REDIS_URL", "DATABASE_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "CELERY_CONFIG_MODULE"}
_RESTART_AFTER_S = (0.1, 0.5, 2.0)  # seconds before the first, second and any later restart in a row
_HEALTHY_S = 10.0  # seconds of running after which the next restart counts as the first in a row


class ProcessFailed(RuntimeError):
    """A local process did not become ready; the message holds the end of its log."""


def clean_environment(**ours: str) -> dict[str, str]:
    """Return this process's environment variables without any broker, database or B2COPY setting, plus `ours`."""
    neutral = {
        name: value
        for name, value in os.environ.items()
        if name not in _FOREIGN and not name.upper().startswith(PREFIX)
    }
    return neutral | ours


class Process:
    """One command in a session of its own, so that Ctrl-C in a terminal does not reach it: we stop it, in our order."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        restarts: bool = True,
    ) -> None:
        self.name, self.command, self.log = name, list(command), log
        self.started = 0  # how often
        self.returncode: int | None = None  # of the last run that ended
        self._environment = dict(clean_environment() if environment is None else environment)
        self._restarts = restarts
        self._popen: subprocess.Popen[bytes] | None = None
        self._log_begins = 0
        self._up = threading.Event()
        self._stopping = threading.Event()
        self._supervisor: threading.Thread | None = None

    def start(self) -> "Process":
        """Start the process and return once it has a pid."""
        if self._supervisor is not None and self._supervisor.is_alive():
            return self
        self._stopping.clear()
        self._up.clear()
        self.returncode = None
        # This thread also starts the process: PR_SET_PDEATHSIG fires when the *thread* that started the child ends.
        self._supervisor = threading.Thread(target=self._supervise, name=f"supervisor of {self.name}", daemon=True)
        self._supervisor.start()
        self._up.wait()
        atexit.register(self.stop)
        return self

    @property
    def pid(self) -> int:
        """The pid of the current run. Raises ProcessFailed if the process is not running."""
        popen = self._popen
        if popen is None:
            raise ProcessFailed(f"{self.name} is not running")
        return popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the main process, not to its children."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, as a crash would end it; the supervisor restarts it."""
        self.send(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM and do not restart it; `stop` waits for the end."""
        self._stopping.set()
        with suppress(ProcessFailed):
            self.send(signal.SIGCONT)  # a process that a test has suspended cannot end
            self.send(signal.SIGTERM)

    def stop(self, grace: float = 15.0) -> int | None:
        """Send SIGTERM, after `grace` seconds SIGKILL, and return the exit code. It may be called again."""
        atexit.unregister(self.stop)
        supervisor = self._supervisor
        if supervisor is None:
            return self.returncode
        if not self._stopping.is_set():  # on a second SIGTERM Celery stops without finishing its tasks
            self.terminate()
        supervisor.join(grace)
        if supervisor.is_alive():
            with suppress(ProcessFailed):
                self.kill()
            supervisor.join()
        self._supervisor = None
        return self.returncode

    def wait(self, timeout: float) -> int | None:
        """Wait until a process that is not restarted ends; return its exit code, None if it is still running."""
        if self._supervisor is not None:
            self._supervisor.join(timeout)
        return None if self.running else self.returncode

    def current_log(self) -> str:
        """The log of the current run, or of the last one if the process is not running."""
        with self.log.open("rb") as log:
            log.seek(self._log_begins)
            return log.read().decode(errors="replace")

    def tail(self, lines: int = 20) -> str:
        """The last lines of the log of all runs."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _supervise(self) -> None:
        in_a_row = 0
        while not self._stopping.is_set():
            since = time.monotonic()
            try:
                self._run()
            finally:
                self._up.set()
            if not self._restarts:
                return
            in_a_row = 0 if time.monotonic() - since > _HEALTHY_S else in_a_row
            self._stopping.wait(_RESTART_AFTER_S[min(in_a_row, len(_RESTART_AFTER_S) - 1)])
            in_a_row += 1

    def _run(self) -> None:
        wrapper = [sys.executable, "-I", "-S", _DIE_WITH_PARENT, str(os.getpid())]
        with self.log.open("ab") as log:
            self._log_begins = log.tell()
            popen = subprocess.Popen(  # noqa: S603
                wrapper + self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        self._popen = popen
        self.started += 1
        self._up.set()
        if self._stopping.is_set():  # `terminate` was called before there was a process
            popen.terminate()
        # Wait for its end without reaping it. Until it is reaped, no other process group can have its number, so killpg
        # reaches only the children that it left behind.
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT)
        else:  # macOS before Python 3.13
            popen.wait()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(popen.pid, signal.SIGKILL)
        self._popen = None
        self.returncode = popen.wait()
