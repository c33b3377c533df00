"""Compare ours with what people would write instead: `python -m tests.bench [--quick]`.

    races     bulk and single operations, a bare `requests.Session` loop, a plain Celery task: rates and CPU
    delays    how long `enqueue` takes, and how long an operation takes from there to B2COPY
    memory    a worker with a hundred sends in flight
    console   the rate with pages of the console that refresh themselves
    pages     what each page of the console takes on a ledger of a million operations, on SQLite and PostgreSQL

All against the local sandbox on this machine, with the rate limit off and a ledger on SQLite, `synchronous=FULL`. CPU
is user and system time of all processes of a contestant (worker, beat, the process that enqueues), without Redis and
sandbox. Exits with 1 if an aim is missed. Needs Linux and an idle machine with at least two cores.
"""

import argparse
import os
import platform
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.console_pages import pages
from tests.bench.delays import delays, many
from tests.bench.memory import memory
from tests.bench.open_console import open_console
from tests.bench.races import race
from tests.bench.report import Report
from tests.bench.usage import fsync_ms
from worker.testbed.local_system import Environment

RACES = (  # seconds that the sandbox takes, sends at once, operations per run, aim: times the plain task's rate
    (0.010, 10, 3000, 2.0),
    (0.010, 50, 4000, 3.0),
    (0.000, 10, 4000, 3.0),
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--quick", action="store_true", help="two rounds instead of five")
    parser.add_argument("only", nargs="*", help="words of the titles of the measurements to make, or: pages")
    options = parser.parse_args(arguments)
    rounds = 2 if options.quick else 5
    began, report = time.monotonic(), Report()
    with TemporaryDirectory(prefix="b2copy-bench-") as folder:
        print(_machine(Path(folder)))
    for latency, at_once, count, aim in RACES:
        title = f"{latency * 1000:g} ms server, {at_once} sends at once"
        if all(word in title.split() for word in options.only):
            with Environment(latency={"api": latency}) as environment:
                report.section(title, race(environment, at_once, rounds, count, aim))
    for title, measure in (("many", many), ("delays", delays), ("memory", memory), ("console", open_console)):
        if all(word in title.split() for word in options.only):
            with Environment() as environment:
                report.section(title, measure(environment, rounds))
    if not options.only or options.only == ["pages"]:
        pages(report, 100_000 if options.quick else 1_000_000, rounds=5)
    print(
        f"\n{time.monotonic() - began:.0f} s. "
        + (f"{len(report.missed)} aims missed." if report.missed else "All aims met.")
    )
    return 1 if report.missed else 0


def _machine(folder: Path) -> str:
    what = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return f"{what}, load {os.getloadavg()[0]:.1f}, fsync {fsync_ms(folder):.2f} ms"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
