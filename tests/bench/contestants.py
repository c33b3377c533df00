"""The contestants: ours, the bare loop and the plain Celery task, each against the same sandbox.

The clock of a run starts with the first request and stops when the last operation is done: for ours when the ledger
says so, for the plain task when the sandbox has answered it, for the loop when it returns.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import func, select

from tests.bench.part import Part
from tests.bench.usage import cpu_seconds
from worker.ledger import Ledger, open_ledger
from worker.ledger.schema import operations
from worker.operation import State
from worker.sandbox.control_client import SandboxControl
from worker.sandbox.routes import PROCESS
from worker.testbed.broker import Broker
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process, ProcessFailed

RUN_MAX_S = 60.0  # seconds that a run may take

_ANY_OPEN = select(operations.c.id).where(operations.c.due_at.is_not(None)).limit(1)
_SUCCEEDED = select(func.count()).select_from(operations).where(operations.c.state == State.SUCCEEDED)


@dataclass(frozen=True)
class Run:
    """`count` operations done in `seconds`, with `cpu` seconds of all processes of the contestant."""

    count: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        return self.count / self.seconds

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of CPU per operation."""
        return self.cpu / self.count * 1000


class Ours:
    """A worker, beat, and a process that enqueues."""

    def __init__(self, environment: Environment, concurrency: int, beat: bool = True) -> None:
        settings = {"B2COPY_CONCURRENCY": str(concurrency)}
        name = f"ours-{concurrency}"
        self.ledger: Ledger = open_ledger(environment.database_url, create=True)
        self.crm = Part("crm", environment.variables, environment.folder / "crm.log")
        self.worker = environment.worker(name=name, restarts=False, **settings)
        self._processes = [self.worker, environment.beat(name=f"{name}-beat")] if beat else [self.worker]
        self._batch = 0
        self.accepted = 0  # by `bulk` and `singles`

    def bulk(self, count: int) -> Run:
        return self._run("many", count)

    def singles(self, count: int) -> Run:
        return self._run("singly", count)

    def batch(self) -> str:
        """Return a name for the next operations."""
        self._batch += 1
        return f"{self.worker.name}-{self._batch}"

    def wait(self, within: float = RUN_MAX_S) -> float:
        """Wait until no operation is open; return when that was (monotonic seconds)."""
        return _wait(self.worker, self._all_final, within, every=0.01)

    def succeeded(self) -> int:
        """Return how many operations have succeeded so far."""
        with self.ledger.reading() as connection:
            return connection.execute(_SUCCEEDED).scalar_one()

    def close(self) -> None:
        self.crm.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.stop()
        self.ledger.close()

    def _run(self, how: str, count: int) -> Run:
        before = cpu_seconds(*(process.pid for process in self._processes))
        enqueued = self.crm.run(how, batch=self.batch(), count=count)
        self.accepted += count
        ended = self.wait()
        after = cpu_seconds(*(process.pid for process in self._processes))
        return Run(count, ended - enqueued["began"], after - before + enqueued["cpu"])

    def _all_final(self) -> bool:
        with self.ledger.reading() as connection:
            return connection.execute(_ANY_OPEN).first() is None


class Loop:
    def __init__(self, environment: Environment, token: str, concurrency: int) -> None:
        variables = _variables(environment, token, concurrency)
        self._part = Part("loop", variables, environment.folder / "loop.log")
        self._batch = 0

    def run(self, count: int) -> Run:
        self._batch += 1
        answer = self._part.run("run", batch=f"loop-{id(self)}-{self._batch}", count=count)
        return Run(count, answer["ended"] - answer["began"], answer["cpu"])

    def close(self) -> None:
        self._part.close()


class Plain:
    """The plain task's worker, on a broker of its own, and the process that calls `delay`."""

    def __init__(self, environment: Environment, token: str, concurrency: int) -> None:
        self._broker = Broker(environment.folder / "plain-broker").start()
        variables = _variables(environment, token, concurrency) | {"BENCH_BROKER": self._broker.url}
        self._control = environment.sandbox.control
        self._feeder = Part("plain", variables, environment.folder / "plain.log")
        command = [sys.executable, "-m", "celery", "-A", "tests.bench.plain", "worker"]
        options = ["--pool", "threads", "--concurrency", str(concurrency), "--hostname", f"plain-{concurrency}@%h"]
        self._worker = environment.run(f"plain-{concurrency}", *command, *options, restarts=False, **variables)
        self._batch = 0

    def run(self, count: int) -> Run:
        self._batch += 1
        before, answered = cpu_seconds(self._worker.pid), _answered(self._control)
        fed = self._feeder.run("feed", batch=f"plain-{id(self)}-{self._batch}", count=count)
        ended = _wait(self._worker, lambda: _answered(self._control) >= answered + count, RUN_MAX_S, every=0.02)
        return Run(count, ended - fed["began"], cpu_seconds(self._worker.pid) - before + fed["cpu"])

    def close(self) -> None:
        self._feeder.close()
        self._worker.stop()
        self._broker.stop()


def _variables(environment: Environment, token: str, concurrency: int) -> dict[str, str]:
    settings = {
        "BENCH_URL": environment.sandbox.url + PROCESS,
        "BENCH_TOKEN": token,
        "BENCH_CONCURRENCY": str(concurrency),
    }
    return environment.variables | settings


def _answered(control: SandboxControl) -> int:
    answered: int = control.counters()["statuses"].get("processext", {}).get("200", 0)
    return answered


def _wait(worker: Process, done: Callable[[], bool], within: float, every: float) -> float:
    until = time.monotonic() + within
    while not done():
        if time.monotonic() > until or not worker.running:
            raise ProcessFailed(f"{worker.name} did not finish:\n{worker.tail()}")
        time.sleep(every)
    return time.monotonic()
