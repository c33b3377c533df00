"""The overview: ages by our clock and by the others', and what is due."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from tests.ledger.databases import on_sqlite
from tests.operations import (
    LedgerClock,
    claim_due,
    fail_operation,
    hold_operation,
    make_wait,
    new_operation,
    record_operations,
    succeed,
    succeed_operation,
)
from worker.flow.retry_policy import BACKOFF_MAX_S
from worker.ledger import LEASE_S, Ledger, cancel, count_due, leave_request, pause, record, try_start_dispatch
from worker.ledger.batches import begin_batch, cancel_batch, pause_batch, resume_batch, sweep
from worker.ledger.due import COUNT_LIMIT, NOTICE_HOLD_MAX_S, read_due, read_late_s
from worker.ledger.operation_lists import OPEN, Filter, list_operations
from worker.ledger.overview import Group, LaneOverview, oldest_open, overview
from worker.ledger.pauses import resume
from worker.ledger.statistics import statistics_of
from worker.operation import FailureReason, State, WaitReason
from worker.webhook.endpoint import RETRY_AFTER_MAX_S


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
    assert ours.age_ms < 40_000
    assert theirs.age_ms >= 3_600_000


def test_a_pause_is_not_ours_either_for_what_a_lost_worker_held(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    claim_due(ledger)
    clock.advance(LEASE_S + 1)
    pause(ledger, "money", "ann", "a quiet hour")
    clock.advance(3600)

    assert (lane(ledger).oldest_s or 0) < 100


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


def test_what_is_pending_waits_for_us_until_it_was_sent_and_when_it_cannot_be_polled(
    ledger: Ledger, clock: LedgerClock
) -> None:
    record_operations(ledger, "W1")
    clock.advance(150)
    ours, theirs = oldest_open(ledger, "money")
    assert ours is not None
    assert (ours.key, theirs) == ("fees.process:W1", None)
    assert 150_000 <= ours.age_ms < 180_000
    assert 150 <= (lane(ledger).oldest_s or 0) < 180
    late = Filter(OPEN, lane="money", age_ms=120_000)
    assert [one.key for one in list_operations(ledger, late).operations] == ["fees.process:W1"]

    make_wait(ledger, *claim_due(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=300)
    clock.advance(301)
    for is_polled in (False, True):
        polled = claim_due(ledger) if is_polled else []

        money = lane(ledger)

        assert (len(polled), money.oldest_s) == (is_polled, None)
        assert 451 <= (money.oldest_pending_s or 0) < 480
        assert oldest_open(ledger, "money")[0] is None
        assert list_operations(ledger, late).operations == []

    make_wait(ledger, *polled, wait_reason=WaitReason.CIRCUIT_OPEN, due_in_s=300)
    assert 150 <= (lane(ledger).oldest_s or 0) < 180, "nobody can ask B2COPY"
    assert [one.key for one in list_operations(ledger, late).operations] == ["fees.process:W1"]


def test_a_poll_whose_worker_died_waits_for_us(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    make_wait(ledger, *claim_due(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=0)
    claim_due(ledger)

    clock.advance(LEASE_S + 60)

    assert (lane(ledger).oldest_s or 0) >= 60


def test_what_runs_is_due_once_its_lease_has_lapsed(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    claim_due(ledger)
    assert lane(ledger).late_s is None

    clock.advance(LEASE_S + 60)

    assert (lane(ledger).late_s or 0) >= 60
    assert count_due(ledger)["money"] == 1


def test_overview_statistics_and_claims_mean_the_same_by_due(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1", "W2", "W3")
    claim_due(ledger)
    record_operations(ledger, "B1", lane="bulk")
    pause(ledger, "bulk", "ann", "a quiet hour")
    clock.advance(LEASE_S + 60)
    record_operations(ledger, "W4")

    found = statistics_of(overview(ledger))

    assert found.due == count_due(ledger)
    assert (found.due["money"], found.due["bulk"]) == (4, 0)
    assert found.late_s["money"] >= 60


def record_late(ledger: Ledger, clock: LedgerClock, count: int, lane: str = "bulk", **fields: Any) -> None:
    """Record operations that have been due for two minutes."""
    record_operations(ledger, *(f"{lane}{number}" for number in range(count)), lane=lane, **fields)
    clock.advance(120)


def late_s(ledger: Ledger, name: str = "bulk") -> float:
    """Return for how long nobody has worked on a lane; overview and the minutes must agree."""
    found = lane(ledger, name).late_s or 0.0
    with ledger.reading() as connection:
        of_minutes = read_late_s(connection, {each: due.oldest_s for each, due in read_due(connection).items()})
    assert of_minutes[name] == pytest.approx(found, abs=5)
    return found


def test_nobody_is_late_with_a_backlog_while_something_is_claimed(ledger: Ledger, clock: LedgerClock) -> None:
    record_late(ledger, clock, 200)
    untouched = late_s(ledger)

    claim_due(ledger, limit=5, lane="bulk")

    assert 120 <= untouched < 150
    assert late_s(ledger) < 5
    assert lane(ledger).late_s is None


@pytest.mark.parametrize(
    "end",
    [
        succeed,
        partial(make_wait, wait_reason=WaitReason.BACKOFF, due_in_s=1),
        partial(make_wait, wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=60),
    ],
)
def test_a_lane_is_late_from_its_last_result_on(end: Callable[..., object], ledger: Ledger, clock: LedgerClock) -> None:
    record_late(ledger, clock, 20)
    end(ledger, *claim_due(ledger, limit=5, lane="bulk"))

    assert late_s(ledger) < 5

    clock.advance(40)
    assert 40 <= late_s(ledger) < 60


def test_a_cancelled_operation_was_not_worked_on(ledger: Ledger, clock: LedgerClock) -> None:
    record_late(ledger, clock, 2)
    cancel(ledger, "fees.process:bulk0", "ada", "not wanted")

    assert late_s(ledger) >= 120


def test_a_lane_is_not_late_while_the_backlog_of_the_money_lane_is_sent(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "N1", lane="notify", kind="crm.notify")
    record_operations(ledger, "W1", "W2")
    record_late(ledger, clock, 2)
    claim_due(ledger, limit=1)

    assert late_s(ledger) < 5  # the lane money may take all permits
    assert late_s(ledger, "notify") >= 120  # another destination

    succeed(ledger, *claim_due(ledger))
    assert late_s(ledger) >= 120, "the lane money has nothing due: it keeps nobody from working here"


@pytest.mark.parametrize("name", ["money", "default"])
def test_a_lane_that_nobody_serves_is_late_beside_an_import(name: str, ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "B1", "B2", "B3", lane="bulk")
    record_late(ledger, clock, 2, name)

    claim_due(ledger, limit=1, lane="bulk")

    assert late_s(ledger, name) >= 120
    assert late_s(ledger) < 5


def test_while_a_429_holds_the_destination_no_lane_of_it_is_late(ledger: Ledger, clock: LedgerClock) -> None:
    record_late(ledger, clock, 2, "default")
    make_wait(ledger, hold_operation(ledger, "W1"), wait_reason=WaitReason.RATE_LIMITED, due_in_s=3600)
    clock.advance(600)
    held = late_s(ledger, "default")
    clock.advance(3600)

    assert held == 0
    assert late_s(ledger, "default") >= 3600


def test_a_wait_for_a_permit_of_our_own_rate_limit_excuses_no_lane_that_nobody_serves(
    ledger: Ledger, clock: LedgerClock
) -> None:
    """As while an import uses up the rate limit, and no worker reads the queue of the lane `default`."""
    record_late(ledger, clock, 2, "default")
    refused = hold_operation(ledger, "B1", lane="bulk")
    make_wait(ledger, refused, wait_reason=WaitReason.RATE_LIMITED, due_in_s=BACKOFF_MAX_S, sent=False)

    assert late_s(ledger, "default") >= 120


def test_a_notice_that_was_asked_to_wait_does_not_excuse_the_lane_of_notices(
    ledger: Ledger, clock: LedgerClock
) -> None:
    get_429(ledger, "N1", 7200)
    record_operations(ledger, "N2", **NOTICE)

    clock.advance(60)

    assert (lane(ledger, "notify").late_s or 0) >= 60


NOTICE: dict[str, Any] = {"lane": "notify", "kind": "crm.notify", "destination": "crm"}


def get_429(ledger: Ledger, name: str, due_in_s: float) -> None:
    """Record a notice, and have it wait after a 429 of the CRM."""
    held = hold_operation(ledger, name, **NOTICE)
    make_wait(ledger, held, wait_reason=WaitReason.RATE_LIMITED, due_in_s=due_in_s)


@pytest.mark.parametrize("others", [(), (900,), (7200,)], ids=["alone", "one waits longer", "one waits much longer"])
def test_while_a_429_of_the_crm_holds_its_notices_their_lane_is_not_late(
    ledger: Ledger, clock: LedgerClock, others: tuple[int, ...]
) -> None:
    get_429(ledger, "N1", 300)
    for due_in_s in others:  # by a schedule of its own
        get_429(ledger, f"N{due_in_s}", due_in_s)
    record_operations(ledger, "N2", **NOTICE)

    clock.advance(120)
    assert late_s(ledger, "notify") == 0

    clock.advance(280)
    assert 100 <= late_s(ledger, "notify") < 130


def test_a_crm_that_answers_429_again_holds_its_notices_again(ledger: Ledger, clock: LedgerClock) -> None:
    get_429(ledger, "N1", 300)
    clock.advance(301)
    get_429(ledger, "N2", 300)  # before N1 was claimed

    clock.advance(120)

    assert late_s(ledger, "notify") == 0


def test_neither_another_wait_nor_a_429_of_b2copy_holds_notices(ledger: Ledger, clock: LedgerClock) -> None:
    make_wait(ledger, hold_operation(ledger, "N1", **NOTICE), wait_reason=WaitReason.BACKOFF, due_in_s=300)
    make_wait(ledger, hold_operation(ledger, "W1"), wait_reason=WaitReason.RATE_LIMITED, due_in_s=300)
    record_operations(ledger, "N2", **NOTICE)

    clock.advance(120)

    assert late_s(ledger, "notify") >= 120


def test_a_429_of_the_crm_holds_its_notices_for_as_long_as_the_webhook_allows(
    ledger: Ledger, clock: LedgerClock
) -> None:
    assert NOTICE_HOLD_MAX_S == RETRY_AFTER_MAX_S
    get_429(ledger, "N1", NOTICE_HOLD_MAX_S)
    record_operations(ledger, "N2", **NOTICE)

    clock.advance(NOTICE_HOLD_MAX_S - 100)

    assert late_s(ledger, "notify") == 0


def test_it_says_for_how_long_b2copy_has_asked_us_to_send_nothing(ledger: Ledger, clock: LedgerClock) -> None:
    def wait_for_429(name: str, due_in_s: float, *, sent: bool = True, **fields: Any) -> None:
        held = hold_operation(ledger, name, **fields)
        make_wait(ledger, held, wait_reason=WaitReason.RATE_LIMITED, due_in_s=due_in_s, sent=sent)

    make_wait(ledger, hold_operation(ledger, "other"), wait_reason=WaitReason.NO_ACCESS, due_in_s=900)
    wait_for_429("N1", 7200, lane="notify", kind="crm.notify", destination="crm")  # a notice has a schedule of its own
    wait_for_429("B1", 600, sent=False, lane="bulk", batch="book")
    pause_batch(ledger, "book", "ada", "wrong file?")
    sweep(ledger, 1.0)
    assert overview(ledger).held_s == 0

    wait_for_429("W1", 1800)
    wait_for_429("W2", 3600)
    wait_for_429("W3", 10)
    assert overview(ledger).held_s == pytest.approx(3600, abs=30)

    clock.advance(3700)
    assert overview(ledger).held_s == 0


def test_an_instant_of_the_future_hides_nothing(ledger: Ledger, clock: LedgerClock) -> None:
    record_late(ledger, clock, 3)
    succeed(ledger, *claim_due(ledger, limit=1, lane="bulk"))
    make_wait(ledger, *claim_due(ledger, limit=1, lane="bulk"), due_in_s=900)
    with ledger.writing() as connection:  # the database's clock was set back
        connection.execute(text("UPDATE b2copy_operations SET ended_at = ended_at + 900000"))
        connection.execute(text("UPDATE b2copy_operations SET state_since = state_since + 900000"))

    assert late_s(ledger) >= 120


@on_sqlite
def test_a_backlog_that_is_due_first_hides_nothing_that_waits(ledger: Ledger) -> None:
    make_wait(ledger, hold_operation(ledger, "W0"), wait_reason=WaitReason.NO_ACCESS, due_in_s=900)
    record_operations(ledger, *(f"W{number}" for number in range(1, COUNT_LIMIT + 2)))

    found = overview(ledger)

    assert statistics_of(found).waiting == {WaitReason.NO_ACCESS: 1}
    assert lane(ledger).capped


@pytest.mark.parametrize("newer", [FailureReason.REJECTED, FailureReason.UNRESOLVED])
def test_newer_failures_hide_none_of_another_lane_kind_or_reason(newer: FailureReason, ledger: Ledger) -> None:
    fail_operation(ledger, "W0", FailureReason.UNRESOLVED)
    fail_operation(ledger, "N0", FailureReason.EXHAUSTED, lane="notify", kind="crm.notify")
    fail_operation(ledger, "F0", "fee_error", lane="bulk")
    record_operations(ledger, *(f"B{number}" for number in range(COUNT_LIMIT + 1)), lane="bulk", kind="call")
    with ledger.writing() as connection:
        connection.execute(
            text("UPDATE b2copy_operations SET state = 'failed', failure_reason = :newer, due_at = NULL"
                 " WHERE state = 'queued'"), {"newer": newer},
        )  # fmt: skip

    found = overview(ledger)

    assert set(found.failed) == {
        Group("money", "fees.process", State.FAILED, "unresolved", 1),
        Group("notify", "crm.notify", State.FAILED, "exhausted", 1),
        Group("bulk", "fees.process", State.FAILED, "fee_error", 1),
        Group("bulk", "call", State.FAILED, newer, COUNT_LIMIT),
    }
    assert sum(statistics_of(found).failed.values()) == COUNT_LIMIT + 3


def test_failures_of_any_number_of_kinds_cost_no_more_and_hide_no_unresolved_one(ledger: Ledger) -> None:
    # A row of `b2copy_requests` may hold any text as its kind.
    record(ledger, [new_operation(kind=f"invented {number}") for number in range(1_001)], "a test")
    with ledger.writing() as connection:
        connection.execute(
            text("UPDATE b2copy_operations SET state = 'failed', failure_reason = 'bad_payload', due_at = NULL")
        )
    fail_operation(ledger, "W1", FailureReason.UNRESOLVED)

    found = overview(ledger).failed

    assert len(found) == 1_000
    assert Group("money", "fees.process", State.FAILED, "unresolved", 1) in found


def test_it_says_how_long_ago_what_must_not_take_long_began(ledger: Ledger) -> None:
    empty = overview(ledger)
    assert (empty.dispatch_age_s, empty.requests_age_s, empty.batch_paused_s) == (None, None, None)

    leave_request(ledger, "fees.process", "{}", "crm", None)
    leave_request(ledger, "fees.process", "{}", "crm", None)
    for batch in ("first", "second", "cancelled", "resumed"):
        begin_batch(ledger, batch, kind="fees.process", lane="bulk", source="f", rows=1, by="ada")
        pause_batch(ledger, batch, "ada", "wrong?")
    cancel_batch(ledger, "cancelled", "ada", "wrong")
    resume_batch(ledger, "resumed", "ada", "right")
    try_start_dispatch(ledger)
    with ledger.writing() as connection:
        for earlier in (
            "b2copy_ledger SET dispatched_at = dispatched_at - 200000",
            "b2copy_requests SET requested_at = requested_at - 300000 * id",
            "b2copy_batches SET decided_at = decided_at - 500000",
            "b2copy_batches SET decided_at = decided_at - 100000 WHERE id <> 'second'",
            "b2copy_batches SET decided_at = decided_at - 100000 WHERE decision IS NULL OR decision <> 'paused'",
        ):
            connection.execute(text(f"UPDATE {earlier}"))
        requests = connection.execute(text("SELECT max(id) FROM b2copy_requests")).scalar_one()

    found = overview(ledger)

    assert 200 <= (found.dispatch_age_s or 0) < 260
    assert 300 * requests <= (found.requests_age_s or 0) < 300 * requests + 60
    assert 600 <= (found.batch_paused_s or 0) < 660

    with ledger.writing() as connection:  # the database's clock was set back
        connection.execute(text("UPDATE b2copy_ledger SET dispatched_at = dispatched_at + 900000"))
        connection.execute(text("UPDATE b2copy_requests SET requested_at = requested_at + 90000000"))
        connection.execute(text("UPDATE b2copy_batches SET decided_at = decided_at + 9000000"))
    ahead = overview(ledger)
    assert (ahead.dispatch_age_s, ahead.requests_age_s, ahead.batch_paused_s) == (0.0, 0.0, 0.0)


def test_it_counts_by_state_and_reason_what_is_open_what_failed_and_what_ended_just_now(ledger: Ledger) -> None:
    record_operations(ledger, "queued 1", "queued 2", lane="bulk")
    for name in ("no access 1", "no access 2"):
        make_wait(ledger, hold_operation(ledger, name), wait_reason=WaitReason.NO_ACCESS, due_in_s=900)
    pending = hold_operation(ledger, "pending")
    make_wait(ledger, pending, wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=900)
    succeed_operation(ledger, "done")
    fail_operation(ledger, "failed")
    succeed_operation(ledger, "done long ago")
    fail_operation(ledger, "failed long ago")
    hold_operation(ledger, "running")
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_operations SET ended_at = ended_at - 400000 WHERE key LIKE '%long ago'"))

    found = overview(ledger)

    kind = "fees.process"
    assert set(found.open) == {
        Group("bulk", kind, "queued", "", 2),
        Group("money", kind, "waiting", "no_access", 2),
        Group("money", kind, "waiting", "pending_at_b2copy", 1),
        Group("money", kind, "running", "", 1),
    }
    assert found.failed == [Group("money", kind, State.FAILED, "rejected", 2)]
    assert set(found.ended) == {
        Group("money", kind, "succeeded", "", 1), Group("money", kind, "failed", "rejected", 1)
    }  # fmt: skip
    assert {one.lane: one.open for one in found.lanes} == {"money": 4, "default": 0, "bulk": 2, "notify": 0}
    money = lane(ledger)
    assert (money.due, money.capped) == (0, False)
    assert money.oldest_pending_s is not None
    assert lane(ledger, "bulk").oldest_pending_s is None
    assert lane(ledger, "notify").oldest_s is None


def test_the_time_of_a_paused_import_is_not_ours_while_it_runs_and_after_it(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1", batch="book")
    pause_batch(ledger, "book", "ada", "wrong file?")
    sweep(ledger, 1.0)
    clock.advance(300)

    assert (overview(ledger).lanes[0].oldest_s or 0) < 10

    resume_batch(ledger, "book", "ada", "right file")
    sweep(ledger, 1.0)
    assert (overview(ledger).lanes[0].oldest_s or 0) < 10


@on_sqlite  # PostgreSQL takes whole numbers alone
def test_a_row_whose_instant_is_none_stops_no_overview(ledger: Ledger) -> None:
    try_start_dispatch(ledger)
    with ledger.writing() as connection:
        connection.execute(
            text("INSERT INTO b2copy_requests (kind, payload, requested_at) VALUES ('call', '{}', '2026-11-27 10:00')")
        )

    age_s = overview(ledger).requests_age_s
    assert age_s is not None
    assert 0 <= age_s < 10
