"""Whatever makes an operation final calls `finish_ended`, with its key and its state."""

from collections.abc import Callable
from importlib import import_module

import pytest

from tests.operations import (
    LedgerClock,
    claim_due,
    claim_one,
    fail,
    fail_operation,
    hold_operation,
    make_wait,
    record_operations,
    succeed,
)
from worker.ledger import (
    LEASE_S,
    Ledger,
    cancel,
    fail_message,
    settle,
)
from worker.ledger.on_operation_end import Ended, finish_ended
from worker.ledger.operator_actions import resolve, stop_asking
from worker.operation import FailureReason, OnUnknown, State, Transition

W1 = "fees.process:W1"


def settle_as_succeeded(ledger: Ledger, _clock: LedgerClock) -> None:
    succeed(ledger, hold_operation(ledger))


def settle_as_failed(ledger: Ledger, _clock: LedgerClock) -> None:
    fail(ledger, hold_operation(ledger))


def answer_late(ledger: Ledger, clock: LedgerClock) -> None:
    first = hold_operation(ledger, on_unknown=OnUnknown.STOP)
    clock.advance(LEASE_S + 1)
    claim_one(ledger, "worker 2")
    settle(ledger, [Transition(first, State.SUCCEEDED, outcome_known=True)])


def cancel_it(ledger: Ledger, _clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    cancel(ledger, W1, "ada", "not wanted")


def stop_asking_about_it(ledger: Ledger, _clock: LedgerClock) -> None:
    make_wait(ledger, hold_operation(ledger))
    stop_asking(ledger, W1, "ada", "support decides")


def let_it_expire(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1", parent="fees.process:none", time_allowed_s=1.0)
    clock.advance(2)
    claim_due(ledger)


def store_a_message(ledger: Ledger, _clock: LedgerClock) -> None:
    fail_message(ledger, "m-1", "b2copy.fees.process", "no arguments", by="crm", raw="[]")


@pytest.mark.parametrize(
    ("end", "key", "state"),
    [
        (settle_as_succeeded, W1, State.SUCCEEDED),
        (settle_as_failed, W1, State.FAILED),
        (answer_late, W1, State.SUCCEEDED),
        (cancel_it, W1, State.CANCELLED),
        (stop_asking_about_it, W1, State.FAILED),
        (let_it_expire, W1, State.FAILED),
        (store_a_message, "message:m-1", State.FAILED),
    ],
)
def test_whatever_ends_an_operation_calls_ended(
    ledger: Ledger,
    clock: LedgerClock,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[Ledger, LedgerClock], None],
    key: str,
    state: State,
) -> None:
    calls = note_calls(monkeypatch)

    end(ledger, clock)

    assert [(one.key, one.state) for one in calls] == [(key, state)]


@pytest.mark.parametrize("succeeded", [True, False])
def test_a_resolve_calls_ended(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, succeeded: bool) -> None:
    fail_operation(ledger, failure_reason=FailureReason.UNRESOLVED)
    calls = note_calls(monkeypatch)

    resolve(ledger, W1, "ada", "asked", succeeded=succeeded)

    assert [(one.key, one.state) for one in calls] == [(W1, State.SUCCEEDED if succeeded else State.FAILED)]


def test_a_message_that_is_stored_already_does_not_end_again(
    ledger: Ledger, clock: LedgerClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_a_message(ledger, clock)
    calls = note_calls(monkeypatch)

    store_a_message(ledger, clock)

    assert calls == []


def note_calls(monkeypatch: pytest.MonkeyPatch) -> list[Ended]:
    """Collect what `finish_ended` is called with, wherever it is called. It still does its work."""
    calls: list[Ended] = []

    def noting(connection: object, operations: list[Ended], now: int) -> None:
        calls.extend(operations)
        finish_ended(connection, operations, now)  # type: ignore[arg-type]

    for module in ("claims", "late_answers", "decision_sql", "record_operations", "settle"):
        # Some of these modules share their name with a function of the package.
        monkeypatch.setattr(import_module(f"worker.ledger.{module}"), "finish_ended", noting)
    return calls
