"""`make mutants`: put faults into copies of the code and say which ones no test notices.

    python -m tests.mutants                    every part, as many as an hour allows
    python -m tests.mutants ledger --sample 50 --seconds 600

A second run continues where the first ended; `--again` forgets earlier results. `justified.txt` lists the survivors
that change nothing anybody could notice, with the reason. The command exits with 1 if another mutant survives.
"""

import argparse
import sys
from pathlib import Path

from tests.mutants.parts import PARTS
from tests.mutants.run import RESULTS, check_unchanged, mutants_in, run_part

JUSTIFIED = Path(__file__).with_name("justified.txt")


def justified() -> dict[str, str]:
    """Return the justified survivors: name -> reason. A line is the name, the next one, indented, the reason."""
    lines = [line for line in JUSTIFIED.read_text().splitlines() if line and not line.startswith("#")]
    return {name: reason.strip() for name, reason in zip(lines[::2], lines[1::2], strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make mutants", description="Which faults do the tests not notice?")
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all, if none is named")
    parser.add_argument("--sample", type=int, help="so many mutants of each part, chosen at random, always the same")
    parser.add_argument("--seconds", type=float, default=3600.0, help="for all parts together")
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    options = parser.parse_args()
    parts = options.parts or list(PARTS)
    reasons, survivors = justified(), 0
    for name in parts:
        if options.again:
            (RESULTS / f"{name}.jsonl").unlink(missing_ok=True)
        check_unchanged(name)
        results = run_part(name, options.sample, options.seconds / len(parts), options.at_once)
        survived = [mutant for mutant, result in results.items() if result == "survived"]
        unexplained = [mutant for mutant in survived if mutant not in reasons]
        survivors += len(unexplained)
        killed, timeouts = (sum(result == word for result in results.values()) for word in ("killed", "timeout"))
        share = 100 * killed / max(1, killed + len(unexplained))
        print(
            f"\n{name}: {len(results)} of {len(mutants_in(PARTS[name]))} mutants run: {killed} killed ({share:.0f} %),"
        )
        print(
            f"{len(survived) - len(unexplained)} justified, {timeouts} without a result in time,"
            f" {len(unexplained)} to look at"
        )
        for mutant in unexplained:
            print(f"    {mutant}")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
