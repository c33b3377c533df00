"""A whole system under load: sandbox, broker, database, workers, beat, and a CRM that keeps asking."""

import atexit
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import func, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from tests.faults.ledger.crm import DOORS
from tests.postgres import Postgres
from tests.support import until
from worker.ledger import open_ledger
from worker.ledger.database import Ledger, connect
from worker.ledger.schema import attempts, operations
from worker.testbed.environment import Stage, wait_for_worker
from worker.testbed.processes import Process

DATABASES = ("sqlite", "postgresql")
RULES = {
    "none_due": {},
    "pending": {"pending_polls": 1},
    "error": {"ends": "ERROR"},
}
FINAL = {
    "none_due": ("succeeded", None),
    "pending": ("succeeded", None),
    "error": ("failed", "fee_error"),
    "call": ("succeeded", None),
    "ordered": ("succeeded", None),
    "repeatable": ("succeeded", None),
}
ONCE_UNSURE = {"call", "ordered"}  # whose outcome, when unknown, is for a person: failed `unresolved`

SLOW = 12.0  # seconds: more than a lapsed lease and the next dispatch cost

_row = operations.c


@cache
def postgres() -> Postgres:
    """One server for all scenarios of this run; each has a schema of its own."""
    server = Postgres().start()
    atexit.register(server.stop)
    return server


@dataclass(frozen=True)
class Asked:
    """What the CRM asked for, by which door, and when it was taken, s since 1970."""

    door: str
    what: str
    key: str
    at: float


class System:
    """A context manager. `workers` and `beats` are how many of each; `settings` are the workers' own."""

    def __init__(
        self,
        stage: Stage,
        database: str,
        doors: Sequence[str] = DOORS,
        workers: int = 2,
        beats: int = 1,
        options: Sequence[str] = (),
        per_second: float = 15.0,
        latency: float = 0.2,
        **settings: str,
    ) -> None:
        self.stage, self.database, self.doors = stage, database, doors
        if database == "postgresql":
            stage.settings["B2COPY_DATABASE_URL"] = postgres().url()
        stage.settings.update(settings)
        self._counts, self._options = (workers, beats), options
        self._per_second, self._latency = per_second, latency
        self._notes = stage.folder / "crm"
        self.workers: list[Process] = []
        self.beats: list[Process] = []
        self.fault_ended = 0.0

    def __enter__(self) -> "System":
        self.stage.sandbox.control.switches(logins=RULES, latency={"api": self._latency})
        self._notes.mkdir()
        open_ledger(self.stage.database_url, create=True).close()
        workers, beats = self._counts
        self.workers = [self.stage.worker(*self._options, name=f"worker{number}") for number in range(workers)]
        self.beats = [self.stage.beat(name=f"beat{number}") for number in range(beats)]
        for worker in self.workers:
            wait_for_worker(worker)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.keep_logs()

    def crm_starts(self) -> None:
        task = {"folder": str(self._notes), "doors": list(self.doors), "per_second": self._per_second}
        self.stage.run("crm", sys.executable, "-m", "tests.faults.ledger.crm", json.dumps(task), restarts=False)

    def crm_stops(self) -> None:
        (self._notes / "stop").touch()
        crm = next(process for process in self.stage.processes if process.name == "crm")
        if crm.wait(30.0) is None:
            raise AssertionError(f"the CRM hangs:\n{crm.tail()}")
        if crm.returncode:
            raise AssertionError(f"the CRM failed:\n{crm.tail()}")

    def under_load(self, finals: int = 20) -> None:
        """Wait until operations come to their end."""
        until(lambda: self.count(_row.ended_at.is_not(None)) >= finals, within=30)

    def go_on(self, seconds: float) -> None:
        """Let them work: a fault run is measured over a time."""
        time.sleep(seconds)

    def over(self) -> None:
        """The fault ends now."""
        self.fault_ended = time.time()

    @contextmanager
    def fault(self) -> Iterator[None]:
        """What happens in here is the fault."""
        yield
        self.over()

    def drained(self, within: float = 60.0) -> None:
        """Wait until nothing is open, and no message is anywhere."""

        def nothing_left() -> bool:
            with self.stage.broker.client as client:
                if client.llen("b2copy.inbox") or client.hlen("unacked"):
                    return False
            return self.count(_row.due_at.is_not(None)) == 0

        until(nothing_left, within=within, every=0.2)

    def children(self) -> list[int]:
        """The pool processes of the workers, where the pool has them."""
        tasks = [task for worker in self.workers for task in Path(f"/proc/{worker.pid}/task").iterdir()]
        return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]

    def hour_passes(self) -> None:
        """Put back what waits by an hour: for it the clock has advanced by as much."""
        times = ("due_at", "since", "requested_at", "deadline_at")
        with self.ledger() as ledger, ledger.writing() as connection:
            connection.execute(
                update(operations)
                .where(_row.state.in_(["queued", "waiting"]))
                .values({name: _row[name] - 3_600_000 for name in times})
            )

    def most_tried(self) -> int:
        """How often B2COPY was asked about the operation it was asked about most."""
        tries = select(func.sum(attempts.c.times).label("times")).group_by(attempts.c.operation).subquery()
        with self.ledger() as ledger, ledger.reading() as connection:
            return int(connection.execute(select(func.max(tries.c.times))).scalar() or 0)

    def asked(self) -> list[Asked]:
        found = []
        for door in self.doors:
            for line in (self._notes / f"{door}.notes").read_text().splitlines():
                found.append(Asked(door, *json.loads(line)))
        return found

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The ledger, through connections of our own that no fault has touched yet."""
        engine = connect(self.stage.database_url)
        try:
            yield Ledger(engine, "")
        finally:
            engine.dispose()

    @contextmanager
    def ledger_held(self) -> Iterator[None]:
        """Nobody else can write to the ledger meanwhile."""
        with self.ledger() as ledger, ledger.writing() as connection:  # on SQLite that is all it takes
            if self.database == "postgresql":
                connection.execute(text("LOCK TABLE b2copy_operations IN EXCLUSIVE MODE"))
            yield

    def count(self, *conditions: Any) -> int:
        """Count operations; -1 while the ledger is away."""
        try:
            with self.ledger() as ledger, ledger.reading() as connection:
                return connection.execute(select(func.count(_row.id)).where(*conditions)).scalar_one()
        except SQLAlchemyError:
            return -1

    def operations(self) -> dict[str, Any]:
        columns = (_row.id, _row.key, _row.state, _row.failure_reason, _row.requested_at, _row.ended_at)
        with self.ledger() as ledger, ledger.reading() as connection:
            return {row.key: row for row in connection.execute(select(*columns)).all()}

    def applied(self) -> dict[str, int]:
        """How often B2COPY carried out what each key stands for."""
        times: dict[str, int] = {}
        for effect in self.stage.sandbox.control.effects():
            if effect["kind"] == "fees.process":
                times[f"fees.process:{effect['key'].partition('/')[2]}"] = effect["times"]
            else:
                times[f"call:{effect['body']['name']}"] = effect["times"]
        return times

    def figures(self) -> dict[str, Any]:
        """The row of the table, counted from the CRM's notes, the ledger and the sandbox's effect log."""
        asked, recorded, applied = self.asked(), self.operations(), self.applied()
        never, doubled, wrong, slow, unresolved, seconds = [], [], [], [], 0, [0.0]
        lost = [ask.key for ask in asked if ask.key not in recorded]
        for ask in asked:
            if ask.key not in recorded:
                if ask.door == "enqueue":
                    never.append(ask.key)
                continue
            row, times = recorded[ask.key], applied.get(ask.key, 0)
            unsure = ask.what in ONCE_UNSURE and (row.state, row.failure_reason) == ("failed", "unresolved")
            unresolved += unsure
            if times > 1 and ask.what != "repeatable":
                doubled.append(ask.key)
            if not unsure and (times == 0 or row.failure_reason == "unresolved"):
                never.append(ask.key)
            if not unsure and (row.state, row.failure_reason) != FINAL[ask.what]:
                wrong.append(f"{ask.key} {row.state} {row.failure_reason}")
            if row.ended_at is not None:
                since = max(self.fault_ended, ask.at)
                seconds.append(row.ended_at / 1000 - since)
                if seconds[-1] > SLOW:
                    slow.append(
                        f"{ask.key} (recorded {row.requested_at / 1000 - since:.1f} s, done {seconds[-1]:.1f} s)"
                    )
        sent = sum(ask.door == "message" for ask in asked)
        self._tell(never=never, doubled=doubled, wrong=wrong, lost=lost, slow=slow)
        return {
            "enqueued": len(asked) - sent,
            "sent": sent,
            "recorded": sent - len(lost),
            "once": sum(applied.get(ask.key) == 1 for ask in asked),
            "doubled": len(doubled),
            "never": len(never),
            "unresolved": unresolved,
            "wrong": len(wrong),
            "drained s": max(seconds),
            "starts": sum(worker.started for worker in self.workers),
        }

    def keep_logs(self) -> None:
        """Copy the logs out of the stage's folder, which goes with the stage."""
        kept = Path(tempfile.mkdtemp(prefix="b2copy-faults-"))
        for log in [*self.stage.folder.glob("*.log"), *self.stage.folder.glob("crm/*.notes")]:
            shutil.copy(log, kept)
        for ledger in self.stage.folder.glob("ledger.sqlite*"):
            shutil.copy(ledger, kept)
        print(f"    the logs are in {kept}", file=sys.stderr, flush=True)

    def _tell(self, **found: Sequence[str]) -> None:
        for name, keys in found.items():
            if keys:
                print(f"    {name}: {', '.join(keys[:8])}", file=sys.stderr, flush=True)


