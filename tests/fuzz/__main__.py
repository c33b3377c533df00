"""`make fuzz`: random input, so many seconds for each target, and a line with cases and surprises.

    python -m tests.fuzz                        ten minutes in all
    python -m tests.fuzz --seconds 60 answers settings

A surprise is printed with the smallest input that shows it, and the command then exits with 1.
"""

import argparse
import random
import sys
import time
import traceback
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.targets import TARGETS, ledger

_BATCH = 300  # cases between two looks at the clock


def run(name: str, seconds: float, first_seed: int) -> tuple[int, str]:
    """Run a target until its time is over or it shows a surprise. Returns the cases, and the surprise or nothing."""
    target, inputs = TARGETS[name]
    cases, number, ends = 0, first_seed, time.monotonic() + seconds

    def count(value: Any) -> None:
        nonlocal cases
        cases += 1
        target(value)

    while time.monotonic() < ends:
        number += 1
        batch = settings(
            max_examples=_BATCH, deadline=None, database=None, suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )(seed(number)(given(inputs)(count)))  # fmt: skip
        try:
            batch()
        except Exception:
            return cases, f"seed {number}\n{traceback.format_exc()}"
    return cases, ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all, if none is named")
    parser.add_argument("--seconds", type=float, default=600.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    options = parser.parse_args()
    names = options.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    ledger()
    print(f"seed {options.seed}", flush=True)
    surprises = 0
    for name in names:
        cases, surprise = run(name, options.seconds / len(names), options.seed)
        surprises += bool(surprise)
        print(f"{name:20} {cases:8} cases   {'a surprise' if surprise else '0 surprises'}", flush=True)
        if surprise:
            print(surprise, flush=True)
    sys.exit(bool(surprises))


if __name__ == "__main__":
    main()
