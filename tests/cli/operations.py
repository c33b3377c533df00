"""Operations in any state, brought there by the ledger's own moves."""

import time
from typing import Any

from worker.ledger import Ledger, claim, record, settle
from worker.operation import AttemptRecord, FailureReason, New, State, Transition


def put(ledger: Ledger, name: str, kind: str = "fees.process", lane: str = "money", **more: Any) -> str:
    """Record an operation; return its key."""
    key = f"{kind}:{name}"
    payload = {"account_login": "7", "request_id": name} if kind == "fees.process" else {"key": name}
    record(ledger, [New(kind, key, payload, lane, repeatable=kind == "fees.process", **more)], by="crm@shop")
    return key


def failed(
    ledger: Ledger,
    name: str,
    reason: FailureReason = FailureReason.REJECTED,
    words: str = "no such account",
    **more: Any,
) -> str:
    """Record an operation that B2COPY was asked for once, and that failed."""
    key = put(ledger, name, **more)
    _settle(
        ledger,
        key,
        more.get("lane", "money"),
        words,
        State.FAILED,
        failure_reason=reason,
        outcome_unknown=reason == "unresolved",
    )
    return key


def many_failed(ledger: Ledger, count: int) -> None:
    """Record so many calls that B2COPY refused, in one go."""
    record(ledger, [New("call", f"call:{number}", {}, "default") for number in range(count)], by="crm@shop")
    held = claim(ledger, "default", "worker-1", count)
    settle(ledger, [Transition(one, State.FAILED, failure_reason=FailureReason.REJECTED) for one in held])


def succeeded(ledger: Ledger, name: str) -> str:
    key = put(ledger, name)
    _settle(ledger, key, "money", "", State.SUCCEEDED)
    return key


def _settle(ledger: Ledger, key: str, lane: str, words: str, state: State, **more: Any) -> None:
    held = next(one for one in claim(ledger, lane, "worker-1", 100) if one.key == key)
    asked = held.payload.get("request_id")
    tried = AttemptRecord(int(time.time() * 1000), 12, "asked", "worker-1", 400, words, counted=True, request_id=asked)
    settle(ledger, [Transition(held, state, attempt=tried, **more)])
