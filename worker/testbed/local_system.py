"""Everything a worker needs, on this machine alone: broker, sandbox B2COPY, keys, ledger, environment variables.

The demo and the tests run in it.
"""

import json
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from worker.errors import SettingsError
from worker.sandbox.control_client import SandboxControl
from worker.testbed.broker import Broker
from worker.testbed.keys import KeyPair, new_key_pair, new_storage_key
from worker.testbed.ports import free_port, wait_for_port
from worker.testbed.processes import Process, ProcessFailed, clean_environment

ADMIN_ID = "42"
DEVICE_IP = "127.0.0.1"


class Sandbox:
    """The local B2COPY in a process of its own."""

    def __init__(self, folder: Path, keys: KeyPair, **switches: Any) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.keys = keys
        self._port = free_port()
        public = folder / "public.pem"
        public.write_text(keys.public_key)
        settings = folder / "switches.json"
        settings.write_text(json.dumps({"admin_id": ADMIN_ID, "device_ip": "peer", **switches}))
        command = [sys.executable, "-m", "worker.sandbox", "--port", str(self._port)]
        command += ["--key", f"{keys.key_id}={public}", "--switches", str(settings)]
        self.process = Process("sandbox", command, folder / "log", restarts=False)
        self.control = SandboxControl(f"http://127.0.0.1:{self._port}")

    @property
    def url(self) -> str:
        return self.control.base_url

    def start(self) -> "Sandbox":
        self.process.start()
        wait_for_port(self._port, self.process)
        return self

    def stop(self) -> None:
        self.process.stop(grace=2.0)


class Environment:
    """A context manager: at its end every process started in it is stopped and its folder is removed.

    A `broker` and `sandbox` that are passed in are neither started nor stopped here. `switches` are those of the
    sandbox that is created otherwise. `settings` are for the processes, and `program` is the command `b2copy-sync` that
    starts worker and beat; change them before the processes start.
    """

    def __init__(self, broker: Broker | None = None, sandbox: Sandbox | None = None, **switches: Any) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="b2copy-"))
        self.processes: list[Process] = []
        self.program = b2copy_sync()
        self.broker = broker or Broker(self.folder / "broker")
        self.sandbox = sandbox or Sandbox(self.folder / "sandbox", new_key_pair(self.folder, "demo"), **switches)
        self._owned: list[Broker | Sandbox] = []
        self._owned += [] if broker else [self.broker]
        self._owned += [] if sandbox else [self.sandbox]
        self.keys = self.sandbox.keys
        self.settings = {
            "B2COPY_HOST": self.sandbox.url,
            "B2COPY_ADMIN_ID": ADMIN_ID,
            "B2COPY_KEY_ID": self.keys.key_id,
            "B2COPY_PRIVATE_KEY_FILE": str(self.keys.private_file),
            "B2COPY_DEVICE_IP": DEVICE_IP,
            "B2COPY_STORAGE_KEY_FILE": str(new_storage_key(self.folder)),
            "B2COPY_REDIS_URL": self.broker.url,
            "B2COPY_DATABASE_URL": f"sqlite:///{self.folder / 'ledger.sqlite'}",
            "B2COPY_RATE_LIMIT": "0",
        }
        if "access_lifetime" in switches:
            self.settings["B2COPY_TOKEN_TTL"] = str(switches["access_lifetime"])

    @property
    def database_url(self) -> str:
        return self.settings["B2COPY_DATABASE_URL"]

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of a process: the caller's, without foreign ones, and `settings`."""
        return clean_environment(**self.settings)

    def __enter__(self) -> "Environment":
        try:
            for part in self._owned:
                part.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop every process, then sandbox and broker, and remove the folder."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.stop()
        for part in reversed(self._owned):
            part.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, name: str, *command: str, restarts: bool = True, **settings: str) -> Process:
        """Start a supervised process that logs to `<folder>/<name>.log`. `settings` are for this process alone."""
        process = Process(name, command, self.folder / f"{name}.log", self.variables | settings, restarts)
        self.processes.append(process)
        return process.start()

    def worker(self, *options: str, name: str = "worker", restarts: bool = True, **settings: str) -> Process:
        """Start `b2copy-sync worker`, on a new ledger if there is none; `wait_for_worker` before sending messages."""
        _make_ledger((self.settings | settings)["B2COPY_DATABASE_URL"])
        command = [*self.program, "worker", "--hostname", f"{name}@%h", "--loglevel", "INFO", *options]
        return self.run(name, *command, restarts=restarts, **settings)

    def beat(self, *options: str, name: str = "beat", restarts: bool = True, **settings: str) -> Process:
        """Start `b2copy-sync beat`."""
        schedule = str(self.folder / f"{name}-schedule")
        command = [*self.program, "beat", "--schedule", schedule, "--loglevel", "INFO", *options]
        return self.run(name, *command, restarts=restarts, **settings)


def _make_ledger(database_url: str) -> None:
    """Make the tables if there are none. What is wrong with the database is for the worker to say."""
    from worker.ledger import DATABASE_UNAVAILABLE_ERRORS, open_ledger

    with suppress(SettingsError, *DATABASE_UNAVAILABLE_ERRORS):
        open_ledger(database_url, create=True).close()


def b2copy_sync(python: str = sys.executable) -> list[str]:
    """Return the command line `b2copy-sync` as a Python has it installed, wherever its script is.

    -P: the current folder may hold a `tasks.py` of a CRM.
    """
    return [python, "-P", "-m", "worker.entry"]


def wait_for_worker(process: Process, within: float = 60.0) -> None:
    """Wait until the worker's log says that it takes messages. Raises ProcessFailed with the end of the log."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        if " ready." in process.current_log():
            return
        if not process.running and process.returncode is not None:
            break
        time.sleep(0.05)
    raise ProcessFailed(f"{process.name} did not become ready:\n{process.tail()}")
