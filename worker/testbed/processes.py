"""Local processes under supervision: started in a clean environment, restarted when they die, ended with us.

kombu 5.7 ends a busy worker when Redis restarts, so what runs here needs a supervisor as production does.
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

_TETHER = str(Path(__file__).with_name("die_with_parent.py"))
_FOREIGN = {"REDIS_URL", "DATABASE_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "CELERY_CONFIG_MODULE"}
_PAUSES = (0.1, 0.5, 2.0)  # seconds before the first, second, any later restart in a row
_HEALTHY = 10.0  # seconds after which a process that dies counts as the first in a row again


class ProcessFailed(RuntimeError):
    """A local process did not become ready; the message holds the end of its log."""


def clean_environment(**ours: str) -> dict[str, str]:
    """This process's environment without anybody's broker, database or B2COPY settings, and with ours."""
    kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN and not name.startswith(PREFIX)}
    return kept | ours


class Process:
    """One command. Its own session keeps a terminal's Ctrl-C from it: we end it, in our order."""

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
        self._keeper: threading.Thread | None = None

    def start(self) -> "Process":
        """Start, and return once the process has a pid."""
        if self._keeper is not None and self._keeper.is_alive():
            return self
        self._stopping.clear()
        self._up.clear()
        self.returncode = None
        # The keeper starts it too: Linux ends a tethered child when the *thread* that started it ends.
        self._keeper = threading.Thread(target=self._keep, name=f"keeper of {self.name}", daemon=True)
        self._keeper.start()
        self._up.wait()
        atexit.register(self.stop)
        return self

    @property
    def pid(self) -> int:
        """The pid of the current run. Raises ProcessFailed if there is none."""
        popen = self._popen
        if popen is None:
            raise ProcessFailed(f"{self.name} is not running")
        return popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the main process alone: its children are its own affair."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, as a crash would: the supervisor restarts it."""
        self.send(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM, and no restart; `stop` waits for the end."""
        self._stopping.set()
        with suppress(ProcessFailed):
            self.send(signal.SIGCONT)  # a process that a test has frozen cannot end
            self.send(signal.SIGTERM)

    def stop(self, grace: float = 15.0) -> int | None:
        """SIGTERM, and SIGKILL to what is left after `grace` seconds; return the exit code. Safe to repeat."""
        atexit.unregister(self.stop)
        keeper = self._keeper
        if keeper is None:
            return self.returncode
        if not self._stopping.is_set():  # Celery takes a second SIGTERM for impatience
            self.terminate()
        keeper.join(grace)
        if keeper.is_alive():
            with suppress(ProcessFailed):
                self.kill()
            keeper.join()
        self._keeper = None
        return self.returncode

    def wait(self, timeout: float) -> int | None:
        """Wait for a process that is not restarted to end by itself; return its exit code, None if it runs on."""
        if self._keeper is not None:
            self._keeper.join(timeout)
        return None if self.running else self.returncode

    def said(self) -> str:
        """The log of the current run, or of the last one."""
        with self.log.open("rb") as log:
            log.seek(self._log_begins)
            return log.read().decode(errors="replace")

    def tail(self, lines: int = 20) -> str:
        """The end of the log of all runs."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _keep(self) -> None:
        in_a_row = 0
        while not self._stopping.is_set():
            since = time.monotonic()
            try:
                self._run()
            finally:
                self._up.set()
            if not self._restarts:
                return
            in_a_row = 0 if time.monotonic() - since > _HEALTHY else in_a_row
            self._stopping.wait(_PAUSES[min(in_a_row, len(_PAUSES) - 1)])
            in_a_row += 1

    def _run(self) -> None:
        tether = [sys.executable, "-I", "-S", _TETHER, str(os.getpid())]
        with self.log.open("ab") as log:
            self._log_begins = log.tell()
            popen = subprocess.Popen(  # noqa: S603
                tether + self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        self._popen = popen
        self.started += 1
        self._up.set()
        if self._stopping.is_set():  # told to stop just before there was anything to end
            popen.terminate()
        # See it end before reaping it: until then its process group, and whoever it left behind there, is ours.
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT)
        else:  # macOS before Python 3.13
            popen.wait()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(popen.pid, signal.SIGKILL)
        self._popen = None
        self.returncode = popen.wait()
