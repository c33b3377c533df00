"""Two workers of ours beside one: the rate while both are active, and CPU per operation.

The second worker begins a little later, and the last operations are done by one of the two. So the rate is taken from
the attempts in the ledger, between the moment when the last worker began and the moment when the first one ended.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import func, select

from tests.bench.contestants import Ours
from tests.bench.peer import Peer
from tests.bench.races import database, databases, environment
from tests.bench.results import Results
from tests.bench.usage import busy_seconds
from worker.ledger.schema import attempts

LATENCY_MS, AT_ONCE, COUNT = 10, 10, 2500  # operations per worker


def two_workers(folder: Path, results: Results, rounds: int, only: Sequence[str]) -> None:
    for name in databases(only):
        with ExitStack() as stack:
            peer = stack.enter_context(Peer(folder))
            peer.set(LATENCY_MS)
            teams = {}
            for count in (1, 2):
                made = stack.enter_context(environment(peer.url, stack.enter_context(database(name))))
                ours = Ours(made, AT_ONCE)
                stack.callback(ours.close)
                for _ in range(count - 1):
                    ours.add_worker()
                ours.run(500)
                ours.run(1000)  # both have drained once
                teams[count] = ours
            for number in range(rounds):
                for count, ours in sorted(teams.items(), reverse=bool(number % 2)):
                    rate, cpu_ms, busy = active(ours, COUNT * count, count)
                    results.add("workers", who=name, round=number, workers=count, rate=rate, cpu_ms=cpu_ms, cores=busy)


def active(ours: Ours, count: int, workers: int) -> tuple[float | None, float, float]:
    """Run so many; return the rate while all workers were active (None if not all were), CPU ms each, busy cores."""
    with ours.ledger.reading() as connection:
        after = connection.execute(select(func.coalesce(func.max(attempts.c.operation_id), 0))).scalar_one()
    busy = busy_seconds()
    run = ours.run(count)
    cores = (busy_seconds() - busy) / run.seconds
    mine = attempts.c.operation_id > after
    spans = select(func.min(attempts.c.last_at), func.max(attempts.c.last_at)).where(mine).group_by(attempts.c.worker)
    with ours.ledger.reading() as connection:
        bounds = connection.execute(spans).all()
        if len(bounds) < workers:
            return None, run.cpu_ms, cores
        begin, end = max(first for first, _ in bounds), min(last for _, last in bounds)
        done = connection.execute(
            select(func.count()).where(mine, attempts.c.last_at > begin, attempts.c.last_at <= end)
        ).scalar_one()
    return (done / (end - begin) * 1000 if end > begin else None), run.cpu_ms, cores
