"""Reconciliation of a large book: what it finds, and what it takes."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest

from tests.conftest import forget
from tests.faults.ledger.system import DATABASES, postgres
from tests.faults.table import Scenario
from tests.reconcile.killed_once import reconcile_killed_once
from worker import instances
from worker.ledger import open_ledger
from worker.testbed.local_system import Environment, wait_for_worker

TITLE = "Reconciliation: killed once and resumed, while a worker opens accounts"
ACCOUNTS, PLANTED, OPENED, PER_SECOND = 100_000, 50, 100, 1_000
PEAK_MAX_MB = 120


def large_book(database: str) -> dict[str, Any]:
    with Environment() as environment, pytest.MonkeyPatch.context() as patch:
        environment.settings["B2COPY_RATE_LIMIT"] = f"{PER_SECOND}/second"
        if database == "postgresql":
            environment.settings["B2COPY_DATABASE_URL"] = postgres().url()
        ledger = open_ledger(environment.database_url, create=True)
        for name, value in environment.settings.items():
            patch.setenv(name, value)
        forget()
        wait_for_worker(environment.worker())
        ended = reconcile_killed_once(environment, ledger, ACCOUNTS, PLANTED, OPENED, PER_SECOND)
        ledger.close()
        if made := instances.ledger.made:
            made.close()
        forget()
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


def exactly_the_planted(figures: Mapping[str, Any]) -> list[str]:
    problems = []
    if figures["wrong"] or figures["found"] != PLANTED:
        problems.append(f"{figures['found']} differences found, {len(figures['wrong'])} of them not as planted")
    if figures["accounts"] != ACCOUNTS - (PLANTED + 3) // 4 + OPENED:
        problems.append(f"{figures['accounts']} accounts read")
    if figures["most in 1 s"] > PER_SECOND / 10 + 2:
        problems.append("more than a tenth of the rate limit")
    if figures["requests"] > ACCOUNTS / 99 + PLANTED + 10:
        problems.append(f"{figures['requests']} requests")
    if figures["peak MB"] > PEAK_MAX_MB:
        problems.append(f"{figures['peak MB']:.0f} MB at its peak")
    return problems


SCENARIOS = [
    Scenario(f"a book of {ACCOUNTS} accounts, {database}", partial(large_book, database), exactly_the_planted)
    for database in DATABASES
]
