"""Compare ours with what people would use instead: `python -m tests.bench [--rounds N] [--only WORD...] [--growth]`.

    races       rate, CPU, Redis traffic, memory: 0, 10 and 50 ms, 10 and 50 calls at once
    enqueue     how fast operations are enqueued
    delays      from the call that enqueues to B2COPY, at half of the capacity
    faults      5 % of the requests refused, 2 % of the answers lost: what is done twice, or never
    workers     two of ours beside one
    backfill    the money lane beside 100,000 rows
    https       ours by HTTP and by HTTPS
    metrics     ours scraped once a second, and serving no metrics
    statements  SQL statements per operation
    layers      where the CPU of an operation goes
    crm         what ours costs a CRM: the import of tasks.enqueue, and the fixture b2copy in its tests

All contestants call the same server (`peer.c`), with the same payload, calls at once, timeout and number of tries. The
rate limit is off. Our ledger is on SQLite, `synchronous=FULL`, or on PostgreSQL, `fsync=on`. Each of them runs in an
environment of its own, made once below `.bench/`, where the results go too: one JSON line each, and the tables.
Exits with 1 if a contestant failed or an aim was missed.
Needs Linux, a C compiler, and an idle machine with at least two cores.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.contestants import LOOPS, WORKERS, Ours
from tests.bench.crm_process import fixture, imports
from tests.bench.enqueuing import beside_backfill, delays, enqueue_alone
from tests.bench.environments import our_python, python_of
from tests.bench.faulty_peer import faults
from tests.bench.growth import growth
from tests.bench.https import https
from tests.bench.peer import CACHE, Peer
from tests.bench.races import AT_ONCE, DATABASES, LATENCIES_MS, RUN_S, database, databases, environment, field, race
from tests.bench.results import Results
from tests.bench.scraped import scraped
from tests.bench.tables import missed, tables
from tests.bench.two_workers import two_workers
from tests.bench.usage import fsync_ms

PARTS = (
    "races",
    "enqueue",
    "delays",
    "faults",
    "workers",
    "backfill",
    "https",
    "metrics",
    "statements",
    "layers",
    "crm",
)
WAYS = 4 + len(LOOPS) + len(WORKERS)  # ours on two databases, in bulk and singly, and the rivals


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every process is stopped, as after Ctrl-C
    results = Results(options.results, options.resume)
    began = time.monotonic()
    for rival in (*LOOPS, *WORKERS):
        if not options.growth and (not options.who or rival in options.who):
            python_of(rival)
    our_python()
    with TemporaryDirectory(prefix="b2copy-bench-") as name:
        folder = Path(name)
        if not results.rows:
            results.add("machine", **_machine(folder), command=" ".join(["python -m tests.bench", *arguments]))
        print(f"about {_minutes(options):.0f} minutes; results: {options.results}", flush=True)
        if options.growth:
            growth(folder, results, options.largest, options.databases)
        else:
            _measure(folder, results, options)
    text = tables(results)
    options.results.with_suffix(".md").write_text(text + "\n")
    print(f"\n{text}\n\n{(time.monotonic() - began) / 60:.1f} minutes; tables: {options.results.with_suffix('.md')}")
    return 1 if results.of("failed") or missed(results) else 0


def _measure(folder: Path, results: Results, options: argparse.Namespace) -> None:
    parts, rounds, only = options.only or PARTS, options.rounds, options.who
    for at_once in options.at_once:
        beside = [part for part in ("delays", "faults") if part in parts and at_once == options.at_once[0]]
        if "races" not in parts and not beside:
            continue
        with field(folder, at_once, only) as contestants:
            for latency_ms in options.latency if "races" in parts else ():
                race(contestants, results, latency_ms, at_once, rounds)
            for part, measure in (("delays", delays), ("faults", faults)):
                if part in beside and not results.of(part):
                    print(f"\n{part}", flush=True)
                    measure(contestants, results)
    if "enqueue" in parts and not results.of("enqueue"):
        enqueue_alone(folder, results, only)
    if "workers" in parts and not results.of("workers"):
        two_workers(folder, results, rounds, only)
    if "backfill" in parts and not results.of("backfill"):
        with Peer(folder) as peer, environment(peer.url) as made, ExitStack() as stack:
            ours = Ours(made, 10)
            stack.callback(ours.close)
            beside_backfill(ours, peer, results)
    if "https" in parts and not results.of("https"):
        https(folder, results, rounds)
    if "metrics" in parts and not results.of("metrics"):
        scraped(folder, results, rounds)
    if "statements" in parts and not results.of("statements"):
        _statements(folder, results, only)
    if "layers" in parts and not results.of("layers"):
        _layers(folder, results)
    if "crm" in parts and not results.of("import"):
        imports(results)
        fixture(folder, results)


def _statements(folder: Path, results: Results, only: list[str]) -> None:
    for name in databases(only):
        with Peer(folder) as peer, database(name) as url, environment(peer.url, url) as made:
            command = [sys.executable, "-m", "tests.bench.statements"]
            done = subprocess.run(command, env=made.variables, capture_output=True, text=True, check=True)
            results.add("statements", who=name, **json.loads(done.stdout.splitlines()[-1]))


def _layers(folder: Path, results: Results) -> None:
    with Peer(folder) as peer, database("ours") as url, environment(peer.url, url) as made:
        command = [sys.executable, "-m", "tests.bench.cpu_layers"]
        done = subprocess.run(command, env=made.variables, capture_output=True, text=True, check=True)
        for layer, us in json.loads(done.stdout.splitlines()[-1]).items():
            results.add("layers", who=layer, us=us)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts to measure")
    parser.add_argument(
        "--who", nargs="+", default=[], help="contestants: ours, 'ours PostgreSQL', celery, aiohttp, ..."
    )
    parser.add_argument("--latency", nargs="+", type=int, default=list(LATENCIES_MS), help="ms that a call takes")
    parser.add_argument("--at-once", nargs="+", type=int, default=list(AT_ONCE), help="calls at once")
    parser.add_argument("--resume", action="store_true", help="keep the results that there are, and measure the rest")
    parser.add_argument("--results", type=Path, default=CACHE / "results.jsonl")
    parser.add_argument("--growth", action="store_true", help="how ours grows, and nothing else")
    parser.add_argument(
        "--largest", type=int, default=1_000_000, help="with --growth: operations of the largest ledger"
    )
    parser.add_argument("--databases", nargs="+", default=list(DATABASES), help="with --growth: contestants")
    options = parser.parse_args(arguments)
    if options.growth and options.results == CACHE / "results.jsonl":
        options.results = CACHE / "growth.jsonl"
    return options


def _minutes(options: argparse.Namespace) -> float:
    """Estimate how long it takes."""
    if options.growth:
        return float(len(options.databases) * (13 * 18 + 60 + options.largest / 20_000)) / 60
    parts, ways = options.only or PARTS, len(options.who) or WAYS
    runs = len(options.latency) * len(options.at_once) * ways * (options.rounds * (RUN_S + 0.3) + 1)
    seconds = {
        "races": runs + 15 * len(options.at_once), "enqueue": ways * 2.5 + 8, "delays": ways * 6, "faults": ways * 10,
        "workers": 40 + options.rounds * 16, "backfill": 35, "https": 15 + options.rounds * 4,
        "metrics": 15 + options.rounds * 8, "statements": 20, "layers": 20, "crm": 30,
    }  # fmt: skip
    return float(sum(seconds[part] for part in parts)) / 60


def _machine(folder: Path) -> dict[str, object]:
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": model[0].partition(":")[2].strip() if model else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "fsync_ms": fsync_ms(folder),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
