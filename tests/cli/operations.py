"""Operations in any state, brought there by the ledger's own moves."""

import time
from typing import Any

from worker.ledger import Ledger, claim, record, settle
from worker.operation import AttemptRecord, FailureReason, New, OnUnknown, State, Transition


def put(ledger: Ledger, name: str, kind: str = "fees.process", lane: str = "money", **more: Any) -> str:
    """Record an operation; return its key."""
    key = f"{kind}:{name}"
    is_fees = kind == "fees.process"
    payload = {"account_login": "7", "request_id": name} if is_fees else {"key": name}
    on_unknown = OnUnknown.START_OR_GET if is_fees else OnUnknown.STOP
    record(ledger, [New(kind, key, payload, lane, on_unknown=on_unknown, **more)], by="crm@shop")
    return key


def failed(
    ledger: Ledger,
    name: str,
    failure_reason: str = FailureReason.REJECTED,
    message: str = "no such account",
    **more: Any,
) -> str:
    """Record an operation that was sent to B2COPY once, and that failed."""
    key = put(ledger, name, **more)
    unknown = failure_reason == FailureReason.UNRESOLVED
    ending = {"failure_reason": failure_reason, "outcome_unknown": unknown, "outcome_known": not unknown}
    _settle(ledger, key, more.get("lane", "money"), message, State.FAILED, **ending)
    return key


def many_failed(ledger: Ledger, count: int) -> None:
    """Record so many calls that B2COPY refused, in one transaction."""
    record(ledger, [New("call", f"call:{number}", {}, "default") for number in range(count)], by="crm@shop")
    claims = claim(ledger, "default", "worker-1", count)
    settle(ledger, [Transition(one, State.FAILED, failure_reason=FailureReason.REJECTED) for one in claims])


def succeeded(ledger: Ledger, name: str) -> str:
    """Record an operation that succeeded at the first attempt."""
    key = put(ledger, name)
    _settle(ledger, key, "money", "", State.SUCCEEDED, outcome_known=True)
    return key


def _settle(ledger: Ledger, key: str, lane: str, message: str, state: State, **more: Any) -> None:
    claimed = next(one for one in claim(ledger, lane, "worker-1", 100) if one.key == key)
    request_id = claimed.payload.get("request_id")
    attempt = AttemptRecord(
        int(time.time() * 1000), 12, "rejected", "worker-1", 400, message, counted=True, request_id=request_id
    )
    settle(ledger, [Transition(claimed, state, attempt=attempt, **more)])
