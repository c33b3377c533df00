"""Whatever is done to one operation, batch, lane or proposal changes no other one."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, text

from tests.operations import (
    attempt_record,
    claim_due,
    claim_named,
    claim_one,
    fail,
    fail_operation,
    find_operation,
    hold_operation,
    key_of,
    make_wait,
    record_operation,
    record_operations,
    succeed,
    succeed_operation,
)
from worker.ledger import (
    Ledger,
    cancel,
    make_due,
    pause,
    poll_now,
    raise_flag,
    renew_leases,
    replay,
    return_unsent,
    settle,
)
from worker.ledger.approvals import Approval, approve, propose, reject
from worker.ledger.batches import (
    begin_batch,
    cancel_batch,
    find_batch,
    pause_batch,
    resume_batch,
    sweep,
    sweep_forgotten,
)
from worker.ledger.begun_steps import begin_step
from worker.ledger.fleet_flags import lower_flag
from worker.ledger.operator_actions import correct, resolve, stop_asking
from worker.ledger.pauses import resume
from worker.ledger.schema import approvals, attempts, batches, flags, operations
from worker.operation import FailureReason, OnUnknown, State, Transition, WaitReason

LANE = "bulk"  # of the bystanders; what a test does is in the lane "money"


def sql(ledger: Ledger, statement: str) -> None:
    with ledger.writing() as connection:
        connection.execute(text(statement))


def set_row(ledger: Ledger, name: str, values: str) -> None:
    sql(ledger, f"UPDATE b2copy_operations SET {values} WHERE key = '{key_of(name)}'")


def propose_cancel(ledger: Ledger, name: str) -> Approval:
    mark = find_operation(ledger, name).change_mark
    return propose(ledger, "cancel", key_of(name), "ada", "not wanted", mark, {})


@pytest.fixture
def others(ledger: Ledger) -> Callable[[], dict[str, Any]]:
    """Record an operation in each situation, batches, flags and a proposal. Returns how all of them are now."""
    hold_operation(ledger, "running", owner="worker 9", lane=LANE)
    hold_operation(ledger, "lapsed", owner="worker 1", lane=LANE, on_unknown=OnUnknown.STOP)
    succeed_operation(ledger, "succeeded", lane=LANE, entity="e1")
    fail_operation(ledger, "failed", lane=LANE)
    fail_operation(ledger, "unresolved", FailureReason.UNRESOLVED, lane=LANE, on_unknown=OnUnknown.STOP)
    make_wait(ledger, hold_operation(ledger, "circuit", lane=LANE), wait_reason=WaitReason.CIRCUIT_OPEN, due_in_s=900)
    make_wait(ledger, hold_operation(ledger, "backoff", lane=LANE), attempt=attempt_record("no_answer"), due_in_s=900)
    make_wait(
        ledger, hold_operation(ledger, "pending", lane=LANE), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=900
    )
    record_operations(ledger, "queued", "cancelled", lane=LANE)
    cancel(ledger, key_of("cancelled"), "ada", "not wanted")
    record_operation(ledger, "parked", lane=LANE, parent=key_of("failed"), time_allowed_s=900.0)
    record_operation(ledger, "in line", lane=LANE, entity="e2", time_allowed_s=900.0)
    for batch in ("paused", "resumed", "open", "cancelled"):
        begin_batch(ledger, batch, kind="fees.process", lane=LANE, source="f", rows=1, by="ada")
        record_operation(ledger, f"of {batch}", lane=LANE, batch=batch, time_allowed_s=900.0)
    for batch in ("paused", "resumed"):
        pause_batch(ledger, batch, "ada", "wrong?")
    cancel_batch(ledger, "cancelled", "ada", "wrong")
    assert sweep(ledger, 20.0)
    claim_parked = claim_named(ledger, "queued", lane=LANE)  # parks what is blocked
    return_unsent(ledger, [claim_parked])
    raise_flag(ledger, "login_refused", "worker 9", "refused")
    pause(ledger, "default", "ada", "month end")
    propose_cancel(ledger, "queued")
    set_row(ledger, "lapsed", "due_at = 1")

    def now() -> dict[str, Any]:
        a, o = approvals.c, operations.c
        bystanders = select(o.id).where(o.lane == LANE)
        wanted = {
            "operations": select(operations).where(o.lane == LANE),
            "attempts": select(attempts).where(attempts.c.operation_id.in_(bystanders)),
            "batches": select(batches).where(batches.c.id.not_in(["ours"])),
            "flags": select(flags).where(flags.c.name.not_in(["ours", "pause:money"])),
            "approvals": select(approvals).where(a.subject == key_of("queued")),
        }
        with ledger.reading() as connection:
            return {
                f"{name} {row[0]}": row._asdict()
                for name, query in wanted.items()
                for row in connection.execute(query).all()
            }

    return now


def late_answer(ledger: Ledger) -> None:
    first = hold_operation(ledger, "W1", on_unknown=OnUnknown.STOP)
    set_row(ledger, "W1", "due_at = 1")
    second = claim_one(ledger, "worker 2")
    fail(ledger, second, failure_reason=FailureReason.UNRESOLVED, outcome_unknown=True)
    settle(ledger, [Transition(first, State.SUCCEEDED, attempt=attempt_record(), outcome_known=True)])


def expire(ledger: Ledger) -> None:
    record_operation(ledger, "W1", parent="fees.process:none", time_allowed_s=900.0)
    set_row(ledger, "W1", "deadline_at = 1")
    assert claim_due(ledger) == []


def refuse(ledger: Ledger) -> None:
    record_operation(ledger, "W1")
    set_row(ledger, "W1", "payload = '{'")
    assert claim_due(ledger) == []


def park(ledger: Ledger) -> None:
    record_operation(ledger, "W0", entity="money")
    record_operations(ledger, "W1", "W2", entity="money")
    record_operation(ledger, "W3", parent=key_of("W0"))
    succeed(ledger, claim_one(ledger))
    cancel(ledger, key_of("W1"), "ada", "no")


def hold(ledger: Ledger) -> None:
    claimed = hold_operation(ledger, "W1")
    assert begin_step(ledger, claimed, "charge", {"at": 1})
    assert renew_leases(ledger, "worker 1", [claimed]) == {claimed.id}
    return_unsent(ledger, [claimed])


def wait_and_poll(ledger: Ledger) -> None:
    make_wait(ledger, hold_operation(ledger, "W1"), wait_reason=WaitReason.RATE_LIMITED)
    assert make_due(ledger, "b2copy", WaitReason.RATE_LIMITED) == 1
    assert poll_now(ledger, key_of("W1"), "ada")
    stop_asking(ledger, key_of("W1"), "ada", "support decides")


def decide(ledger: Ledger) -> None:
    for name in ("W1", "W2", "W3"):
        fail_operation(ledger, name)
    assert replay(ledger, [key_of("W1")], "ada", "again") == [key_of("W1")]
    correct(ledger, key_of("W2"), {"account_login": "8", "request_id": "W2"}, "ada", "wrong")
    resolve(ledger, key_of("W3"), "ada", "done", succeeded=True, result={"fee": "1"})


def approve_or_reject(ledger: Ledger) -> None:
    for name, decision in (("W1", approve), ("W2", reject)):
        record_operation(ledger, name)
        decision(ledger, propose_cancel(ledger, name).id, "bob", "seen")


def change_batch(ledger: Ledger) -> None:
    begin_batch(ledger, "ours", kind="fees.process", lane="money", source="f", rows=2, by="ada")
    record_operations(ledger, "W1", "W2", batch="ours")
    pause_batch(ledger, "ours", "ada", "wrong?")
    assert sweep(ledger, 20.0)
    resume_batch(ledger, "ours", "ada", "right")
    sweep_forgotten(ledger)
    assert sweep(ledger, 20.0)
    cancel_batch(ledger, "ours", "ada", "wrong")
    assert claim_due(ledger) == []
    assert sweep(ledger, 20.0)
    assert (find_batch(ledger, "ours") or pytest.fail("no batch")).swept_to is None


def sweep_what_is_forgotten(ledger: Ledger) -> None:
    sweep_forgotten(ledger)


def pause_lane(ledger: Ledger) -> None:
    record_operation(ledger, "W1", time_allowed_s=900.0)
    pause(ledger, "money", "ada", "upgrade")
    assert resume(ledger, "money", "ada", "done")
    raise_flag(ledger, "ours", "worker 1", "x")
    assert lower_flag(ledger, "ours", "ada", "y")


@pytest.mark.parametrize(
    "act",
    [
        late_answer,
        expire,
        refuse,
        park,
        hold,
        wait_and_poll,
        decide,
        approve_or_reject,
        change_batch,
        sweep_what_is_forgotten,
        pause_lane,
    ],
    ids=lambda act: act.__name__,
)
def test_nothing_else_changes(
    ledger: Ledger, others: Callable[[], dict[str, Any]], act: Callable[[Ledger], None]
) -> None:
    before = others()

    act(ledger)

    assert others() == before
