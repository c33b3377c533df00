"""Purge: old final operations are removed with their attempts; open ones and the audit stay."""

from typing import Any

import pytest
from sqlalchemy import event, text

from tests.ledger.databases import on_sqlite
from tests.operations import (
    LedgerClock,
    claim_due,
    claim_one,
    fail,
    fail_operation,
    find_operation,
    hold_operation,
    make_wait,
    record_operations,
    succeed,
    succeed_operation,
)
from worker.ledger import Ledger, attempts_of, audit_of, find, purge, replay
from worker.ledger.purge import count_purgeable
from worker.operation import FailureReason, WaitReason

DAY = 86_400.0


def test_an_old_final_operation_is_purged_with_its_attempts_but_not_its_audit(
    ledger: Ledger, clock: LedgerClock
) -> None:
    [recorded] = record_operations(ledger, "old")
    fail(ledger, claim_one(ledger))
    replay(ledger, ["fees.process:old"], "ada", "again")
    succeed(ledger, claim_one(ledger))
    record_operations(ledger, "open")
    clock.advance(401 * DAY)
    record_operations(ledger, "young")
    succeed(ledger, *[one for one in claim_due(ledger) if one.key.endswith("young")])

    assert purge(ledger, 400 * DAY) == 1

    assert find(ledger, "fees.process:old") is None
    assert attempts_of(ledger, recorded.id) == []
    assert [entry.action for entry in audit_of(ledger, recorded.key)] == ["replay"]
    assert find_operation(ledger, "open").id
    assert find_operation(ledger, "young").id


def test_a_purge_in_small_batches_removes_everything(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, *(f"W{number}" for number in range(25)))
    succeed(ledger, *claim_due(ledger))
    clock.advance(2 * DAY)

    assert purge(ledger, DAY, batch=10) == 25


def test_a_purge_finds_what_ended_at_the_same_instant_among_what_stays(ledger: Ledger, clock: LedgerClock) -> None:
    for number in range(12):
        kind = "clients.register" if number % 2 else "fees.process"
        record_operations(ledger, f"1/{number}", kind=kind)
    succeed(ledger, *claim_due(ledger))
    with ledger.writing() as connection:  # two instants
        connection.execute(text("UPDATE b2copy_operations SET ended_at = 1000 + id % 3 / 2"))

    asked: dict[str, Any] = {"older_than_s": DAY, "parents": ["clients.register"]}
    assert count_purgeable(ledger, **asked) == 6
    assert purge(ledger, batch=2, **asked) == 6
    assert purge(ledger, batch=2, **asked) == 0


@on_sqlite
def test_a_purge_reads_what_stays_once(ledger: Ledger, clock: LedgerClock) -> None:
    steps = 0

    def count_steps(connection: Any, cursor: Any, *_: Any) -> None:
        def step() -> None:
            nonlocal steps
            steps += 1

        cursor.connection.set_progress_handler(step, 100)

    event.listen(ledger.engine, "before_cursor_execute", count_steps)

    def steps_of_a_purge(registrations: int) -> int:
        with ledger.writing() as connection:
            connection.execute(text("DELETE FROM b2copy_operations"))
        record_operations(ledger, *(f"1/{number}" for number in range(registrations)), kind="clients.register")
        succeed(ledger, *claim_due(ledger, limit=registrations))
        clock.advance(1)
        record_operations(ledger, *(f"W{number}" for number in range(registrations)))
        succeed(ledger, *claim_due(ledger, limit=registrations))
        clock.advance(2 * DAY)
        before = steps
        assert purge(ledger, DAY, batch=20, parents=["clients.register"]) == registrations
        return steps - before

    few, many = steps_of_a_purge(200), steps_of_a_purge(800)

    assert many < 6 * few, (few, many)  # four times the rows cost four times as much, not sixteen


def test_the_id_of_a_purged_operation_is_never_used_again(ledger: Ledger, clock: LedgerClock) -> None:
    [gone] = record_operations(ledger, "W1")
    succeed(ledger, claim_one(ledger))
    clock.advance(2 * DAY)
    purge(ledger, DAY)

    [again] = record_operations(ledger, "W1")

    assert again.created
    assert again.id > gone.id


