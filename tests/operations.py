"""Build, record, claim and settle operations in tests, through the ledger's own functions.

An operation is named by the last part of its key: "W1" is `fees.process:W1`. Every builder takes the fields of `New`
as keywords, for instance `lane="bulk"`, `entity="123456"` or `on_unknown=OnUnknown.STOP`.

    record_operations(ledger, "W1", "W2")      queued
    claim = claim_one(ledger)                  running; `hold_operation(ledger, "W1")` records and claims
    succeed(ledger, claim)                     succeeded; also `fail` and `make_wait`
    fail_operation(ledger, "W3")               record, claim and fail in one call; `succeed_operation` likewise
    find_operation(ledger, "W1")               how the ledger holds it
"""

import time
from typing import Any

from sqlalchemy import text

from worker.ledger import Ledger, find, record, replay, return_unsent, settle, settle_and_claim
from worker.operation import (
    AttemptRecord,
    Claim,
    FailureReason,
    New,
    OnUnknown,
    Operation,
    Recorded,
    State,
    Transition,
    WaitReason,
)

OWNER = "worker 1"
"""The lease owner, if a test names none."""


class LedgerClock:
    """Lets time pass in the ledger: everything in it happened that much earlier."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def advance(self, seconds: float) -> None:
        ms = round(seconds * 1000)
        columns = ("due_at", "requested_at", "deadline_at", "state_since", "ended_at")
        with self._ledger.writing() as connection:
            earlier = ", ".join(f"{column} = {column} - {ms}" for column in columns)
            connection.execute(text(f"UPDATE b2copy_operations SET {earlier}"))
            connection.execute(text(f"UPDATE b2copy_flags SET since = since - {ms}"))
            connection.execute(text(f"UPDATE b2copy_ledger SET notices_until = notices_until - {ms}"))


def lose_answer_to_next_commit(ledger: Ledger) -> None:
    """The next transaction is committed, and then its connection fails, as in a failover of the database."""
    dialect = ledger.engine.dialect
    commit = dialect.do_commit

    def commit_and_fail(connection: Any) -> None:
        dialect.do_commit = commit  # type: ignore[method-assign]
        commit(connection)
        raise dialect.loaded_dbapi.OperationalError("the connection was closed")

    dialect.do_commit = commit_and_fail  # type: ignore[assignment,method-assign]


def claim(ledger: Ledger, lane: str, owner: str, limit: int) -> list[Claim]:
    """Claim up to `limit` due operations of a lane, as a lane does that has no results to write."""
    return settle_and_claim(ledger, [], lane, owner, limit)[1]


def key_of(name: str, kind: str = "fees.process") -> str:
    return f"{kind}:{name}"


def new_operation(name: str = "W1", kind: str = "fees.process", **fields: Any) -> New:
    """Return a fee run of account 7, or an operation of another kind with the payload {"key": name}."""
    is_fee_run = kind == "fees.process"
    defaults: dict[str, Any] = {
        "payload": {"account_login": "7", "request_id": name} if is_fee_run else {"key": name},
        "lane": "money",
        "on_unknown": OnUnknown.START_OR_GET if is_fee_run else OnUnknown.STOP,
    }
    return New(kind=kind, key=key_of(name, kind), **(defaults | fields))


def record_operations(ledger: Ledger, *names: str, by: str = "a test", **fields: Any) -> list[Recorded]:
    return record(ledger, [new_operation(name, **fields) for name in names], by)


def record_operation(ledger: Ledger, name: str = "W1", by: str = "a test", **fields: Any) -> Recorded:
    [recorded] = record_operations(ledger, name, by=by, **fields)
    return recorded


def claim_due(ledger: Ledger, owner: str = OWNER, limit: int = 100, lane: str = "money") -> list[Claim]:
    return claim(ledger, lane, owner, limit)


def claim_one(ledger: Ledger, owner: str = OWNER, lane: str = "money") -> Claim:
    """Claim the only operation that is due in a lane."""
    [claimed] = claim_due(ledger, owner, lane=lane)
    return claimed


def claim_named(
    ledger: Ledger, name: str, kind: str = "fees.process", owner: str = OWNER, lane: str = "money"
) -> Claim:
    """Claim this operation, and leave the others of its lane as they are."""
    claims = claim_due(ledger, owner, 1000, lane)
    wanted = next(one for one in claims if one.key == key_of(name, kind))
    return_unsent(ledger, [one for one in claims if one is not wanted])
    return wanted


def hold_operation(ledger: Ledger, name: str = "W1", owner: str = OWNER, **fields: Any) -> Claim:
    """Record an operation and claim it."""
    recorded = record_operation(ledger, name, **fields)
    kind = recorded.key.removesuffix(f":{name}")
    return claim_named(ledger, name, kind, owner, fields.get("lane", "money"))


def names_of(claims: list[Claim]) -> list[str]:
    return [one.key.partition(":")[2] for one in claims]


def find_operation(ledger: Ledger, name: str = "W1", kind: str = "fees.process") -> Operation:
    found = find(ledger, key_of(name, kind))
    assert found is not None, f"{name} is lost"
    return found


def attempt_record(outcome: str = "done", **fields: Any) -> AttemptRecord:
    """Return the evidence of an attempt that started just now and took 12 ms."""
    defaults: dict[str, Any] = {
        "started_at": round(time.time() * 1000),
        "duration_ms": 12,
        "outcome": outcome,
        "worker": OWNER,
    }
    return AttemptRecord(**(defaults | fields))


def succeed(ledger: Ledger, *claims: Claim, result: dict[str, Any] | None = None) -> list[Claim]:
    """Settle these claims as succeeded. Returns those whose lease was lost, as `settle` does."""
    return settle(
        ledger,
        [
            Transition(one, State.SUCCEEDED, result=result, attempt=attempt_record(), outcome_known=True)
            for one in claims
        ],
    )


def fail(
    ledger: Ledger,
    *claims: Claim,
    failure_reason: str = FailureReason.REJECTED,
    attempt: AttemptRecord | None = None,
    **fields: Any,
) -> list[Claim]:
    """Settle these claims as failed. `fields` are those of `Transition`."""
    evidence = attempt or attempt_record("rejected")
    return settle(
        ledger,
        [Transition(one, State.FAILED, failure_reason=failure_reason, attempt=evidence, **fields) for one in claims],
    )


def make_wait(
    ledger: Ledger,
    *claims: Claim,
    wait_reason: WaitReason = WaitReason.BACKOFF,
    due_in_s: float = 30.0,
    **fields: Any,
) -> list[Claim]:
    """Settle these claims as waiting. `fields` are those of `Transition`."""
    return settle(
        ledger,
        [Transition(one, State.WAITING, wait_reason=wait_reason, due_in_s=due_in_s, **fields) for one in claims],
    )


def succeed_all(ledger: Ledger, lane: str = "money") -> list[str]:
    """Claim and settle as succeeded until nothing is due. Returns the names in this order."""
    done: list[str] = []
    while held := claim_due(ledger, lane=lane):
        done += names_of(held)
        succeed(ledger, *held)
    return done


def succeed_operation(ledger: Ledger, name: str = "W1", result: dict[str, Any] | None = None, **fields: Any) -> str:
    """Record an operation, claim it and settle it as succeeded. Returns its key."""
    claimed = hold_operation(ledger, name, **fields)
    succeed(ledger, claimed, result=result)
    return claimed.key


def fail_operation(
    ledger: Ledger,
    name: str = "W1",
    failure_reason: str = FailureReason.REJECTED,
    message: str = "no such account",
    **fields: Any,
) -> str:
    """Record an operation, claim it and settle it as failed: B2COPY answered with HTTP 400. Returns its key."""
    claimed = hold_operation(ledger, name, **fields)
    evidence = attempt_record("rejected", http_status=400, message=message, counted=True, request_id=name)
    unknown = failure_reason == FailureReason.UNRESOLVED
    fail(
        ledger,
        claimed,
        failure_reason=failure_reason,
        attempt=evidence,
        outcome_unknown=unknown,
        outcome_known=not unknown,
    )
    return claimed.key


def succeed_after_a_replay(ledger: Ledger, message: str, name: str = "W1") -> str:
    """Let an operation fail with a server message, replay it, and settle it as succeeded. Returns its key."""
    key = fail_operation(ledger, name, message=message)
    replay(ledger, [key], "ada", "the account exists now")
    succeed(ledger, claim_named(ledger, name))
    return key
