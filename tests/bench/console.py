"""Measure the console: `python -m tests.bench.console [--quick]`.

    throughput  the rate of a worker with pages of the console that refresh themselves
    pages       what each page takes on a ledger of a million operations, on SQLite and PostgreSQL

Exits with 1 if an aim is missed. Needs Linux and an idle machine with at least two cores.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.console_pages import pages
from tests.bench.open_console import open_console
from tests.bench.peer import Peer
from tests.bench.races import environment
from tests.bench.report import Report


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.console")
    parser.add_argument("--quick", action="store_true", help="two rounds instead of 25, and a smaller ledger")
    options = parser.parse_args(arguments)
    report = Report()
    with (
        TemporaryDirectory(prefix="b2copy-bench-") as folder,
        Peer(Path(folder)) as peer,
        environment(peer.url) as made,
    ):
        report.section("throughput", open_console(made, 2 if options.quick else 25))
    pages(report, 100_000 if options.quick else 1_000_000, rounds=5)
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
