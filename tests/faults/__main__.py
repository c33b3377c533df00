"""Run the fault scenarios and print a table for each part.

    python -m tests.faults [part] [words]   the scenarios whose names contain all these words
    python -m tests.faults random SEED      one random run, to repeat what a seed has found

A part is a folder here whose `scenarios.py` has TITLE and SCENARIOS. Exits with 1 if a promise is broken.
"""

import importlib
import sys
from pathlib import Path

from tests.faults.table import Table

PARTS = sorted(path.parent.name for path in Path(__file__).parent.glob("*/scenarios.py"))


def main(arguments: list[str]) -> int:
    wanted = [part for part in PARTS if part in arguments] or PARTS
    words = [word for word in arguments if word not in PARTS]
    broken = 0
    for part in wanted:
        scenarios = importlib.import_module(f"tests.faults.{part}.scenarios")
        table = Table(scenarios.TITLE)
        chosen = [each for each in scenarios.SCENARIOS if all(word in each.name for word in words)]
        if wanted == ["random"] and words and all(word.isdigit() for word in words):
            chosen = scenarios.with_seeds([int(word) for word in words])
        for scenario in chosen:
            print(f"... {part}: {scenario.name}", file=sys.stderr, flush=True)
            table.run(scenario)
        print(f"\n{table}\n", flush=True)
        broken += len(table.broken)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
