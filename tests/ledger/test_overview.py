"""The overview: ages by our clock and by the others', and what is due."""

from tests.ledger.databases import on_sqlite
from tests.operations import LedgerClock, claim_due, hold_operation, make_wait, record_operations
from worker.ledger import LEASE_S, Ledger, count_due, pause, resume
from worker.ledger.due import COUNT_LIMIT
from worker.ledger.overview import LaneOverview, oldest_open, overview
from worker.ledger.statistics import statistics, statistics_of
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


def test_overview_statistics_and_claims_mean_the_same_by_due(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1", "W2", "W3")
    claim_due(ledger)
    record_operations(ledger, "B1", lane="bulk")
    pause(ledger, "bulk", "ann", "a quiet hour")
    clock.advance(LEASE_S + 60)
    record_operations(ledger, "W4")

    found = statistics(ledger)

    assert found.due == count_due(ledger) == {one.lane: one.due for one in overview(ledger).lanes}
    assert (found.due["money"], found.due["bulk"]) == (4, 0)
    assert found.late_s["money"] >= 60


@on_sqlite
def test_a_backlog_that_is_due_first_hides_nothing_that_waits(ledger: Ledger) -> None:
    make_wait(ledger, hold_operation(ledger, "W0"), wait_reason=WaitReason.NO_ACCESS, due_in_s=900)
    record_operations(ledger, *(f"W{number}" for number in range(1, COUNT_LIMIT + 2)))

    found = overview(ledger)

    assert statistics_of(found).waiting == {WaitReason.NO_ACCESS: 1}
    assert lane(ledger).capped
