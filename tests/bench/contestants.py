"""The contestants: ours, and what people would use instead, each against the same peer.

The clock of a run starts before the first operation is enqueued. It stops when the last one is done: for ours when the
ledger says so, for rivals when the peer has carried it out. CPU is user and system time of a contestant's own processes
(worker, beat, the process that enqueues), without Redis, database server and peer.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import func, select

from tests.bench.environments import our_python, python_of
from tests.bench.part import Part
from tests.bench.peer import Peer
from tests.bench.usage import cpu_seconds, family, peak_rss
from worker.ledger import Ledger, open_ledger
from worker.ledger.schema import operations
from worker.operation import State
from worker.testbed.broker import Broker
from worker.testbed.local_system import Environment, b2copy_sync
from worker.testbed.processes import Process, ProcessFailed, clean_environment

RUN_MAX_S = 90.0  # seconds that a run may take
ROUTE = "/api/admin/fees/v2/fee/feeservice/processext"  # the path alone makes a difference: its length

_ANY_OPEN = select(operations.c.id).where(operations.c.due_at.is_not(None)).limit(1)
_COUNT = select(func.count()).select_from(operations)

Calls = list[tuple[str, float, float]]
"""Id, begin and duration (monotonic seconds) of each call that enqueued."""


@dataclass(frozen=True)
class Run:
    """`count` operations done in `seconds`, with `cpu` seconds of all processes of the contestant."""

    count: int
    seconds: float
    cpu: float
    redis_bytes: int = 0

    @property
    def rate(self) -> float:
        return self.count / self.seconds

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of CPU per operation."""
        return self.cpu / self.count * 1000


class Contestant(Protocol):
    """What is measured. `feed` is missing in the loops, which have no queue."""

    name: str

    def run(self, count: int) -> Run: ...

    def peak_mb(self) -> float:
        """Return the peak memory of what makes the calls: the worker, or the loop."""
        ...

    def close(self) -> None: ...


class Ours:
    """A worker, beat, and a process that enqueues. `run` enqueues in one call, `singles` one by one."""

    def __init__(self, environment: Environment, concurrency: int, beat: bool = True, name: str = "ours") -> None:
        self.name, self._environment = name, environment
        self._settings = {"B2COPY_CONCURRENCY": str(concurrency)}
        self.ledger: Ledger = open_ledger(environment.database_url, create=True)
        python = our_python() or Path(sys.executable)
        environment.program = b2copy_sync(str(python))
        self.crm = Part("crm", environment.variables, environment.folder / "crm.log", python)
        self.workers: list[Process] = []
        self.worker = self.add_worker()
        self._beat = [environment.beat(name=f"beat-{concurrency}")] if beat else []
        self._batch = 0
        self.accepted = 0

    def add_worker(self) -> Process:
        """Start one more worker process."""
        name = f"{self.name.replace(' ', '-').replace(',', '')}-{len(self.workers) + 1}"
        self.workers.append(self._environment.worker(name=name, restarts=False, **self._settings))
        return self.workers[-1]

    def run(self, count: int) -> Run:
        return self._run("many", count)

    bulk = run

    def singles(self, count: int) -> Run:
        return self._run("feed", count)

    def once(self, count: int) -> Run:
        """Calls that must not be repeated."""
        return self._run("once", count)

    def feed(self, count: int, per_second: float) -> Calls:
        """Enqueue one by one at a rate, and wait until all is done."""
        calls: Calls = self.crm.run("feed", batch=self.batch(), count=count, per_second=per_second)["calls"]
        self.wait()
        return calls

    def batch(self) -> str:
        """Return a name for the next operations."""
        self._batch += 1
        return f"{self.worker.name}-{self._batch}"

    def wait(self, within: float = RUN_MAX_S) -> float:
        """Wait until no operation is open; return when that was (monotonic seconds)."""
        return _wait(self.worker, self._all_final, within, every=0.01)

    def succeeded(self) -> int:
        """Return how many operations have succeeded so far."""
        return self._count(State.SUCCEEDED)

    def failed(self) -> int:
        return self._count(State.FAILED)

    def pids(self) -> list[int]:
        return [process.pid for process in [*self.workers, *self._beat]]

    def peak_mb(self) -> float:
        return peak_rss(self.worker.pid)

    def close(self) -> None:
        self.crm.close()
        for process in [*self.workers, *self._beat]:
            process.terminate()
        for process in [*self.workers, *self._beat]:
            process.stop()
        self.ledger.close()

    def _run(self, how: str, count: int) -> Run:
        cpu, redis = cpu_seconds(*self.pids()), _traffic(self._environment.broker)
        enqueued = self.crm.run(how, batch=self.batch(), count=count)
        self.accepted += count
        ended = self.wait()
        used = cpu_seconds(*self.pids()) - cpu + enqueued["cpu"]
        return Run(count, ended - enqueued["began"], used, _traffic(self._environment.broker) - redis)

    def _all_final(self) -> bool:
        with self.ledger.reading() as connection:
            return connection.execute(_ANY_OPEN).first() is None

    def _count(self, state: State) -> int:
        with self.ledger.reading() as connection:
            return connection.execute(_COUNT.where(operations.c.state == state)).scalar_one()


