"""`make mutants`: put faults into copies of the code and say which ones no test notices.

    python -m tests.mutants                    every part, as many as an hour allows
    python -m tests.mutants ledger --sample 200 --seconds 600
    python -m tests.mutants --survivors        once more those that no test noticed, after tests were added
    python -m tests.mutants --seed fresh       another sample, with results of its own
    python -m tests.mutants --report           only the results so far

The order is random and always the same, and a run continues where the last one ended: the results are those of a sample
that grows. Percentage and interval count the first result of each mutant. Tests are written against the survivors of
this sample, so what `--survivors` or `--again` finds after that says nothing about the other mutants; the result of
`--survivors` is a figure of its own, without an interval. `justified.txt` lists the survivors that change nothing
anybody could notice, with the reason. The command exits with 1 if another mutant survives or is too slow: nobody knows
whether a test would have noticed it.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.parts import PARTS
from tests.mutants.run import chosen_numbers_in, mutants_in, read_results, results_file, run_part

JUSTIFIED = Path(__file__).with_name("justified.txt")
_Z = 1.96  # standard deviations of a 95 % interval


def justified() -> dict[str, str]:
    """Return the justified survivors: name -> reason. A line is the name, the next one, indented, the reason."""
    lines = [line for line in JUSTIFIED.read_text().splitlines() if line and not line.startswith("#")]
    return {name: reason.strip() for name, reason in zip(lines[::2], lines[1::2], strict=True)}


def interval(killed: int, run: int) -> tuple[float, float]:
    """Return the 95 % interval of a share that a sample shows (Wilson's score interval)."""
    if not run:
        return 0.0, 1.0
    share, square = killed / run, _Z * _Z
    middle = share + square / (2 * run)
    half = _Z * math.sqrt(share * (1 - share) / run + square / (4 * run * run))
    return (middle - half) / (1 + square / run), (middle + half) / (1 + square / run)


def report(name: str, seed: str = "") -> int:
    """Print what became of a part's mutants. Returns how many survived or were too slow without a reason."""
    results, reasons = read_results(name, seed), justified()
    first = [of_one[0]["result"] for of_one in results.values()]
    last = {mutant: of_one[-1]["result"] for mutant, of_one in results.items()}
    unnoticed = {mutant: word for mutant, word in last.items() if word != "killed"}
    unexplained = {mutant: word for mutant, word in unnoticed.items() if mutant not in reasons}
    low, high = interval(first.count("killed"), len(first))
    ran_again = any(len(of_one) > 1 for of_one in results.values())
    print(
        f"{name:9} {len(mutants_in(PARTS[name])):5} mutants {len(first):5} run {_killed(first)}"
        f" ({100 * low:.1f} to {100 * high:.1f})"
        + (f"; after tests were added {_killed([*last.values()])}" if ran_again else "")
        + f"; {len(unnoticed) - len(unexplained)} justified, {len(unexplained)} to look at;"
        f" {len(chosen_numbers_in(PARTS[name]))} chosen numbers left out"
    )
    for mutant, word in unexplained.items():
        print(f"    {'too slow' if word == 'timeout' else word}: {mutant}")
    return len(unexplained)


def _killed(words: Sequence[str]) -> str:
    killed = words.count("killed")
    return f"{killed:5} killed {100 * killed / max(1, len(words)):5.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make mutants", description="Which faults do the tests not notice?")
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all, if none is named")
    parser.add_argument("--sample", type=int, help="so many mutants of each part")
    parser.add_argument("--seconds", type=float, default=3600.0, help="for all parts together")
    parser.add_argument("--survivors", action="store_true", help="run again those that survived or were too slow")
    parser.add_argument("--seed", default="", help="a word: each gives another sample, with results of its own")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    options = parser.parse_args()
    parts = options.parts or list(PARTS)
    for name in parts if not options.report else []:
        if options.again:
            results_file(name, options.seed).unlink(missing_ok=True)
        run_part(name, options.sample, options.seconds / len(parts), options.survivors, options.seed)
    sys.exit(bool(sum([report(name, options.seed) for name in parts])))


if __name__ == "__main__":
    main()
