"""Operations recorded and held, in a ledger of this test's own."""

from collections.abc import Callable
from typing import Any

import pytest

from worker.app import ledger
from worker.flow.retry_policy import RetryPolicy
from worker.ledger import Ledger, claim, record
from worker.operation import AttemptRecord, Claim, New
from worker.testbed.environment import Stage

Held = Callable[..., Claim]


@pytest.fixture
def books(in_stage: Stage) -> Ledger:
    return ledger()


@pytest.fixture
def policy() -> RetryPolicy:
    return RetryPolicy(max_attempts=3, poll_first=2.0, poll_max=60.0, stretch=lambda took: 0.0)


def new(name: str, lane: str = "money", **more: Any) -> New:
    payload = {"account_login": "7", "request_id": name}
    return New("fees.process", f"fees.process:{name}", payload, lane, **({"repeatable": True} | more))


def put(books: Ledger, *names: str, **more: Any) -> None:
    record(books, [new(name, **more) for name in names], by="a test")


def hold(books: Ledger, name: str = "W1", owner: str = "worker 1", **more: Any) -> Claim:
    """Record an operation and claim it."""
    put(books, name, **more)
    [held] = claim(books, more.get("lane", "money"), owner, 1)
    return held


def tried(**more: Any) -> AttemptRecord:
    return AttemptRecord(**({"started_at": 0, "duration": 12, "outcome": "tried", "worker": "worker 1"} | more))