class Rival:
    """A task queue: its worker, its own broker, and the process that enqueues."""

    def __init__(self, name: str, python: Path, peer: Peer, at_once: int, folder: Path) -> None:
        self.name, self._peer = name, peer
        self._broker = Broker(folder / f"{name}-broker").start()
        variables = _variables(peer.url, at_once) | {"BENCH_REDIS": self._broker.url}
        module = f"tests.bench.rivals.{name}_task"
        command = [str(python), "-m", *(word.format(module=module, n=at_once) for word in WORKERS[name].split())]
        self._worker = Process(name, command, folder / f"{name}.log", variables, restarts=False).start()
        self._feeder = rival_feeder(name, python, peer.url, at_once, self._broker, folder)
        self._batch = self._done = 0

    def run(self, count: int) -> Run:
        pids = family(self._worker.pid)
        cpu, redis = cpu_seconds(*pids), _traffic(self._broker)
        fed = self.enqueue(count)
        ended = self.wait(count)
        time.sleep(0.05)  # for what follows the last answer, such as its acknowledgement
        used = cpu_seconds(*pids) - cpu + fed["cpu"]
        return Run(count, ended - fed["began"], used, _traffic(self._broker) - redis)

    def feed(self, count: int, per_second: float) -> Calls:
        """Enqueue one by one at a rate, and wait until all is done."""
        calls: Calls = self.enqueue(count, per_second)["calls"]
        self.wait(count)
        return calls

    def enqueue(self, count: int, per_second: float = 0.0) -> dict[str, Any]:
        """Enqueue one by one, as fast as possible or at a rate; return what the process that did it answered."""
        self._batch += 1
        self._done = self._peer.ids()
        return self._feeder.run("feed", batch=f"{self.name}-{self._batch}", count=count, per_second=per_second)

    def wait(self, count: int) -> float:
        """Wait until the peer has carried out so many of the last ones; return when that was (monotonic seconds)."""
        return _wait(self._worker, lambda: self._peer.ids() >= self._done + count, RUN_MAX_S, every=0.01)

    def pids(self) -> list[int]:
        return [self._worker.pid]

    def peak_mb(self) -> float:
        return peak_rss(*family(self._worker.pid))

    def close(self) -> None:
        self._feeder.close()
        self._worker.stop(grace=5.0)
        self._broker.stop()


WORKERS = {
    "celery": "celery -A {module} worker --pool threads --concurrency {n} --hostname plain@%h",
    "dramatiq": "dramatiq {module} --processes 1 --threads {n}",
    "huey": "huey.bin.huey_consumer {module}.huey -k thread -w {n} -q",
    "arq": "arq {module}.WorkerSettings",
    "taskiq": "taskiq worker {module}:broker --workers 1 --max-async-tasks {n} --log-level WARNING",
}
"""The task queues, and what follows `python -m` to start a worker with `n` calls at once."""
LOOPS = ("requests", "aiohttp")


class Loop:
    """A bare loop in one process: no queue, nothing kept."""

    def __init__(self, name: str, python: Path, peer: Peer, at_once: int, folder: Path) -> None:
        self.name = f"{name} loop"
        self._part = Part(f"rivals.{name}_loop", _variables(peer.url, at_once), folder / f"{name}.log", python)
        self._batch = 0

    def run(self, count: int) -> Run:
        self._batch += 1
        answer = self._part.run("run", batch=f"{self.name}-{self._batch}".replace(" ", "-"), count=count)
        return Run(count, answer["ended"] - answer["began"], answer["cpu"])

    def peak_mb(self) -> float:
        return peak_rss(self._part.pid)

    def close(self) -> None:
        self._part.close()


def rivals(peer: Peer, at_once: int, folder: Path, only: list[str]) -> list[Rival | Loop]:
    """Start the rivals whose environments can be had. `only`: names, or nothing for all."""
    found: list[Rival | Loop] = []
    for name in [*LOOPS, *WORKERS]:
        if (not only or name in only) and (python := python_of(name)):
            make = Loop if name in LOOPS else Rival
            found.append(make(name, python, peer, at_once, folder))
    return found


def rival_feeder(name: str, python: Path, url: str, at_once: int, broker: Broker, folder: Path) -> Part:
    """Start the process that enqueues for a task queue."""
    variables = _variables(url, at_once) | {"BENCH_REDIS": broker.url}
    return Part(f"rivals.{name}_task", variables, folder / f"{name}-feeder.log", python)


def _variables(url: str, at_once: int) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return clean_environment(BENCH_URL=url + ROUTE, BENCH_AT_ONCE=str(at_once), PYTHONPATH=root)


def _traffic(broker: Broker) -> int:
    """Return the bytes that a broker has received and sent."""
    with broker.client as client:
        stats = client.info("stats")
    return int(stats["total_net_input_bytes"]) + int(stats["total_net_output_bytes"])


def _wait(worker: Process, done: Callable[[], bool], within: float, every: float) -> float:
    until = time.monotonic() + within
    while not done():
        if time.monotonic() > until or not worker.running:
            raise ProcessFailed(f"{worker.name} did not finish:\n{worker.tail()}")
        time.sleep(every)
    return time.monotonic()
