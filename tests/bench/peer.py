"""The peer of the benchmark: `peer.c`, compiled on demand and run beside the contestants."""

import hashlib
import http.client
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from worker.testbed.ports import free_port, wait_for_port
from worker.testbed.processes import Process, ProcessFailed

SOURCE = Path(__file__).with_name("peer.c")
CACHE = Path(__file__).parents[2] / ".bench"
"""What the benchmark makes once: the peer's program, the environments of the rivals. Git ignores it."""


class Effect(NamedTuple):
    """What the peer did for one id: how often it was carried out, and when first (monotonic seconds)."""

    times: int
    first: float


class Peer:
    """A context manager. `certificate` and `key`: files for HTTPS."""

    def __init__(self, folder: Path, certificate: Path | None = None, key: Path | None = None) -> None:
        self.port = free_port()
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"
        files = [str(certificate), str(key)] if certificate else []
        command = [str(program()), str(self.port), *files]
        self._control: http.client.HTTPConnection | None = None
        self.process = Process("peer", command, folder / "peer.log", restarts=False)

    def __enter__(self) -> "Peer":
        self.process.start()
        wait_for_port(self.port, self.process)
        return self

    def __exit__(self, *_: object) -> None:
        if self._control is not None:
            self._control.close()
        self.process.stop(grace=1.0)

    def set(self, latency_ms: float = 0, refuse: int = 0, lose: int = 0, pending: bool = False) -> None:
        """From now on: latency, percent of requests that get a 503 and whose answers are lost, no run finishes."""
        self._get(f"/set?latency_ms={latency_ms:g}&refuse={refuse}&lose={lose}&pending={pending:d}")

    def reset(self) -> None:
        """Forget all ids."""
        self._get("/reset")

    def ids(self) -> int:
        """Return how many different ids were carried out since the last reset."""
        return self._counts()["ids"]

    def requests(self) -> int:
        """Return how many operations were asked for since the last reset."""
        return self._counts()["requests"]

    def effects(self) -> dict[str, Effect]:
        """Return what was carried out since the last reset, by id."""
        rows = (line.split() for line in self._get("/effects").splitlines())
        return {name: Effect(int(times), float(first)) for name, times, first in rows}

    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = json.loads(self._get("/counts"))
        return counts

    def _get(self, path: str) -> str:
        if self._control is None:
            self._control = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        self._control.request("GET", path)
        return self._control.getresponse().read().decode()


def program() -> Path:
    """Return the compiled peer. Raises `ProcessFailed` if there is no C compiler."""
    path = CACHE / f"peer-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}"
    if path.exists():
        return path
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise ProcessFailed("the benchmark's server is written in C: install gcc or clang")
    CACHE.mkdir(exist_ok=True)
    command = [compiler, "-O2", "-o", str(path), str(SOURCE)]
    if subprocess.run([*command, "-DTLS", "-lssl", "-lcrypto"], capture_output=True, check=False).returncode:
        print("SKIPPED: HTTPS, because the headers of OpenSSL are not installed", file=sys.stderr)
        subprocess.run(command, check=True)
    return path
