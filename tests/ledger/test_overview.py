"""The overview: ages by our clock and by the others', and what is due."""

from tests.operations import LedgerClock, claim_due, hold_operation, make_wait, record_operations
from worker.ledger import LEASE_S, Ledger, count_due, pause, resume
from worker.ledger.overview import LaneOverview, oldest_open, overview
from worker.operation import WaitReason


def lane(ledger: Ledger, name: str = "money") -> LaneOverview:
    return next(one for one in overview(ledger).lanes if one.lane == name)


def test_the_time_of_a_pause_is_not_ours_while_it_runs_and_after_it(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    clock.advance(30)
    pause(ledger, "money", "ann", "a quiet hour")
    clock.advance(3600)

    during = lane(ledger).oldest_s
    ours, theirs = oldest_open(ledger, "money")
    resume(ledger, "money", "ann", "it is over")
    after = lane(ledger).oldest_s

    assert abs((during or 0) - (after or 0)) < 5
    assert 30 <= (during or 0) < 40
    assert ours is not None
    assert theirs is not None
    assert ours.our_ms < 40_000
    assert theirs.their_ms >= 3_600_000


def test_a_pause_of_all_and_of_one_lane_count_once(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    pause(ledger, "all", "ann", "first")
    clock.advance(100)
    pause(ledger, "money", "ann", "second")
    clock.advance(100)
    resume(ledger, "all", "ann", "the first is over")
    clock.advance(100)

    assert (lane(ledger).oldest_s or 0) < 10


def test_a_pause_concerns_only_what_is_due_in_its_lane(ledger: Ledger, clock: LedgerClock) -> None:
    make_wait(ledger, hold_operation(ledger, "W1"), wait_reason=WaitReason.BACKOFF, due_in_s=500)
    record_operations(ledger, "W2", lane="bulk")
    pause(ledger, "money", "ann", "a quiet hour")
    clock.advance(200)

    assert (lane(ledger).oldest_s or 0) >= 200
    assert (lane(ledger, "bulk").oldest_s or 0) >= 200


def test_what_runs_is_due_once_its_lease_has_lapsed(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    claim_due(ledger)
    assert lane(ledger).oldest_due_s is None

    clock.advance(LEASE_S + 60)

    assert (lane(ledger).oldest_due_s or 0) >= 60
    assert count_due(ledger)["money"] == 1
