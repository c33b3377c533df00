"""Claims: handed out once, lost by whoever dies, never taken from whoever renews."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.ledger.actors import Clock, look, names, postpone, put, succeed, take, take_one
from worker.ledger import LEASE_S, Ledger, attempts_of, cancel, claim, pause, renew_leases, resume, return_unsent
from worker.operation import State, WaitReason


def test_a_claim_holds_what_is_due_oldest_first(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "W1", "W2")
    clock.passes(1)
    put(ledger, "W3")

    first = take(ledger, limit=2)
    second = take(ledger, limit=2)

    assert (names(first), names(second)) == (["W1", "W2"], ["W3"])
    assert look(ledger, "W1").state == State.RUNNING


def test_a_claim_takes_its_own_lane_only(ledger: Ledger) -> None:
    put(ledger, "W1", lane="bulk")

    assert take(ledger) == []
    assert names(take(ledger, lane="bulk")) == ["W1"]


def test_many_claimants_never_share_an_operation(ledger: Ledger, reopen: Callable[[], Ledger]) -> None:
    everything = [f"W{number}" for number in range(200)]
    put(ledger, *everything)
    claimants = [reopen() for _ in range(4)]

    def work(number: int) -> list[str]:
        mine: list[str] = []
        while held := take(claimants[number], owner=f"worker {number}", limit=7):
            mine += names(held)
            succeed(claimants[number], *held)
        return mine

    with ThreadPoolExecutor(4) as crowd:
        taken = [name for mine in crowd.map(work, range(4)) for name in mine]

    assert sorted(taken) == sorted(everything)


def test_what_is_to_be_sent_goes_before_what_is_to_be_asked_again(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "asked")
    postpone(ledger, *take(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, seconds=1)
    clock.passes(60)
    put(ledger, "new")

    assert names(take(ledger)) == ["new", "asked"]


def test_a_claim_tells_what_happened_before(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "W1", time_allowed_s=100.0)
    first = take_one(ledger)
    postpone(ledger, first, wait_reason=WaitReason.PENDING_AT_B2COPY, seconds=2.5)
    clock.passes(3)

    second = take_one(ledger)

    assert (first.fence, first.polls, first.sent, first.wait_reason) == (1, 0, False, None)
    assert (second.fence, second.polls, second.sent, second.wait_reason) == (2, 1, True, WaitReason.PENDING_AT_B2COPY)
    assert second.waited == 2.5
    assert second.deadline is not None
    assert 90 < second.deadline - time.monotonic() < 97.5
    assert not second.overdue


def test_a_claim_tells_when_its_deadline_has_passed(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "W1", time_allowed_s=100.0)
    clock.passes(101)

    assert take_one(ledger).overdue


def test_a_lease_is_counted_from_before_it_was_asked_for(ledger: Ledger) -> None:
    put(ledger, "W1")
    before = time.monotonic()

    held = take_one(ledger)

    assert before + LEASE_S <= held.lease_until <= time.monotonic() + LEASE_S
    assert 0 < held.lease_left <= LEASE_S


def test_a_lapsed_lease_is_an_unknown_outcome_for_the_next_holder(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "W1")
    take(ledger, "worker 1")
    clock.passes(LEASE_S - 1)
    assert take(ledger, "worker 2") == [], "taken from its holder"

    clock.passes(1.1)
    held = take_one(ledger, "worker 2")

    assert (held.outcome_unknown, held.sent, held.fence) == (True, True, 2)
    [lapsed] = attempts_of(ledger, held.id)
    assert (lapsed.outcome, lapsed.worker) == ("lease lapsed", "worker 1")
    assert lapsed.duration_ms >= LEASE_S * 1000


def test_a_renewed_lease_does_not_lapse(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "W1", "W2")
    held = take(ledger)
    clock.passes(LEASE_S - 1)

    assert renew_leases(ledger, "worker 1", held) == {one.id for one in held}

    clock.passes(LEASE_S - 1)
    assert take(ledger, "worker 2") == []


def test_a_lease_that_lapsed_can_be_renewed_until_somebody_takes_it(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "W1")
    held = take_one(ledger, "worker 1")
    clock.passes(LEASE_S + 1)
    assert renew_leases(ledger, "worker 1", [held]) == {held.id}
    assert take(ledger, "worker 2") == []

    clock.passes(LEASE_S + 1)
    take(ledger, "worker 2")

    assert renew_leases(ledger, "worker 1", [held]) == set()


def test_a_second_claim_by_the_same_owner_does_not_keep_the_first_alive(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "W1")
    first = take_one(ledger)
    clock.passes(LEASE_S + 1)
    second = take_one(ledger)

    assert renew_leases(ledger, "worker 1", [first]) == set()
    assert renew_leases(ledger, "worker 1", [second]) == {second.id}
    assert renew_leases(ledger, "worker 1", []) == set()


def test_what_is_handed_back_unsent_is_as_if_it_had_never_been_claimed(ledger: Ledger) -> None:
    [recorded] = put(ledger, "W1")

    return_unsent(ledger, take(ledger))

    found = look(ledger, "W1")
    assert (found.state, found.sent, found.lease_owner) == (State.QUEUED, False, None)
    assert attempts_of(ledger, recorded.id) == []
    assert take_one(ledger).outcome_unknown is False
    return_unsent(ledger, [])


def test_what_is_handed_back_while_waiting_waits_for_the_same_and_is_due(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "W1")
    postpone(ledger, *take(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY)
    clock.passes(60)

    return_unsent(ledger, take(ledger))

    assert (look(ledger, "W1").state, look(ledger, "W1").wait_reason) == (State.WAITING, WaitReason.PENDING_AT_B2COPY)
    assert names(take(ledger)) == ["W1"]


def test_handing_back_a_lapsed_operation_leaves_its_outcome_unknown(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "W1")
    take(ledger, "worker 1")
    clock.passes(LEASE_S + 1)

    return_unsent(ledger, take(ledger, "worker 2"))

    assert take_one(ledger, "worker 3").outcome_unknown


def test_only_the_holder_can_hand_back(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "W1")
    lost = take(ledger, "worker 1")
    clock.passes(LEASE_S + 1)
    held = take_one(ledger, "worker 2")

    return_unsent(ledger, lost)

    assert look(ledger, "W1").owner == held.lease_owner


@pytest.mark.parametrize("paused", ["money", "all"])
def test_a_paused_lane_yields_nothing_until_it_is_resumed(ledger: Ledger, paused: str) -> None:
    put(ledger, "W1")
    pause(ledger, paused, "ada", "B2COPY is being upgraded")
    assert take(ledger) == []

    assert resume(ledger, paused, "ada", "it is done")

    assert names(take(ledger)) == ["W1"]
    assert not resume(ledger, paused, "ada", "it is done")


def test_a_pause_stops_its_own_lane_only(ledger: Ledger) -> None:
    put(ledger, "W1")

    pause(ledger, "bulk", "ada", "too many")

    assert names(take(ledger)) == ["W1"]


def test_a_claim_of_nothing_takes_nothing(ledger: Ledger) -> None:
    put(ledger, "W1")

    assert claim(ledger, "money", "worker 1", 0) == []
    assert cancel(ledger, "fees.process:W1", "ada", "nothing was sent").state == State.CANCELLED
