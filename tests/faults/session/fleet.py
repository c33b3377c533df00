"""A fleet of processes that call B2COPY, the faults it goes through, and the figures of its calls."""

import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import until
from worker.session.shared_session import SharedSession
from worker.session.timings import Timings
from worker.settings import Settings, load, worker_settings
from worker.testbed.local_system import Environment

# Timings for tokens that live 3 s instead of 15 min.
SHORT: dict[str, Any] = {
    "lease": 2.0,
    "token_deadline": 1.2,
    "lease_margin": 0.5,
    "login_backoff": 0.1,
    "cooldown_max": 2.0,
}


@dataclass(frozen=True)
class Call:
    process: int
    started: float
    ended: float
    result: str
    generation: int
    token: str  # its fingerprint

    @property
    def succeeded(self) -> bool:
        return self.result == "200"


class Fleet:
    """A context manager: `count` processes, each of which calls every `pause` seconds, for at most `seconds`.

    `clocks` are how many seconds the processes' wall clocks are ahead; the first process has the first one, and so on.
    """

    def __init__(
        self,
        environment: Environment,
        count: int = 16,
        seconds: float = 120.0,
        pause: float = 0.2,
        clocks: Sequence[float] = (0.0,),
        timings: Mapping[str, Any] | None = None,
    ) -> None:
        self._environment, self._count = environment, count
        self._timings = SHORT | dict(timings or {})
        self._folder = environment.folder / f"fleet-{time.monotonic_ns()}"
        self._task = {
            "folder": str(self._folder), "count": count, "pause": pause, "clocks": list(clocks),
            "timings": self._timings, "ends": time.monotonic() + seconds,
        }  # fmt: skip
        self.windows: list[tuple[float, float]] = []

    def __enter__(self) -> "Fleet":
        self._folder.mkdir()
        command = [sys.executable, "-m", "tests.faults.session.caller", json.dumps(self._task)]
        self._process = self._environment.run(f"{self._folder.name}", *command, restarts=False)
        until(lambda: self._process.running is False or (self._folder / "pids").exists(), within=20)
        if not self._process.running:
            raise RuntimeError(f"the fleet did not start:\n{self._process.tail()}")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop(grace=1.0)

    @property
    def pids(self) -> list[int]:
        found: list[int] = json.loads((self._folder / "pids").read_text())
        return found

    @property
    def session(self) -> SharedSession:
        """The session as another member of the fleet sees it. This process makes no call."""
        return SharedSession(self.settings, Timings(**self._timings))

    @property
    def settings(self) -> Settings:
        with _environment(self._environment.settings):
            worker_settings.cache_clear()
            return load(Settings)

    def all_call(self, within: float = 20.0) -> None:
        """Wait until every living process has made a successful call that started after now."""
        since = time.monotonic()
        until(lambda: len({call.process for call in self.calls() if call.succeeded and call.started > since})
              >= self._count - self._dead(), within=within, every=0.1)  # fmt: skip

    def go_on(self, seconds: float) -> None:
        """Let the fleet call for some seconds, because a fault run is measured over a time."""
        time.sleep(seconds)

    def wait_for_renewal(self) -> None:
        """Wait until the session is renewed."""
        session = self.session
        generation = session.state().generation
        until(lambda: session.state().generation > generation, within=5)

    def recover(self, seconds: float) -> None:
        """Wait until every living process succeeds again, at most 5 s; then let the fleet call for some seconds."""
        self.all_call(within=5.0)
        self.go_on(seconds)

    @contextlib.contextmanager
    def fault(self) -> Iterator[None]:
        """A context that is a fault window: calls that begin in it are not counted as failures."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.windows.append((started, time.monotonic()))

    def wait_for_leader(self, within: float = 10.0) -> int:
        """Wait until a living process of the fleet holds the renewal lease; return its pid."""
        session, pids = self.session, self.pids

        def leader() -> int | None:
            owner = session.state().leader
            pid = int(owner.split(":")[1]) if owner else 0
            return pid if pid in pids and _lives(pid) else None

        return until(leader, within=within, every=0.003) or 0

    def send(self, pid: int, number: signal.Signals) -> None:
        os.kill(pid, number)

    def calls(self) -> list[Call]:
        found = []
        for path in self._folder.glob("*.calls"):
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError):  # the last line of a killed process is incomplete
                    found.append(Call(int(path.stem), *json.loads(line)))
        return sorted(found, key=lambda call: call.started)

    def figures(self) -> dict[str, Any]:
        """Return the row of the table. `failures` counts the calls that failed outside the fault windows, by type."""
        calls, counters = self.calls(), self._environment.sandbox.control.counters()
        outside = [call for call in calls if not any(start <= call.started <= end for start, end in self.windows)]
        failed = [call for call in outside if not call.succeeded]
        return {
            "calls": len(calls),
            "logins": counters["logins"],
            "refreshes": counters["refreshes"],
            "reuses": counters["refresh_reuses"],
            "at once": counters["token_calls_at_once_max"],
            "401s": counters["unauthorized"],
            "401s visible": sum(call.result in {"401", "AccessRejected"} for call in calls),
            "success %": 100.0 * (len(outside) - len(failed)) / max(1, len(outside)),
            "recovery s": self._recovery(calls),
            "old tokens": _count_old_tokens(calls),
            "failures": ", ".join(f"{n} {kind}" for kind, n in Counter(call.result for call in failed).items()) or "-",
        }

    def _recovery(self, calls: Sequence[Call]) -> float:
        """Return the longest time from the end of a fault to the last call that failed before the next fault."""
        worst = 0.0
        for (_, end), (next_start, _) in zip(self.windows, [*self.windows[1:], (float("inf"), 0.0)], strict=False):
            late = [call.ended - end for call in calls if end <= call.ended < next_start and not call.succeeded]
            worst = max([worst, *late])
        return worst

    def _dead(self) -> int:
        return sum(not _lives(pid) for pid in self.pids)


def _count_old_tokens(calls: Sequence[Call]) -> int:
    """Count calls with an older generation than the process used before, and generations with two different tokens."""
    newest: dict[int, int] = {}
    tokens: dict[int, str] = {}
    count = 0
    for call in calls:
        if call.generation:
            count += call.generation < newest.get(call.process, 0)
            newest[call.process] = call.generation
            count += tokens.setdefault(call.generation, call.token) != call.token
    return count


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
