"""Dispatch: one in the whole fleet, counting what may be claimed now."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from tests.ledger.actors import Clock, names, postpone, put, take
from worker.ledger import LEASE_S, Ledger, count_due, count_waiting, make_due, pause, try_start_dispatch
from worker.operation import WaitReason


def test_one_of_a_fleet_dispatches(ledger: Ledger, reopen: Callable[[], Ledger]) -> None:
    fleet = [reopen() for _ in range(6)]

    with ThreadPoolExecutor(6) as crowd:
        turns = list(crowd.map(lambda one: try_start_dispatch(one, every=60), fleet))

    assert sum(turns) == 1


@pytest.mark.parametrize("seconds", [-2, 3600], ids=["a turn later", "the clock was set back an hour"])
def test_the_next_turn_comes(ledger: Ledger, seconds: int) -> None:
    assert try_start_dispatch(ledger)
    with ledger.writing() as connection:
        connection.execute(text(f"UPDATE b2copy_ledger SET dispatched_at = dispatched_at + {seconds * 1000}"))

    assert try_start_dispatch(ledger)
    assert not try_start_dispatch(ledger)


def test_due_counts_what_may_be_claimed_now(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "lapsed")
    take(ledger)
    clock.passes(LEASE_S + 1)
    put(ledger, "held", lane="default")
    take(ledger, lane="default")
    put(ledger, "asked", lane="bulk")
    postpone(ledger, *take(ledger, lane="bulk"), wait_reason=WaitReason.PENDING_AT_B2COPY, seconds=1)
    clock.passes(2)
    put(ledger, "new", "newer", lane="bulk")

    assert count_due(ledger) == {"money": 1, "default": 0, "bulk": 3}


def test_a_paused_lane_has_nothing_due(ledger: Ledger) -> None:
    put(ledger, "W1")
    put(ledger, "W2", lane="bulk")

    pause(ledger, "bulk", "ada", "not now")

    assert count_due(ledger) == {"money": 1, "default": 0, "bulk": 0}


def test_release_makes_due_what_waited_for_one_reason(ledger: Ledger) -> None:
    put(ledger, "breaker", "busy")
    first, second = take(ledger)
    postpone(ledger, first, wait_reason=WaitReason.CIRCUIT_OPEN)
    postpone(ledger, second, wait_reason=WaitReason.RATE_LIMITED)

    assert make_due(ledger, WaitReason.CIRCUIT_OPEN) == 1

    assert names(take(ledger)) == ["breaker"]
    assert make_due(ledger, WaitReason.CIRCUIT_OPEN) == 0


def test_the_backlog_counts_what_waits_for_one_reason(ledger: Ledger) -> None:
    put(ledger, "W1", "W2", "W3")
    first, second, third = take(ledger)
    postpone(ledger, first, second, wait_reason=WaitReason.PENDING_AT_B2COPY)
    postpone(ledger, third)

    assert count_waiting(ledger, WaitReason.PENDING_AT_B2COPY) == 2
