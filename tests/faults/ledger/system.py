"""A whole system under load: sandbox, broker, database, workers, beat, and a CRM that keeps requesting."""

import atexit
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import func, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from tests.faults.ledger.crm import ENTITIES, MIX
from tests.postgres import Postgres
from tests.support import until
from worker.ledger import Ledger, open_ledger
from worker.ledger.engine import connect
from worker.ledger.schema import attempts, c, operations, requests
from worker.queues import UNACKED
from worker.testbed.local_system import Environment, wait_for_worker
from worker.testbed.processes import Process

DATABASES = ("sqlite", "postgresql")
RULES: dict[str, dict[str, Any]] = {
    "none_due": {},
    "pending": {"pending_polls": 1},
    "error": {"ends": "ERROR"},
}


@cache
def postgres() -> Postgres:
    """Return the one server of this run. Each scenario has a schema of its own."""
    server = Postgres().start()
    atexit.register(server.stop)
    return server


class System:
    """A context manager. `workers` and `beats` are how many of each; `settings` are those of all our processes.

    `entities` is how many entities share the ordered calls of the mix.
    """

    def __init__(
        self,
        environment: Environment,
        database: str,
        clients: Sequence[str] = ("enqueue", "message"),
        workers: int = 2,
        beats: int = 1,
        options: Sequence[str] = (),
        per_second: float = 15.0,
        latency: float = 0.2,
        mix: Sequence[str] = MIX,
        entities: int = ENTITIES,
        **settings: str,
    ) -> None:
        self.environment, self.database, self.clients = environment, database, clients
        if database == "postgresql":
            environment.settings["B2COPY_DATABASE_URL"] = postgres().url()
        environment.settings.update(settings)
        self._counts, self._options = (workers, beats), options
        self._per_second, self._latency, self._mix = per_second, latency, mix
        self._entities = entities
        self.notes = environment.folder / "crm"
        self.workers: list[Process] = []
        self.beats: list[Process] = []
        self.fault_ended = 0.0  # Unix time, s

    def __enter__(self) -> "System":
        self.environment.sandbox.control.switches(logins=RULES, latency={"api": self._latency})
        self.notes.mkdir()
        open_ledger(self.environment.database_url, create=True).close()
        workers, beats = self._counts
        self.workers = [self.environment.worker(*self._options, name=f"worker{number}") for number in range(workers)]
        self.beats = [self.environment.beat(name=f"beat{number}") for number in range(beats)]
        for worker in self.workers:
            wait_for_worker(worker)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.save_logs()

    def start_crm(self) -> None:
        task = {
            "folder": str(self.notes), "clients": list(self.clients), "per_second": self._per_second,
            "mix": list(self._mix), "entities": self._entities,
        }  # fmt: skip
        self.environment.run("crm", sys.executable, "-m", "tests.faults.ledger.crm", json.dumps(task), restarts=False)

    def stop_crm(self) -> None:
        (self.notes / "stop").touch()
        crm = next(process for process in self.environment.processes if process.name == "crm")
        if crm.wait(30.0) is None:
            raise AssertionError(f"the CRM does not stop:\n{crm.tail()}")
        if crm.returncode:
            raise AssertionError(f"the CRM failed:\n{crm.tail()}")

    def request(self, *rows: dict[str, Any], kind: str = "fees.process") -> None:
        """Enqueue these operations, in a process of its own."""
        code = "import json, sys; from tasks import enqueue; enqueue.many(sys.argv[1], json.load(open(sys.argv[2])))"
        file = self.environment.folder / f"rows-{time.monotonic_ns()}.json"
        file.write_text(json.dumps(rows))
        process = self.environment.run(file.stem, sys.executable, "-c", code, kind, str(file), restarts=False)
        if process.wait(60.0) != 0:
            raise AssertionError(f"the operations were not enqueued:\n{process.tail()}")

    def wait_for_load(self, finals: int = 20) -> None:
        """Wait until so many operations are final."""
        until(lambda: self.count(c.ended_at.is_not(None)) >= finals, within=30)

    def go_on(self, seconds: float) -> None:
        """Let the system work for some seconds, because a fault run is measured over a time."""
        time.sleep(seconds)

    @contextmanager
    def fault(self) -> Iterator[None]:
        """A context that is the fault. `fault_ended` is the end of the last one."""
        yield
        self.fault_ended = time.time()

    def drain(self, within: float = 60.0) -> None:
        """Wait until no operation is open, and no message and no request is anywhere."""

        def nothing_left() -> bool:
            with self.environment.broker.client as client:
                if client.llen("b2copy.inbox") or client.hlen(UNACKED):
                    return False
            with self.ledger() as ledger, ledger.reading() as connection:
                if connection.execute(select(requests.c.id).limit(1)).first() is not None:
                    return False
            return self.count(c.due_at.is_not(None)) == 0

        until(nothing_left, within=within, every=0.2)

    def children(self) -> list[int]:
        """Return the pids of the workers' pool processes, if the pool has processes."""
        tasks = [task for worker in self.workers for task in Path(f"/proc/{worker.pid}/task").iterdir()]
        return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]

    def pass_an_hour(self) -> None:
        """Set the times of open operations back by an hour: to them the clock has advanced by an hour."""
        times = ("due_at", "state_since", "requested_at", "deadline_at")
        with self.ledger() as ledger, ledger.writing() as connection:
            connection.execute(
                update(operations)
                .where(c.state.in_(["queued", "waiting"]))
                .values({name: c[name] - 3_600_000 for name in times})
            )

    def most_attempts(self) -> int:
        """Return the number of attempts at the operation with the most attempts."""
        times = select(func.sum(attempts.c.times).label("times")).group_by(attempts.c.operation_id).subquery()
        with self.ledger() as ledger, ledger.reading() as connection:
            return int(connection.execute(select(func.max(times.c.times))).scalar() or 0)

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The ledger, through new connections that no fault has touched."""
        engine = connect(self.environment.database_url)
        try:
            yield Ledger(engine, "")
        finally:
            engine.dispose()

    @contextmanager
    def ledger_locked(self) -> Iterator[None]:
        """A context in which nobody else can write to the ledger."""
        with self.ledger() as ledger, ledger.writing() as connection:  # on SQLite the transaction is enough
            if self.database == "postgresql":
                connection.execute(text("LOCK TABLE b2copy_operations IN EXCLUSIVE MODE"))
            yield

    def count(self, *conditions: Any) -> int:
        """Count operations; -1 while the ledger is unavailable."""
        try:
            with self.ledger() as ledger, ledger.reading() as connection:
                return connection.execute(select(func.count(c.id)).where(*conditions)).scalar_one()
        except SQLAlchemyError:
            return -1

    def save_logs(self) -> None:
        """Copy logs, notes and ledger out of the environment's folder, which is removed with the environment."""
        saved = Path(tempfile.mkdtemp(prefix="b2copy-faults-"))
        files = [
            *self.environment.folder.glob("*.log"),
            *self.notes.glob("*.notes"),
            *self.environment.folder.glob("*.sqlite*"),
        ]
        for file in files:
            shutil.copy(file, saved)
        print(f"    the logs are in {saved}", file=sys.stderr, flush=True)
