"""Order: an entity's operations one after the other, a child after its parent, and others are not held up."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from tests.ledger.databases import is_waiting_for_a_lock, on_postgresql
from tests.operations import (
    LedgerClock,
    claim_due,
    claim_one,
    fail,
    fail_operation,
    find_operation,
    hold_operation,
    make_wait,
    names_of,
    new_operation,
    record_operations,
    succeed,
    succeed_all,
)
from tests.support import until
from worker.ledger import LEASE_S, Ledger, cancel, count_due, record, replay
from worker.ledger.batches import pause_batch
from worker.operation import FailureReason, State, WaitReason


def test_an_entitys_operations_go_one_after_the_other(ledger: Ledger) -> None:
    record_operations(ledger, "A1", "A2", "A3", entity="A")

    done: list[str] = []
    while held := claim_due(ledger):
        done += names_of(held)
        assert len(held) == 1
        succeed(ledger, *held)

    assert done == ["A1", "A2", "A3"]


def test_an_operation_behind_another_waits_behind_entity(ledger: Ledger) -> None:
    record_operations(ledger, "A1", "A2", entity="A")

    claim_due(ledger)

    assert (find_operation(ledger, "A2").state, find_operation(ledger, "A2").wait_reason) == (
        State.WAITING,
        WaitReason.BEHIND_ENTITY,
    )


def test_a_stuck_operation_holds_up_its_own_entity_only(ledger: Ledger) -> None:
    record_operations(ledger, "A1", "A2", entity="A")
    record_operations(ledger, "B1", entity="B")
    record_operations(ledger, "free")
    stuck, *others = claim_due(ledger)
    succeed(ledger, *others)

    make_wait(ledger, stuck, due_in_s=3600)

    assert names_of(others) == ["B1", "free"]
    assert claim_due(ledger) == []


def test_a_line_longer_than_a_batch_does_not_hide_the_operations_after_it(ledger: Ledger) -> None:
    record_operations(ledger, *(f"A{number}" for number in range(300)), entity="A")
    record_operations(ledger, "B1", entity="B")

    assert names_of(claim_due(ledger, limit=5)) == ["A0", "B1"]


def test_failed_and_cancelled_operations_release_the_next(ledger: Ledger) -> None:
    record_operations(ledger, "A1", "A2", "A3", entity="A")
    first = claim_one(ledger)
    cancel(ledger, "fees.process:A2", "ada", "not wanted")

    fail(ledger, first)

    assert names_of(claim_due(ledger)) == ["A3"]


def test_a_lapsed_holder_keeps_its_entity(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "A1", "A2", entity="A")
    claim_due(ledger, "worker 1")

    clock.advance(LEASE_S + 1)

    assert names_of(claim_due(ledger, "worker 2")) == ["A1"]


def test_a_replayed_operation_goes_to_the_end_of_its_line(ledger: Ledger) -> None:
    record_operations(ledger, "A1", "A2", "A3", entity="A")
    fail(ledger, claim_one(ledger))

    replay(ledger, ["fees.process:A1"], "ada", "corrected")
    record_operations(ledger, "A4", entity="A")

    done: list[str] = []
    while held := claim_due(ledger):
        done += names_of(held)
        succeed(ledger, *held)
    assert done == ["A2", "A3", "A1", "A4"]


def test_operations_that_are_replayed_together_stay_in_the_order_in_which_they_were_requested(ledger: Ledger) -> None:
    names = ["A2", "A10", "A1"]  # by name, A1 and A10 come first
    for name in names:
        fail_operation(ledger, name, entity="A")

    replay(ledger, [f"fees.process:{name}" for name in names], "ada", "the cause is removed")

    assert succeed_all(ledger) == names


def test_a_replayed_operation_waits_for_the_one_that_is_running(ledger: Ledger) -> None:
    record_operations(ledger, "A1", "A2", entity="A")
    fail(ledger, claim_one(ledger))
    held = claim_one(ledger)

    replay(ledger, ["fees.process:A1"], "ada", "corrected")

    assert claim_due(ledger) == []
    succeed(ledger, held)
    assert names_of(claim_due(ledger)) == ["A1"]


def test_a_child_waits_until_its_parent_has_succeeded(ledger: Ledger) -> None:
    record_operations(ledger, "child", parent="fees.process:parent")
    assert claim_due(ledger) == [], "the parent is not even recorded"
    record_operations(ledger, "parent")

    [parent] = claim_due(ledger)
    assert (find_operation(ledger, "child").state, find_operation(ledger, "child").wait_reason) == (
        State.WAITING,
        WaitReason.BEHIND_PARENT,
    )
    succeed(ledger, parent)

    assert names_of(claim_due(ledger)) == ["child"]


def test_a_child_whose_parent_failed_waits_for_the_parents_replay(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "parent")
    record_operations(ledger, "child", parent="fees.process:parent")
    fail(ledger, claim_one(ledger))
    clock.advance(3600)
    assert claim_due(ledger) == []

    replay(ledger, ["fees.process:parent"], "ada", "corrected")
    succeed(ledger, claim_one(ledger))

    assert names_of(claim_due(ledger)) == ["child"]


def test_a_replayed_parent_goes_before_its_child_of_the_same_entity(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "parent", entity="A")
    record_operations(ledger, "child", entity="A", parent="fees.process:parent")
    record_operations(ledger, "later", entity="A")
    fail(ledger, claim_one(ledger))
    assert claim_due(ledger) == []

    replay(ledger, ["fees.process:parent"], "ada", "again")

    assert succeed_in_order(ledger, clock, 3) == ["parent", "child", "later"]


def test_a_parent_that_is_recorded_later_goes_before_its_child_of_the_same_entity(
    ledger: Ledger, clock: LedgerClock
) -> None:
    record_operations(ledger, "first", entity="A")
    record_operations(ledger, "child", entity="A", parent="fees.process:parent")
    record_operations(ledger, "later", entity="A")
    record_operations(ledger, "parent", entity="A")

    assert succeed_in_order(ledger, clock, 4) == ["first", "parent", "child", "later"]


def test_a_parent_behind_its_child_is_due_as_soon_as_the_operation_ahead_ends(ledger: Ledger) -> None:
    record_operations(ledger, "first", entity="A")
    record_operations(ledger, "child", entity="A", parent="fees.process:parent")
    record_operations(ledger, "parent", entity="A")
    first = claim_one(ledger)
    for name in ("child", "parent"):
        assert find_operation(ledger, name).state == State.WAITING

    succeed(ledger, first)

    assert succeed_all(ledger) == ["parent", "child"]


def test_a_child_of_a_paused_import_lets_nobody_go_before_its_parents_line(ledger: Ledger, clock: LedgerClock) -> None:
    """The pause has not reached the child yet: it holds nobody up, and makes no exception for its parent either."""
    record_operations(ledger, "parent", entity="A")
    record_operations(ledger, "child", entity="A", parent="fees.process:parent", batch="book")
    record_operations(ledger, "later", entity="A")
    fail(ledger, claim_one(ledger))
    replay(ledger, ["fees.process:parent"], "ada", "again")
    pause_batch(ledger, "book", "ada", "wrong file?")
    with ledger.writing() as connection:  # no claim finds it yet, as in a long line
        connection.execute(text("UPDATE b2copy_operations SET due_at = due_at + 3600000 WHERE batch = 'book'"))

    assert succeed_in_order(ledger, clock, 2) == ["later", "parent"]


def test_a_child_whose_parent_never_succeeds_expires_at_its_own_deadline(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "parent")
    fail(ledger, claim_one(ledger))
    record_operations(ledger, "child", parent="fees.process:parent", time_allowed_s=3600.0, entity="A")
    record_operations(ledger, "next", entity="A")
    assert claim_due(ledger) == []

    clock.advance(3601)

    assert claim_due(ledger) == []
    found = find_operation(ledger, "child")
    assert (found.state, found.failure_reason, found.sent) == (State.FAILED, FailureReason.EXPIRED, False)
    assert names_of(claim_due(ledger)) == ["next"]


@pytest.mark.parametrize("begun", ["its outcome is unknown", "it is pending at the destination", "it made progress"])
def test_a_parked_operation_that_may_have_been_done_ends_unresolved_at_its_deadline(
    ledger: Ledger, clock: LedgerClock, begun: str
) -> None:
    claimed = hold_operation(ledger, "A2", entity="A", time_allowed_s=3600.0)
    match begun:
        case "its outcome is unknown":
            make_wait(ledger, claimed, due_in_s=1, outcome_unknown=True)
        case "it is pending at the destination":
            make_wait(ledger, claimed, due_in_s=1, wait_reason=WaitReason.PENDING_AT_B2COPY, outcome_known=True)
        case _:
            make_wait(ledger, claimed, due_in_s=1, progress={"client": 5})
    # A transaction that recorded an earlier operation of the entity commits now.
    record_operations(ledger, "A1", entity="A")
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_operations SET position = 0 WHERE key = 'fees.process:A1'"))
    clock.advance(3601)

    assert names_of(claim_due(ledger)) == ["A1"]
    assert claim_due(ledger) == []
    found = find_operation(ledger, "A2")
    assert (found.state, found.failure_reason) == (State.FAILED, FailureReason.UNRESOLVED)


def test_a_parked_operation_is_examined_again_no_later_than_its_deadline(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "child", parent="fees.process:none", time_allowed_s=5.0)
    claim_due(ledger)

    clock.advance(5.1)

    claim_due(ledger)
    assert find_operation(ledger, "child").state == State.FAILED


def test_a_parked_operation_is_examined_again_after_times_that_double_up_to_half_a_minute(
    ledger: Ledger, clock: LedgerClock
) -> None:
    record_operations(ledger, "child", parent="fees.process:none", time_allowed_s=900.0)
    claim_due(ledger)
    for examined_after_s in (1, 2, 4, 8, 16, 30, 30):
        clock.advance(examined_after_s - 0.5)
        assert count_due(ledger)["money"] == 0
        clock.advance(0.5)
        assert count_due(ledger)["money"] == 1
        claim_due(ledger)


def test_a_parked_operation_knows_since_when_it_is_parked(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "child", parent="fees.process:none")
    claim_due(ledger)
    clock.advance(100)

    claim_due(ledger)

    found = find_operation(ledger, "child")
    assert found.due_at is not None
    assert found.due_at - found.state_since > 100_000


def test_a_failed_parent_does_not_release_its_children(ledger: Ledger) -> None:
    record_operations(ledger, "child", parent="fees.process:parent")
    claim_due(ledger)
    parked_until = find_operation(ledger, "child").due_at

    fail_operation(ledger, "parent")

    assert find_operation(ledger, "child").due_at == parked_until


def test_a_release_does_not_end_the_lease_of_a_running_operation(ledger: Ledger) -> None:
    parent = hold_operation(ledger, "parent")
    hold_operation(ledger, "child", entity="A")
    record_operations(ledger, "A2", entity="A")
    with ledger.writing() as connection:  # as if the parent had been replayed after the child was sent
        statement = "UPDATE b2copy_operations SET parent = 'fees.process:parent' WHERE key = 'fees.process:child'"
        connection.execute(text(statement))
    lease_ends = find_operation(ledger, "child").due_at

    succeed(ledger, parent)
    cancel(ledger, "fees.process:A2", "ada", "not wanted")

    assert find_operation(ledger, "child").due_at == lease_ends


def test_an_operation_that_was_sent_no_longer_waits_for_its_parent(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "parent")
    record_operations(ledger, "child", parent="fees.process:parent")
    succeed(ledger, claim_one(ledger))
    make_wait(ledger, claim_one(ledger), due_in_s=5)
    clock.advance(6)

    assert names_of(claim_due(ledger)) == ["child"]


def test_two_operations_of_one_entity_never_run_at_once(ledger: Ledger, open_again: Callable[[], Ledger]) -> None:
    lines = {entity: [f"{entity}{number}" for number in range(12)] for entity in "ABCDE"}
    for number in range(12):
        for entity, line in lines.items():
            record_operations(ledger, line[number], entity=entity)
    processes = [open_again() for _ in range(4)]
    done: list[str] = []

    def work(number: int) -> None:
        idle = 0
        while len(done) < 60 and idle < 2000:
            held = claim_due(processes[number], owner=f"worker {number}", limit=4)
            idle = 0 if held else idle + 1
            assert len({one.entity for one in held}) == len(held)
            done.extend(names_of(held))
            succeed(processes[number], *held)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))

    assert {entity: [name for name in done if name[0] == entity] for entity in lines} == lines


@on_postgresql
def test_an_earlier_operation_that_is_committed_later_waits_for_the_one_that_is_running(ledger: Ledger) -> None:
    with ledger.engine.begin() as slow:
        record(ledger, [new_operation("A1", entity="A")], by="a slow transaction", connection=slow)
        record_operations(ledger, "A2", entity="A")
        held = claim_one(ledger)

    assert claim_due(ledger) == []
    assert find_operation(ledger, "A1").wait_reason == WaitReason.BEHIND_ENTITY
    succeed(ledger, held)
    assert names_of(claim_due(ledger)) == ["A1"]


@on_postgresql
@pytest.mark.parametrize("waits_for", [{"entity": "A"}, {"parent": "fees.process:A1"}])
def test_what_is_recorded_while_the_operation_ahead_ends_is_examined_again_soon(
    ledger: Ledger, clock: LedgerClock, waits_for: dict[str, str]
) -> None:
    record_operations(ledger, "A1", entity="A")
    claim_one(ledger)
    with ledger.engine.begin() as slow:
        # Another worker has ended A1, found nothing behind it to make due, and is about to commit.
        slow.execute(text("UPDATE b2copy_operations SET state = 'succeeded', due_at = NULL, lease_owner = NULL"))
        record_operations(ledger, "A2", **waits_for)
        for _ in range(2):
            assert claim_due(ledger) == [], "A1 still runs, as far as this claim can see"
            with ledger.writing() as connection:  # not by `clock`, which would wait for A1
                earlier = "UPDATE b2copy_operations SET due_at = due_at - 1500 WHERE key = 'fees.process:A2'"
                connection.execute(text(earlier))

    clock.advance(2.5)

    assert names_of(claim_due(ledger)) == ["A2"]


@on_postgresql
def test_two_concurrent_claims_do_not_both_hold_one_entity(ledger: Ledger) -> None:
    with ledger.engine.begin() as slow:
        record(ledger, [new_operation("A1", entity="A")], by="a slow transaction", connection=slow)
        record_operations(ledger, "A2", entity="A")
    with ledger.engine.begin() as other:
        # Another claim has taken A2, has not seen A1 yet, and is about to commit.
        held = "state = 'running', lease_owner = 'other', due_at = due_at + 10000"
        other.execute(text(f"UPDATE b2copy_operations SET {held} WHERE key = 'fees.process:A2'"))
        with ThreadPoolExecutor(1) as threads:
            ours = threads.submit(claim_due, ledger)
            until(lambda: is_waiting_for_a_lock(ledger))
            other.commit()
            assert ours.result(10) == []

    assert find_operation(ledger, "A1").wait_reason == WaitReason.BEHIND_ENTITY


def succeed_in_order(ledger: Ledger, clock: LedgerClock, count: int) -> list[str]:
    """Claim so many operations one after the other, let each succeed, and return their names."""
    order: list[str] = []
    for _ in range(count):
        clock.advance(31)  # parked operations are examined again
        [held] = claim_due(ledger)
        succeed(ledger, held)
        order += names_of([held])
    return order