@pytest.mark.parametrize(
    ("reason", "is_unknown", "stays"),
    [
        (FailureReason.UNRESOLVED, True, True),
        (FailureReason.UNRESOLVED, False, True),
        (FailureReason.INTERNAL, True, True),
        (FailureReason.INTERNAL, False, False),
    ],
)
def test_what_stays_is_what_nobody_knows(
    ledger: Ledger, clock: LedgerClock, reason: FailureReason, is_unknown: bool, stays: bool
) -> None:
    fail(ledger, hold_operation(ledger, "W1"), failure_reason=reason, outcome_unknown=is_unknown)
    clock.advance(DAY)

    assert purge(ledger, DAY + 60) == count_purgeable(ledger, DAY + 60) == 0
    assert count_purgeable(ledger, DAY - 60) == (0 if stays else 1)
    assert purge(ledger, DAY - 60) == (0 if stays else 1)


def test_a_failed_operation_of_which_nobody_knows_what_was_done_stays(ledger: Ledger, clock: LedgerClock) -> None:
    fail_operation(ledger, "unknown", failure_reason=FailureReason.UNRESOLVED)
    fail_operation(ledger, "rejected")
    clock.advance(2 * DAY)

    assert (count_purgeable(ledger, DAY), count_purgeable(ledger, DAY, undecided=True)) == (1, 2)
    assert purge(ledger, DAY, by="ada") == 1
    assert find_operation(ledger, "unknown").failure_reason == FailureReason.UNRESOLVED
    assert purge(ledger, DAY, by="ada", undecided=True) == 1

    entries = audit_of(ledger, "operations")
    assert [(one.action, one.actor, one.note.split()[0]) for one in entries] == [("purge", "ada", "1")] * 2


@pytest.mark.parametrize("phase_known", [True, False], ids=["begun", "not begun"])
def test_what_the_destination_had_begun_stays_unless_an_answer_ended_it(
    ledger: Ledger, clock: LedgerClock, phase_known: bool
) -> None:
    for name, reason in (("W1", FailureReason.BAD_PAYLOAD), ("W2", FailureReason.REJECTED), ("W3", "fee_error")):
        held = hold_operation(ledger, name)
        if phase_known:
            make_wait(ledger, held, wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=0.0)
            held = claim_one(ledger)
        fail(ledger, held, failure_reason=reason)
    clock.advance(DAY)

    assert purge(ledger, DAY - 60) == (2 if phase_known else 3)
    assert (find(ledger, "fees.process:W1") is not None) == phase_known


def test_a_parent_stays_while_its_child_is_open_and_a_registration_for_ever(ledger: Ledger, clock: LedgerClock) -> None:
    succeed_operation(ledger, "P")
    record_operations(ledger, "child", kind="call", lane="bulk", parent="fees.process:P")
    succeed_operation(ledger, "1/77", kind="clients.register", payload={"login": "77", "platform": 1})
    fail_operation(ledger, "1/78", kind="clients.register")
    clock.advance(DAY)

    assert count_purgeable(ledger, DAY - 60, parents=["clients.register"]) == 1
    assert purge(ledger, DAY - 60, parents=["clients.register"]) == 1
    assert find(ledger, "clients.register:1/78") is None

    succeed(ledger, claim_one(ledger, lane="bulk"))  # its parent is not needed any more
    assert purge(ledger, DAY - 60, parents=["clients.register"]) == 1
    assert find(ledger, "clients.register:1/77") is not None


def test_a_parent_stays_while_a_failed_child_may_be_replayed(ledger: Ledger, clock: LedgerClock) -> None:
    parents = [succeed_operation(ledger, name, kind="call") for name in ("K1", "K2")]
    fail_operation(ledger, "K3")
    clock.advance(2 * DAY)
    child = fail_operation(ledger, "child", parent=parents[0])
    succeed_operation(ledger, "done", parent=parents[1])

    assert count_purgeable(ledger, DAY) == 2
    assert purge(ledger, DAY) == 2

    assert (find(ledger, parents[0]) is not None, find(ledger, parents[1])) == (True, None)
    assert replay(ledger, [child], "ada", "the card is new") == [child]
    assert [one.key for one in claim_due(ledger)] == [child], "it does not wait for its parent"
