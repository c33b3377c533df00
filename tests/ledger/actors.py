"""What the tests do over and over: record, work, let time pass."""

from typing import Any

import pytest
from sqlalchemy import text

from worker.ledger import Ledger, claim, find, record, settle
from worker.operation import (
    AttemptRecord,
    Claim,
    FailureReason,
    New,
    Operation,
    Recorded,
    State,
    Transition,
    WaitReason,
)

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For what only SQLite has: its file, its locks, its steps."""

on_postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
"""For what needs two writers at once."""


class Clock:
    """Lets time pass in the ledger: everything in it happened that much earlier."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def passes(self, seconds: float) -> None:
        earlier = ", ".join(
            f"{column} = {column} - {round(seconds * 1000)}"
            for column in ("due_at", "requested_at", "deadline_at", "state_since", "ended_at")
        )
        with self._ledger.writing() as connection:
            connection.execute(text(f"UPDATE b2copy_operations SET {earlier}"))


def new(name: str, lane: str = "money", **more: Any) -> New:
    return New(kind="fees.process", key=f"fees.process:{name}", payload={"request_id": name}, lane=lane, **more)


def put(ledger: Ledger, *names: str, **more: Any) -> list[Recorded]:
    return record(ledger, [new(name, **more) for name in names], by="a test")


def take(ledger: Ledger, owner: str = "worker 1", limit: int = 100, lane: str = "money") -> list[Claim]:
    return claim(ledger, lane, owner, limit)


def take_one(ledger: Ledger, owner: str = "worker 1") -> Claim:
    [held] = take(ledger, owner)
    return held


def names(claims: list[Claim]) -> list[str]:
    return [held.key.partition(":")[2] for held in claims]


def look(ledger: Ledger, name: str) -> Operation:
    found = find(ledger, f"fees.process:{name}")
    assert found is not None, f"{name} is lost"
    return found


def tried(outcome: str = "done", **more: Any) -> AttemptRecord:
    return AttemptRecord(started_at=0, duration=12, outcome=outcome, worker="worker 1", **more)


def succeed(ledger: Ledger, *claims: Claim) -> list[Claim]:
    return settle(ledger, [Transition(held, State.SUCCEEDED, attempt=tried()) for held in claims])


def fail(
    ledger: Ledger, *claims: Claim, reason: FailureReason = FailureReason.REJECTED, unknown: bool = False
) -> list[Claim]:
    verdicts = [
        Transition(held, State.FAILED, failure_reason=reason, attempt=tried("no"), unknown=unknown) for held in claims
    ]
    return settle(ledger, verdicts)


def postpone(
    ledger: Ledger, *claims: Claim, why: WaitReason = WaitReason.BACKOFF, seconds: float = 30.0, **more: Any
) -> list[Claim]:
    return settle(
        ledger, [Transition(held, State.WAITING, wait_reason=why, due_in_s=seconds, **more) for held in claims]
    )
