"""Races: each round runs all contestants one after the other, and each round begins with another one.

Other work on the machine slows a whole round down. So figures are compared within a round, and the median of these
ratios counts.
"""

from collections.abc import Callable, Sequence
from statistics import median

from tests.bench.contestants import Loop, Ours, Plain, Run
from tests.bench.report import Figure, at_least, at_most
from tests.bench.usage import cpu_seconds
from worker.session import SharedSession
from worker.settings import PREFIX, Settings
from worker.testbed.local_system import Environment

SINGLES_AIM = 1.5  # times the plain task's rate


def race(environment: Environment, at_once: int, rounds: int, count: int, aim: float) -> list[Figure]:
    """`at_once` sends, `count` operations a run; `aim` times the plain task's rate is the aim of bulk."""
    token = SharedSession(_settings(environment)).current().access  # for the contestants that cannot log in
    ours, loop, plain = (
        Ours(environment, at_once),
        Loop(environment, token, at_once),
        Plain(environment, token, at_once),
    )
    sandbox = environment.sandbox.process.pid
    calls, cpu = _calls(environment), cpu_seconds(sandbox)
    try:
        bulk, singles, bare, task = run_rounds(
            rounds,
            lambda: ours.bulk(count),
            lambda: ours.singles(count // 4),
            lambda: loop.run(count),
            lambda: plain.run(count // 4),
        )
        accepted, succeeded = ours.accepted, ours.succeeded()
    finally:
        for contestant in (ours, loop, plain):
            contestant.close()
    per_call = (cpu_seconds(sandbox) - cpu) / (_calls(environment) - calls)
    doubled = len(environment.sandbox.control.effects("fees.process", at_least=2))
    return [
        _rates("ours, bulk", bulk),
        _rates("ours, enqueued singly", singles),
        _rates("bare requests.Session loop", bare),
        _rates("plain Celery task", task),
        Figure("the sandbox, on one core at most", f"{1 / per_call:,.0f}/s"),
        Figure("ours, succeeded of accepted", f"{succeeded:,} of {accepted:,}", "all", succeeded == accepted),
        Figure("applied more than once", f"{doubled:,}", "0", doubled == 0),
        at_least("bulk : bare loop", _ratio(bulk, bare), 1.0),
        at_least("bulk : bare loop, worst round", min(_ratios(bulk, bare)), 0.9),
        at_least("bulk : plain task", _ratio(bulk, task), aim),
        at_least("singles : plain task", _ratio(singles, task), SINGLES_AIM),
        at_most("CPU per operation, bulk : bare loop", _cpu_ratio(bulk, bare), 1.0),
        at_most("CPU per operation, bulk : plain task", _cpu_ratio(bulk, task), 1 / 3),
    ]


def run_rounds(rounds: int, *contestants: Callable[[], Run]) -> list[list[Run]]:
    """Run each contestant once to warm it up, then `rounds` times; return the runs of each contestant by round."""
    for run in contestants:
        run()
    runs: list[list[Run]] = [[] for _ in contestants]
    for number in range(rounds):
        for step in range(len(contestants)):
            which = (number + step) % len(contestants)
            runs[which].append(contestants[which]())
    return runs


def _settings(environment: Environment) -> Settings:
    """Return the settings of the environment's processes."""
    return Settings.model_validate(
        {name.removeprefix(PREFIX).lower(): value for name, value in environment.settings.items()}
    )


def _calls(environment: Environment) -> int:
    calls: int = environment.sandbox.control.counters()["calls"].get("processext", 0)
    return calls


def _rates(name: str, runs: Sequence[Run]) -> Figure:
    rate, cpu = median(run.rate for run in runs), median(run.cpu_ms for run in runs)
    return Figure(name, f"{rate:,.0f}/s  {cpu:.2f} ms CPU each")


def _ratios(ours: Sequence[Run], theirs: Sequence[Run]) -> list[float]:
    return [one.rate / other.rate for one, other in zip(ours, theirs, strict=True)]


def _ratio(ours: Sequence[Run], theirs: Sequence[Run]) -> float:
    return median(_ratios(ours, theirs))


def _cpu_ratio(ours: Sequence[Run], theirs: Sequence[Run]) -> float:
    return median(one.cpu / one.count / (other.cpu / other.count) for one, other in zip(ours, theirs, strict=True))
