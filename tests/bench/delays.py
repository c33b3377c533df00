"""How long `enqueue` takes, and how long an operation takes from there to B2COPY."""

from statistics import median

from tests.bench.contestants import Ours
from tests.bench.part import Part
from tests.bench.report import Figure, at_least, at_most, percentile
from worker.ledger import open_ledger
from worker.testbed.local_system import Environment

ROWS = 20_000  # in one call of `many`
CALLS = 150  # of `enqueue.fees` in a round, fifty a second


def many(environment: Environment, rounds: int) -> list[Figure]:
    """How fast a list is checked and recorded, without a worker that competes for the CPU."""
    open_ledger(environment.database_url, create=True).close()
    crm = Part("crm", environment.variables, environment.folder / "crm.log")
    try:
        crm.run("many", batch="warm", count=100)
        runs = [crm.run("many", batch=f"round-{number}", count=ROWS) for number in range(rounds)]
    finally:
        crm.close()
    rate = median(ROWS / (one["ended"] - one["began"]) for one in runs)
    return [at_least(f"enqueue.many, {ROWS:,} rows", rate, 40_000, "/s", 0)]


def delays(environment: Environment, rounds: int) -> list[Figure]:
    """`enqueue` beside an idle and beside a busy worker, and from `enqueue` until B2COPY has applied it."""
    ours = Ours(environment, concurrency=10)
    try:
        ours.singles(500)
        capacity = median(ours.singles(1000).rate for _ in range(rounds))
        idle, applied, busy = [], [], []
        for _ in range(rounds):
            environment.sandbox.control.switches(latency={})
            applied.append(_applied(environment, ours, per_second=capacity / 2, count=int(capacity)))
            idle.append(_durations(ours.crm.run("singly", batch=ours.batch(), count=CALLS, per_second=50)))
            ours.wait()
            environment.sandbox.control.switches(latency={"api": 0.01})
            ours.crm.run("many", batch=ours.batch(), count=int(capacity * CALLS / 50))
            busy.append(_durations(ours.crm.run("singly", batch=ours.batch(), count=CALLS, per_second=50)))
            ours.wait()
    finally:
        ours.close()
    return [
        _at("enqueue, workers idle", idle, 0.5, 2),
        _at("enqueue, workers idle", idle, 0.99, 10),
        _at("enqueue, workers busy", busy, 0.99, 50),
        Figure("capacity, enqueued singly, 0 ms server", f"{capacity:,.0f}/s"),
        _at("enqueue to applied, half capacity", applied, 0.5, 15),
        _at("enqueue to applied, half capacity", applied, 0.99, 100),
    ]


def _durations(answer: dict[str, list[tuple[str, float, float]]]) -> list[float]:
    return [seconds for _, _, seconds in answer["calls"]]


def _applied(environment: Environment, ours: Ours, per_second: float, count: int) -> list[float]:
    """Return the seconds from each call of `enqueue` to the sandbox's effect: one machine, one clock."""
    answer = ours.crm.run("singly", batch=ours.batch(), count=count, per_second=per_second)
    ours.wait()
    applied = {effect["key"]: effect["first_at"] for effect in environment.sandbox.control.effects("fees.process")}
    return [applied[f"123456/{request_id}"] - began for request_id, began, _ in answer["calls"]]


def _at(what: str, rounds: list[list[float]], share: float, aim: float) -> Figure:
    """Return the median of the rounds' percentiles, so that one slow moment of the machine spoils one round only."""
    found = median(percentile(seconds, share) for seconds in rounds)
    return at_most(f"{what}, p{share * 100:g}", found * 1000, aim, " ms", 1)
