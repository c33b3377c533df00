"""What the ledger costs per operation: CPU of this process and of the database server, without HTTP.

    python -m tests.bench.ledger_cost [--operations 6000] [--rounds 5]

Records, claims and settles as a lane does: one transaction settles a batch and claims the next. Prints the median of
the rounds for SQLite and PostgreSQL (fsync on, unix socket) at several batch sizes. Each round measures all of them, so
that a busy machine affects all of them.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.operations import attempt_record, new_operation
from tests.postgres import Postgres
from worker.ledger import Ledger, open_ledger, record, settle_and_claim
from worker.ledger.migrations import migrate
from worker.operation import State, Transition

BATCHES = (250, 100, 10, 1)
OWNER = "host:1:00000000"


class Cost(NamedTuple):
    """Microseconds per operation."""

    claim_and_settle: float  # CPU of this process
    wall: float
    server: float  # CPU of the database server; 0 for SQLite
    record: float  # CPU of this process


class Database(NamedTuple):
    name: str
    ledger: Ledger
    server_cpu_s: Callable[[], float]


def measure(database: Database, batch: int, operations: int, run: str) -> Cost:
    """Record so many operations, then claim and settle them all."""
    ledger, count = database.ledger, max(200, operations * min(batch, 50) // 50)
    began = _cpu_s()
    news = [new_operation(f"{run}-{number}", lane="bulk", time_allowed_s=86400.0) for number in range(count)]
    record(ledger, news, by="bench")
    recorded = _cpu_s()
    server, wall = database.server_cpu_s(), time.perf_counter()
    transitions: list[Transition] = []
    while True:
        lost, claims = settle_and_claim(ledger, transitions, "bulk", OWNER, batch)
        assert not lost
        if not claims:
            break
        transitions = [
            Transition(
                claim,
                State.SUCCEEDED,
                attempt=attempt_record(http_status=200, message="", request_id=claim.key),
                outcome_known=True,
            )
            for claim in claims
        ]
    per_operation = 1e6 / count
    return Cost(
        (_cpu_s() - recorded) * per_operation,
        (time.perf_counter() - wall) * per_operation,
        (database.server_cpu_s() - server) * per_operation,
        (recorded - began) * per_operation,
    )


@contextmanager
def databases() -> Iterator[list[Database]]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="b2copy-cost-"))
        server = Postgres(fsync=True).start()
        stack.callback(server.stop)
        opened = []
        for name, url, cpu_s in (
            ("SQLite", f"sqlite:///{folder}/ledger.db", lambda: 0.0),
            ("PostgreSQL", server.url(), lambda: _family_cpu_s(server.process.pid)),
        ):
            migrate(url)
            ledger = open_ledger(url)
            stack.callback(ledger.close)
            opened.append(Database(name, ledger, cpu_s))
        yield opened


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _family_cpu_s(parent: int) -> float:
    """Return the CPU seconds of a process and its children, dead ones included."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, rest = stat.read_text().split(" ", 1)
        except OSError:  # it has ended
            continue
        fields = rest.rsplit(")", 1)[1].split()
        if parent in (int(number), int(fields[1])):
            ticks += int(fields[11]) + int(fields[12]) + (int(fields[13]) + int(fields[14])) * (parent == int(number))
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    arguments = argparse.ArgumentParser(description="What the ledger costs per operation.")
    arguments.add_argument("--operations", type=int, default=6000)
    arguments.add_argument("--rounds", type=int, default=5)
    asked = arguments.parse_args()
    costs: dict[tuple[str, int], list[Cost]] = {}
    with databases() as opened:
        for database in opened:
            measure(database, 250, 1000, "warm-up")
        for round_ in range(asked.rounds):
            for database in opened:
                for batch in BATCHES:
                    cost = measure(database, batch, asked.operations, f"{round_}-{batch}")
                    costs.setdefault((database.name, batch), []).append(cost)
    print(f"{'us per operation':18}{'claim+settle, CPU':>24}{'wall':>10}{'server CPU':>12}{'record, CPU':>13}")
    for (name, batch), of_rounds in costs.items():
        cpu = [cost.claim_and_settle for cost in of_rounds]
        median = Cost(*(statistics.median(column) for column in zip(*of_rounds, strict=True)))
        spread = f"{median.claim_and_settle:.1f} ({min(cpu):.1f}-{max(cpu):.1f})"
        print(
            f"{name + ', ' + str(batch):18}{spread:>24}{median.wall:>10.0f}{median.server:>12.0f}{median.record:>13.1f}"
        )


if __name__ == "__main__":
    main()