Fault = Callable[[System], None]


def played(
    fault: Fault, database: str, after: float = 2.0, broker: Any = None, sandbox: Any = None, **options: Any
) -> dict[str, Any]:
    """A system of its own under load, the fault, load for a while after it, and the figures once all is drained."""
    with Stage(broker, sandbox) as stage, System(stage, database, **options) as system:
        system.crm_starts()
        system.under_load()
        fault(system)
        system.go_on(after)
        system.crm_stops()
        system.drained()
        figures = system.figures()
        if safe(figures):
            system.keep_logs()
        return figures


def safe(figures: Mapping[str, Any]) -> list[str]:
    """What must hold in every scenario."""
    problems = [f"{figures[name]} {name}" for name in ("never", "doubled", "wrong") if figures[name]]
    if figures["drained s"] > 15:
        problems.append(f"drained only {figures['drained s']:.1f} s after the fault")
    return problems


def nearly_lossless(figures: Mapping[str, Any], kills: int = 3) -> list[str]:
    """The same. A killed worker costs one message at most: Redis has handed it over, kombu has not yet noted it."""
    lost = figures["sent"] - figures["recorded"]
    return [*safe(figures), *([f"{lost} messages lost"] if lost > kills else [])]


def lossless(figures: Mapping[str, Any]) -> list[str]:
    """The same, and every message that was sent has been recorded."""
    lost = figures["sent"] - figures["recorded"]
    return [*safe(figures), *([f"{lost} messages lost"] if lost else [])]
