"""Random faults: the plan of a run is drawn from its seed, and every promise is checked at its end."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tests.faults.random.bugs import BUGS, MODULE
from tests.faults.random.plan import Event, Plan, answers_fail, draw_plan
from tests.faults.random.run import run_plan
from tests.faults.table import Scenario

TITLE = "Random faults: two workers, a beat, three clients, an operator"
SEEDS = (1, 2)


def random_run(seed: int) -> dict[str, Any]:
    row, broken = run_plan(draw_plan(seed))
    return row | {"broken": broken}


def planted(bug: str) -> dict[str, Any]:
    """Run with a planted bug and one short outage."""
    outage = partial(answers_fail, for_s=2.0, what="status", status=503)
    drawn = draw_plan(0, ours=0, theirs=0, actions=2)
    plan = Plan(drawn.seed, "sqlite", drawn.options, (), (Event(0.5, "2 s of 503", outage),), drawn.operator)
    row, broken = run_plan(plan, options=("--include", MODULE), saves_logs=False, PLANTED_BUG=bug)
    return row | {"broken": broken}


def unbroken(row: Mapping[str, Any]) -> Sequence[str]:
    return list(row["broken"])


def found(sentence: str, row: Mapping[str, Any]) -> list[str]:
    """Return a problem unless a check has found the planted bug."""
    return [] if any(sentence in each for each in row["broken"]) else ["no check has found the planted bug"]


def with_seeds(seeds: Sequence[int]) -> list[Scenario]:
    return [Scenario(f"seed {seed}", partial(random_run, seed), unbroken) for seed in seeds]


SCENARIOS = [
    *with_seeds(SEEDS),
    *(
        Scenario(f"planted bug: {bug}", partial(planted, bug), partial(found, sentence))
        for bug, (_, sentence) in BUGS.items()
    ),
]
