"""What is due: counted per lane, made due early, dispatched by one process of the fleet at a time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event, select, text

from tests.ledger.databases import on_postgresql
from tests.operations import LedgerClock, claim_due, claim_named, find_operation, make_wait, names_of, record_operations
from worker.ledger import LEASE_S, Ledger, count_due, count_waiting, make_due, pause, try_start_dispatch
from worker.ledger.batches import pause_batch, sweep
from worker.ledger.operator_actions import poll_now
from worker.ledger.schema import c, now_ms
from worker.operation import WaitReason


def test_one_process_of_a_fleet_dispatches(ledger: Ledger, open_again: Callable[[], Ledger]) -> None:
    fleet = [open_again() for _ in range(6)]

    with ThreadPoolExecutor(6) as threads:
        started = list(threads.map(lambda one: try_start_dispatch(one, every_s=60), fleet))

    assert sum(started) == 1


@on_postgresql
def test_a_process_that_is_frozen_while_it_dispatches_does_not_stop_the_others(
    ledger: Ledger, open_again: Callable[[], Ledger]
) -> None:
    """A frozen process keeps the locks of an open transaction for 30 s."""
    other = open_again()
    tried: list[bool] = []

    def dispatch_before_the_commit(_connection: object) -> None:
        with other.writing() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '1s'"))
            connection.execute(text("UPDATE b2copy_ledger SET dispatched_at = dispatched_at - 60000"))
        tried.append(try_start_dispatch(other))

    event.listen(ledger.engine, "commit", dispatch_before_the_commit)
    assert try_start_dispatch(ledger)

    assert tried == [True]


@pytest.mark.parametrize("seconds", [-2, 3600], ids=["two seconds later", "the database's clock was set back an hour"])
def test_the_next_dispatch_comes(ledger: Ledger, seconds: int) -> None:
    assert try_start_dispatch(ledger)
    with ledger.writing() as connection:
        connection.execute(text(f"UPDATE b2copy_ledger SET dispatched_at = dispatched_at + {seconds * 1000}"))

    assert try_start_dispatch(ledger)
    assert not try_start_dispatch(ledger, every_s=60)


def test_nothing_stands_still_after_the_databases_clock_was_set_back(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "queued", "held", "waits", "polled")
    held, waits, polled = (claim_named(ledger, name) for name in ("held", "waits", "polled"))
    make_wait(ledger, waits, due_in_s=40.0)
    make_wait(ledger, polled, due_in_s=40.0)
    record_operations(ledger, "aside", batch="book")
    pause_batch(ledger, "book", "ada", "not yet")
    sweep(ledger, 10.0)
    assert try_start_dispatch(ledger)
    clock.advance(-3600)
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_ledger SET dispatched_at = dispatched_at + 3600000"))
    poll_now(ledger, polled.key, "ada")  # after the clock was set back, and before the next dispatch

    assert try_start_dispatch(ledger)

    with ledger.reading() as connection:
        found = {row.key: row.left for row in connection.execute(select(c.key, (c.due_at - now_ms()).label("left")))}
    due_in_s = {key.partition(":")[2]: ms / 1000 for key, ms in found.items()}
    assert due_in_s["queued"] <= 0
    assert due_in_s["polled"] <= 0
    assert 0 < due_in_s["held"] <= LEASE_S
    assert 30 < due_in_s["waits"] <= 40
    assert due_in_s["aside"] > 86_400
    assert held.key in found


def test_a_dispatch_leaves_parked_operations_alone_while_the_clock_runs_on(ledger: Ledger) -> None:
    record_operations(ledger, "child", parent="fees.process:none")
    claim_due(ledger)
    parked = find_operation(ledger, "child")

    assert try_start_dispatch(ledger)

    assert parked.wait_reason == WaitReason.BEHIND_PARENT
    assert find_operation(ledger, "child") == parked


def test_count_due_counts_what_may_be_claimed_now(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "lapsed")
    claim_due(ledger)
    clock.advance(LEASE_S + 1)
    record_operations(ledger, "held", lane="default")
    claim_due(ledger, lane="default")
    record_operations(ledger, "pending", lane="bulk")
    make_wait(ledger, *claim_due(ledger, lane="bulk"), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=1)
    clock.advance(2)
    record_operations(ledger, "new", "newer", lane="bulk")

    assert count_due(ledger) == {"money": 1, "default": 0, "bulk": 3, "notify": 0}


def test_a_paused_lane_has_nothing_due(ledger: Ledger) -> None:
    record_operations(ledger, "W1")
    record_operations(ledger, "W2", lane="bulk")

    pause(ledger, "bulk", "ada", "not today")

    assert count_due(ledger) == {"money": 1, "default": 0, "bulk": 0, "notify": 0}


def test_make_due_makes_due_what_waits_for_one_reason(ledger: Ledger) -> None:
    record_operations(ledger, "circuit", "rate")
    first, second = claim_due(ledger)
    make_wait(ledger, first, wait_reason=WaitReason.CIRCUIT_OPEN)
    make_wait(ledger, second, wait_reason=WaitReason.RATE_LIMITED)

    assert make_due(ledger, "b2copy", WaitReason.CIRCUIT_OPEN) == 1

    assert names_of(claim_due(ledger)) == ["circuit"]
    assert make_due(ledger, "b2copy", WaitReason.CIRCUIT_OPEN) == 0


def test_make_due_makes_due_what_waits_for_one_destination(ledger: Ledger) -> None:
    record_operations(ledger, "b2copy")
    record_operations(ledger, "crm", destination="crm")
    make_wait(ledger, *claim_due(ledger), wait_reason=WaitReason.CIRCUIT_OPEN)

    assert make_due(ledger, "crm", WaitReason.CIRCUIT_OPEN) == 1

    assert names_of(claim_due(ledger)) == ["crm"]


def test_count_waiting_counts_what_waits_for_one_reason(ledger: Ledger) -> None:
    record_operations(ledger, "W1", "W2", "W3")
    first, second, third = claim_due(ledger)
    make_wait(ledger, first, second, wait_reason=WaitReason.PENDING_AT_B2COPY)
    make_wait(ledger, third)

    assert count_waiting(ledger, WaitReason.PENDING_AT_B2COPY) == 2
