"""A thousand transactions of a CRM, half of them rolled back, while broker, workers and beat are killed at random."""

import math
import random
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from sqlalchemy import select, text

from tests.bench.results import percentile
from tests.faults.crm.clients import Transact, clients, missing_tools
from tests.faults.ledger.promises import effects_by_key
from tests.faults.ledger.system import DATABASES, System
from tests.faults.table import Scenario
from worker.ledger.schema import c
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process

TITLE = "The SQL API: three clients in other languages, half of the transactions rolled back, processes killed"

TRANSACTIONS = 1_000
PER_SECOND = 12.0  # transactions of each client
KILL_EVERY_S = (0.7, 2.0)  # seconds from one kill to the next
PER_KILL_MAX = 100  # transactions for one kill: with fewer kills a run says little about them
DOWN_S = 0.5  # seconds for which a killed broker is down
VISIBLE_S = 1.0  # seconds after its commit in which the ledger must have an operation
SEED = 12

_TABLE = "CREATE TABLE withdrawals (id TEXT PRIMARY KEY)"
_REQUEST = """BEGIN;
INSERT INTO withdrawals VALUES ('{id}');
INSERT INTO b2copy_requests (kind, payload)
VALUES ('fees.process', '{{"account_login": "none_due", "request_id": "{id}"}}');
{end};
"""


def killed_at_random(database: str, transactions: int = TRANSACTIONS) -> dict[str, Any]:
    if missing := missing_tools(database):
        raise AssertionError(f"not installed: {', '.join(missing)}")
    with Environment() as environment, System(environment, database, clients=(), latency=0.05) as system:
        with system.ledger() as ledger, ledger.writing() as connection:
            connection.execute(text(_TABLE))
        with clients(environment.database_url) as by_name, _watching(system) as visible:
            with _killing(system) as kills, ThreadPoolExecutor() as threads:
                share = transactions // len(by_name)
                counts = [share + (place < transactions % len(by_name)) for place in range(len(by_name))]
                sent = [
                    threads.submit(_send, name, transact, count)
                    for (name, transact), count in zip(by_name.items(), counts, strict=True)
                ]
            committed_at = {key: at for each in sent for key, at in each.result().items()}
            system.drain()
        return _figures(system, transactions, committed_at, visible, kills)


def _send(client: str, transact: Transact, count: int) -> dict[str, float]:
    """Send transactions at a steady rate; every second one rolls back. Returns when each other one had committed."""
    committed, began = {}, time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began + number / PER_SECOND - time.monotonic()))
        id_ = f"{client}-{number}"
        transact(_REQUEST.format(id=id_, end="ROLLBACK" if number % 2 else "COMMIT"))
        if not number % 2:
            committed[f"fees.process:{id_}"] = time.monotonic()
    return committed


@contextmanager
def _watching(system: System) -> Iterator[dict[str, float]]:
    """Operations by key, with the time at which this process first saw each in the ledger (monotonic seconds)."""
    seen: dict[str, float] = {}
    over = threading.Event()

    def watch() -> None:
        with system.ledger() as ledger:
            while not over.wait(0.02):
                with ledger.reading() as connection:
                    # Ids are given out before the commit, so an earlier one may become visible later.
                    keys = connection.execute(select(c.key).order_by(c.id.desc()).limit(200)).scalars()
                    now = time.monotonic()
                    for key in keys:
                        seen.setdefault(key, now)

    with ThreadPoolExecutor(1) as thread:
        watcher = thread.submit(watch)
        try:
            yield seen
        finally:
            over.set()
            watcher.result()


@contextmanager
def _killing(system: System) -> Iterator[list[str]]:
    """SIGKILL a worker, the beat or the broker at random, again and again. Each is started again.

    A worker is killed only while the other one works: without any worker, nothing can become visible.
    """
    draw, over, killed = random.Random(SEED), threading.Event(), []

    def kill() -> None:
        while not over.wait(draw.uniform(*KILL_EVERY_S)):
            victim = draw.choice([*system.workers, *system.beats, None])
            if victim is None:
                killed.append("broker")
                system.environment.broker.kill()
                system.go_on(DOWN_S)
                system.environment.broker.start()
            elif victim.running and any(_works(worker) for worker in system.workers if worker is not victim):
                killed.append(victim.name)
                victim.kill()

    with ThreadPoolExecutor(1) as thread:
        killer = thread.submit(kill)
        try:
            yield killed
        finally:
            over.set()
            killer.result()


def _works(worker: Process) -> bool:
    return worker.running and " ready." in worker.current_log()


def _figures(
    system: System,
    transactions: int,
    committed_at: Mapping[str, float],
    visible: Mapping[str, float],
    kills: Sequence[str],
) -> dict[str, Any]:
    with system.ledger() as ledger, ledger.reading() as connection:
        ids = set(connection.execute(text("SELECT id FROM withdrawals")).scalars())
        states = {row.key: row.state for row in connection.execute(select(c.key, c.state))}
    requested, effects = {f"fees.process:{id_}" for id_ in ids}, effects_by_key(system)
    figures = visibility(committed_at, visible)
    if figures["late"] or figures["never visible"]:
        print(f"    killed: {', '.join(kills)}", file=sys.stderr, flush=True)
    return {
        "transactions": transactions,
        "committed": len(requested),
        "once": sum(key in effects and effects[key].times == 1 and states.get(key) == "succeeded" for key in requested),
        "twice": sum(effect.times > 1 for effect in effects.values()),
        "of rolled back": len((set(states) | set(effects)) - requested),
        **figures,
        "kills": len(kills),
    }


def visibility(committed_at: Mapping[str, float], visible: Mapping[str, float]) -> dict[str, float]:
    """Return the figures of how long after its commit each operation was in the ledger, which may be never."""
    waits = {key: visible.get(key, math.inf) - at for key, at in committed_at.items()}
    late = [f"{key} {wait:.2f} s" for key, wait in waits.items() if wait > VISIBLE_S]
    if late:
        print(f"    visible late: {', '.join(late[:8])}", file=sys.stderr, flush=True)
    seconds = list(waits.values())
    never = seconds.count(math.inf)
    return {
        "visible p50 s": percentile(seconds, 0.5),
        "visible p99 s": percentile(seconds, 0.99),
        "visible max s": max(seconds),
        "late": len(late) - never,
        "never visible": never,
    }


def each_once(row: Mapping[str, Any]) -> Sequence[str]:
    problems = [f"{row[name]} {name}" for name in ("twice", "of rolled back", "never visible") if row[name]]
    if row["committed"] < row["transactions"] // 2:
        problems.append(f"only {row['committed']} of {row['transactions']} transactions have committed")
    if row["once"] != row["committed"]:
        problems.append(f"{row['committed'] - row['once']} of those committed were not performed once")
    if row["late"]:
        problems.append(f"{row['late']} were visible later than {VISIBLE_S:g} s after their commit")
    if row["kills"] * PER_KILL_MAX < row["transactions"]:
        problems.append(f"only {row['kills']} kills in {row['transactions']} transactions")
    return problems


SCENARIOS = [
    Scenario(f"{TRANSACTIONS:,} transactions, {database}", partial(killed_at_random, database), each_once)
    for database in DATABASES
]
