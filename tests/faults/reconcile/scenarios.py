"""Reconciliation of a large book: what it finds, and what it takes."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from tests.faults.ledger.system import DATABASES, postgres
from tests.faults.table import Scenario
from tests.reconcile.killed_once import reconcile_killed_once
from worker.ledger import open_ledger
from worker.testbed.local_system import Environment, wait_for_worker

TITLE = "Reconciliation: killed once and resumed, while a worker opens accounts"
PLANTED, OPENED, PER_SECOND = 50, 100, 1_000
SMALL, LARGE = 2_000, 100_000  # accounts
GROWTH_MAX_MB = 10  # of the peak, from the small book to the large one: memory is flat

_peaks: dict[str, float] = {}  # database -> MB with the small book


def book(database: str, accounts: int) -> dict[str, Any]:
    with Environment() as environment:
        environment.settings["B2COPY_RATE_LIMIT"] = f"{PER_SECOND}/second"
        if database == "postgresql":
            environment.settings["B2COPY_DATABASE_URL"] = postgres().url()
        ledger = open_ledger(environment.database_url, create=True)
        wait_for_worker(environment.worker())
        ended = reconcile_killed_once(environment, ledger, accounts, PLANTED, OPENED)
        ledger.close()
    return {
        "accounts": ended.document["accounts"],
        "planted": ended.planted,
        "opened": ended.opened,
        "found": sum(ended.document["differences"].values()),
        "wrong": ended.wrong,
        "requests": ended.requests,
        "most in 1 s": ended.most_in_a_second,
        "peak MB": ended.peak_mb,
        "s": ended.seconds,
    }


def exactly_the_planted(database: str, accounts: int, figures: Mapping[str, Any]) -> list[str]:
    problems = []
    there = accounts - (PLANTED + 3) // 4
    if figures["wrong"] or figures["found"] != PLANTED:
        problems.append(f"{figures['found']} differences found, {len(figures['wrong'])} of them not as planted")
    if not there <= figures["accounts"] <= there + OPENED:  # those that are opened behind the last page are not read
        problems.append(f"{figures['accounts']} accounts read")
    if figures["most in 1 s"] > PER_SECOND / 10 + 2:
        problems.append("more than a tenth of the rate limit")
    not_read = there + OPENED - figures["accounts"]  # the identity map has them, so B2COPY is asked about each alone
    if figures["requests"] > accounts / 99 + PLANTED + not_read + 10:
        problems.append(f"{figures['requests']} requests")
    if figures["peak MB"] > _peaks.setdefault(database, figures["peak MB"]) + GROWTH_MAX_MB:
        problems.append(f"{figures['peak MB']:.0f} MB at its peak, {_peaks[database]:.0f} MB with fewer accounts")
    return problems


SCENARIOS = [
    Scenario(
        f"a book of {accounts} accounts, {database}",
        partial(book, database, accounts),
        partial(exactly_the_planted, database, accounts),
    )
    for database in DATABASES
    for accounts in (SMALL, LARGE)
]
