"""Pauses of lanes: their time is not ours."""

from collections.abc import Callable
from threading import Thread

import pytest
from sqlalchemy import text

from tests.ledger.databases import is_waiting_for_a_lock
from tests.operations import (
    LedgerClock,
    claim_due,
    claim_one,
    fail_operation,
    find_operation,
    make_wait,
    names_of,
    record_operations,
    succeed,
    succeed_all,
)
from tests.support import until
from worker.ledger import (
    LEASE_S,
    Ledger,
    cancel,
    pause,
    poll_now,
    renew_leases,
    return_unsent,
    sweep,
)
from worker.ledger.batches import pause_batch, resume_batch
from worker.ledger.operator_actions import resolve
from worker.ledger.pauses import resume, resume_within
from worker.operation import State, WaitReason


def external_wait_s(ledger: Ledger, name: str = "W1") -> float:
    return find_operation(ledger, name).external_wait_ms / 1000


def test_the_time_of_a_pause_is_external_wait(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    record_operations(ledger, "W2", lane="bulk")
    clock.advance(100)
    pause(ledger, "money", "ada", "upgrade")
    clock.advance(60)

    resume(ledger, "money", "ada", "done")

    assert 60 <= external_wait_s(ledger) < 75, "the 100 s before the pause are ours"
    assert external_wait_s(ledger, "W2") == 0
    claim_due(ledger)
    assert 60 <= external_wait_s(ledger) < 75


def test_an_operation_that_became_due_during_a_pause_stood_still_from_then_on(
    ledger: Ledger, clock: LedgerClock
) -> None:
    record_operations(ledger, "W1", "W2")
    first, second = claim_due(ledger)
    make_wait(ledger, first, due_in_s=40)
    make_wait(ledger, second, due_in_s=4000)
    pause(ledger, "all", "ada", "upgrade")
    clock.advance(60)

    resume(ledger, "all", "ada", "done")

    assert 20 <= external_wait_s(ledger, "W1") < 35
    assert external_wait_s(ledger, "W2") == 0


@pytest.mark.parametrize("lane", ["money", "all"])
def test_the_time_of_a_pause_does_not_count_towards_the_deadline(ledger: Ledger, clock: LedgerClock, lane: str) -> None:
    record_operations(ledger, "W1", time_allowed_s=50)
    make_wait(ledger, claim_one(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=40)
    record_operations(ledger, "W2", time_allowed_s=50)
    record_operations(ledger, "W3", lane="bulk", time_allowed_s=50)
    pause(ledger, lane, "ada", "incident")
    clock.advance(100)
    before = {name: find_operation(ledger, name).deadline_at or 0 for name in ("W1", "W2", "W3")}

    resume(ledger, lane, "ada", "done")

    moved_s = {name: ((find_operation(ledger, name).deadline_at or 0) - before[name]) / 1000 for name in before}
    assert 60 <= moved_s["W1"] < 75, "it was not due for the first 40 s"
    assert 100 <= moved_s["W2"] < 115
    assert (moved_s["W3"] > 0) == (lane == "all")


def test_the_time_of_a_pause_is_given_back_to_what_a_lost_worker_held(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "lost", "held", time_allowed_s=72 * 3600)
    _, held = sorted(claim_due(ledger), key=lambda one: one.key == "fees.process:held")
    clock.advance(LEASE_S + 20)
    renew_leases(ledger, held.lease_owner, [held])
    pause(ledger, "money", "ada", "incident")
    clock.advance(5)
    renew_leases(ledger, held.lease_owner, [held])
    names = ("lost", "held")
    before = {name: find_operation(ledger, name).deadline_at or 0 for name in names}

    resume(ledger, "money", "ada", "done")

    moved_s = {name: ((find_operation(ledger, name).deadline_at or 0) - before[name]) / 1000 for name in names}
    assert 5 <= moved_s["lost"] < 20
    assert 5 <= external_wait_s(ledger, "lost") < 20
    assert moved_s["held"] == 0, "its call was in flight, and it did not wait for the end of the pause"


def pause_import(ledger: Ledger) -> None:
    pause_batch(ledger, "book", "ada", "wrong file?")
    sweep(ledger, 5.0)


EXAMINED_AFTER_S = (1, 2, 4, 8, 16, 30, 30, 30, 30)


@pytest.mark.parametrize(("by", "behind"), [("lane", "parent"), ("lane", "entity"), ("import", "parent")])
def test_what_waits_in_another_lane_for_something_paused_does_not_expire(
    ledger: Ledger, clock: LedgerClock, by: str, behind: str
) -> None:
    entity = "A" if behind == "entity" else None
    record_operations(ledger, "P", lane="bulk", batch="book", entity=entity, time_allowed_s=600)
    record_operations(
        ledger, "C", lane="money", entity=entity, parent="fees.process:P" if entity is None else None, time_allowed_s=50
    )
    assert claim_due(ledger) == []  # it is parked
    pause(ledger, "bulk", "ada", "incident") if by == "lane" else pause_import(ledger)
    for examined_after_s in EXAMINED_AFTER_S:
        clock.advance(examined_after_s)
        assert claim_due(ledger) == []

    resume(ledger, "bulk", "ada", "done") if by == "lane" else resume_import(ledger)

    waiting = find_operation(ledger, "C")
    assert waiting.state == State.WAITING
    succeed(ledger, claim_one(ledger, lane="bulk"))
    assert names_of(claim_due(ledger)) == ["C"]
    assert external_wait_s(ledger, "C") == sum(EXAMINED_AFTER_S)


def test_what_waits_behind_something_that_waits_for_a_pause_does_not_expire_either(
    ledger: Ledger, clock: LedgerClock
) -> None:
    record_operations(ledger, "P", lane="bulk", time_allowed_s=600)
    record_operations(ledger, "F", entity="A", parent="fees.process:P", time_allowed_s=50)
    record_operations(ledger, "B", entity="A", time_allowed_s=50)
    record_operations(ledger, "C", parent="fees.process:F", time_allowed_s=50)
    assert claim_due(ledger) == []
    pause(ledger, "bulk", "ada", "incident")
    for examined_after_s in EXAMINED_AFTER_S:
        clock.advance(examined_after_s)
        assert claim_due(ledger) == []

    resume(ledger, "bulk", "ada", "done")

    succeed(ledger, claim_one(ledger, lane="bulk"))
    assert succeed_all(ledger)[0] == "F"
    assert {find_operation(ledger, name).state for name in "FBC"} == {State.SUCCEEDED}


def resume_import(ledger: Ledger) -> None:
    resume_batch(ledger, "book", "ada", "right file")
    sweep(ledger, 5.0)


STEPS: dict[str, Callable[[Ledger], object]] = {
    "lane": lambda ledger: pause(ledger, "bulk", "ada", "month end"),
    "/lane": lambda ledger: resume(ledger, "bulk", "ada", "done"),
    "all": lambda ledger: pause(ledger, "all", "ada", "upgrade"),
    "/all": lambda ledger: resume(ledger, "all", "ada", "done"),
    "import": pause_import,
    "/import": resume_import,
}


@pytest.mark.parametrize(
    ("steps", "stands_still_s"),
    [
        ("lane import /lane /import", 300),
        ("lane import /import /lane", 300),
        ("import lane /lane /import", 300),
        ("import lane /import /lane", 300),
        ("lane /lane import /import", 200),
        ("all lane import /all /lane /import", 500),
        ("lane all /lane import /import /all", 500),
    ],
)
def test_the_pauses_of_a_lane_and_of_an_import_count_once(
    ledger: Ledger, clock: LedgerClock, steps: str, stands_still_s: int
) -> None:
    record_operations(ledger, "W1", lane="bulk", batch="book", time_allowed_s=50)
    before = find_operation(ledger).deadline_at or 0
    names = steps.split()
    for name in names:
        STEPS[name](ledger)
        if name != names[-1]:
            clock.advance(100)
            before -= 100_000

    [claimed] = claim_due(ledger, lane="bulk")

    assert claimed.overdue == (steps == "lane /lane import /import"), "100 s of it were nobody's pause"
    assert stands_still_s <= external_wait_s(ledger) < stands_still_s + 15
    moved_s = ((find_operation(ledger).deadline_at or 0) - before) / 1000
    assert stands_still_s <= moved_s < stands_still_s + 15
    with ledger.reading() as connection:
        moved = connection.execute(text("SELECT deadline_at - time_allowed_ms - requested_at FROM b2copy_operations"))
        assert abs(moved.scalar_one()) < 1000, "the instant of the request stays"


def test_what_was_not_due_yet_when_its_import_was_paused_had_not_stood_still(
    ledger: Ledger, clock: LedgerClock
) -> None:
    record_operations(ledger, "W1", lane="bulk", batch="book")
    make_wait(ledger, claim_one(ledger, lane="bulk"), due_in_s=1000, sent=False)
    pause(ledger, "bulk", "ada", "month end")
    clock.advance(100)

    pause_import(ledger)

    assert external_wait_s(ledger) == 0


Act = Callable[[], object]


def wait_for_a_retry(ledger: Ledger) -> Act:
    record_operations(ledger, "W2", time_allowed_s=50)
    make_wait(ledger, claim_one(ledger), due_in_s=0)
    return lambda: poll_now(ledger, "fees.process:W2", "ann")


def wait_in_line(ledger: Ledger) -> Act:
    record_operations(ledger, "W1", entity="7")
    record_operations(ledger, "W2", entity="7", time_allowed_s=50)
    make_wait(ledger, claim_one(ledger), sent=False, due_in_s=0)
    return lambda: cancel(ledger, "fees.process:W1", "ann", "the client asks for it")


def wait_for_its_parent(ledger: Ledger) -> Act:
    fail_operation(ledger, "W1")
    record_operations(ledger, "W2", parent="fees.process:W1", time_allowed_s=50)
    assert claim_due(ledger) == []
    return lambda: resolve(ledger, "fees.process:W1", "ann", "support has done it", succeeded=True)


def be_held_by_a_suspended_worker(ledger: Ledger) -> Act:
    record_operations(ledger, "W2", time_allowed_s=50)
    held = claim_one(ledger)
    return lambda: return_unsent(ledger, [held])


@pytest.mark.parametrize("begin", [wait_for_a_retry, wait_in_line, wait_for_its_parent, be_held_by_a_suspended_worker])
def test_what_was_due_stays_due_since_then_whatever_makes_it_due_again(
    ledger: Ledger, clock: LedgerClock, begin: Callable[[Ledger], Act]
) -> None:
    make_it_due = begin(ledger)
    clock.advance(40)  # longer than a lease, and than a parked operation waits for its next examination
    pause(ledger, "money", "ada", "incident")
    clock.advance(100)

    make_it_due()
    clock.advance(100)
    before = find_operation(ledger, "W2").deadline_at or 0
    resume(ledger, "money", "ada", "done")

    assert 200 <= ((find_operation(ledger, "W2").deadline_at or 0) - before) / 1000 < 215
    assert 200 <= external_wait_s(ledger, "W2") < 215
    assert names_of(claim_due(ledger)) == ["W2"]


def test_what_becomes_due_during_a_pause_by_a_persons_decision_is_due_from_then_on(
    ledger: Ledger, clock: LedgerClock
) -> None:
    record_operations(ledger, "W2")
    make_wait(ledger, claim_one(ledger), due_in_s=4000)
    pause(ledger, "money", "ada", "incident")
    clock.advance(100)

    assert poll_now(ledger, "fees.process:W2", "ann")
    clock.advance(100)
    resume(ledger, "money", "ada", "done")

    assert 100 <= external_wait_s(ledger, "W2") < 115
    assert names_of(claim_due(ledger)) == ["W2"]


def test_a_pause_is_not_added_to_the_time_pending_at_the_destination(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    make_wait(ledger, claim_one(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=1)
    clock.advance(10)
    pause(ledger, "money", "ada", "upgrade")
    clock.advance(60)
    resume(ledger, "money", "ada", "done")

    claim_due(ledger)

    assert 70 <= external_wait_s(ledger) < 85


@pytest.mark.parametrize("first", ["money", "all"])
@pytest.mark.parametrize("resumed_first", ["money", "all"])
def test_the_time_of_two_overlapping_pauses_is_counted_once(
    ledger: Ledger, clock: LedgerClock, first: str, resumed_first: str
) -> None:
    record_operations(ledger, "W1")
    second = "all" if first == "money" else "money"
    resumed_second = "all" if resumed_first == "money" else "money"
    pause(ledger, first, "ada", "upgrade")
    clock.advance(100)
    pause(ledger, second, "ada", "incident")
    clock.advance(100)
    resume(ledger, resumed_first, "ada", "done")
    clock.advance(100)
    resume(ledger, resumed_second, "ada", "done")
    clock.advance(100)
    claim_due(ledger)

    assert 300 <= external_wait_s(ledger) < 330


@pytest.mark.parametrize(("first", "second"), [("money", "money"), ("all", "money"), ("money", "all")])
def test_two_people_who_resume_at_once_count_a_pause_once(
    ledger: Ledger, open_again: Callable[[], Ledger], clock: LedgerClock, first: str, second: str, database: str
) -> None:
    record_operations(ledger, "W1")
    for lane in {first, second}:
        pause(ledger, lane, "ada", "upgrade")
    clock.advance(60)
    other, answers = open_again(), list[bool]()
    with ledger.writing() as connection:
        assert resume_within(connection, first, "ada", "done")
        thread = Thread(target=lambda: answers.append(resume(other, second, "bob", "done")))
        thread.start()
        if database == "postgresql":  # SQLite has one writer at a time, so nobody reads the flags before the first ends
            until(lambda: is_waiting_for_a_lock(ledger))
    thread.join(20)

    assert answers == [first != second]
    assert 60 <= external_wait_s(ledger) < 75
