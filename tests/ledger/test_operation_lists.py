"""Lists of operations: filtered, page by page, nothing skipped, at a bounded cost."""

from dataclasses import replace

import pytest
from sqlalchemy import text

from tests.operations import (
    LedgerClock,
    claim_named,
    fail_operation,
    hold_operation,
    make_wait,
    record_operations,
    succeed,
    succeed_operation,
)
from worker.ledger import Ledger, operation_lists, pause
from worker.ledger.operation_lists import OPEN, Count, Filter, Page, count_operations, list_operations
from worker.ledger.overview import oldest_open
from worker.ledger.pauses import resume
from worker.ledger.queries import find_by_ids
from worker.operation import FailureReason, State, WaitReason

FAILED = (State.FAILED,)


def names(ledger: Ledger, wanted: Filter, **page: int) -> list[str]:
    return [one.key.partition(":")[2] for one in list_operations(ledger, wanted, **page).operations]


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    fail_operation(ledger, "F1", payload={"account_login": "1007", "request_id": "F1"})
    fail_operation(ledger, "F2", failure_reason=FailureReason.UNRESOLVED, batch="monday")
    succeed_operation(ledger, "S1", lane="bulk")
    make_wait(ledger, hold_operation(ledger, "P1"), wait_reason=WaitReason.PENDING_AT_B2COPY)
    record_operations(ledger, "Q1", "Q2", lane="default", entity="100_7", batch="monday")
    return ledger


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(), ["Q2", "Q1", "P1", "S1", "F2", "F1"]),
        (Filter(oldest_first=True), ["F1", "F2", "S1", "P1", "Q1", "Q2"]),
        (Filter(FAILED), ["F2", "F1"]),
        (Filter(FAILED, reason="unresolved"), ["F2"]),
        (Filter(FAILED, without_reasons=("unresolved",)), ["F1"]),
        (Filter(OPEN, without_reasons=("pending_at_b2copy",)), ["Q2", "Q1"]),
        (Filter(OPEN), ["Q2", "Q1", "P1"]),
        (Filter(OPEN, lane="money"), ["P1"]),
        (Filter((State.WAITING,), reason="pending_at_b2copy"), ["P1"]),
        (Filter((State.SUCCEEDED,)), ["S1"]),
        (Filter(batch="monday"), ["Q2", "Q1", "F2"]),
        (Filter(FAILED, batch="monday"), ["F2"]),
        (Filter(account="1007"), ["F1"]),
        (Filter(account="100_7"), ["Q2", "Q1"]),
        (Filter(account="100"), []),
        (Filter(account="%"), []),
        (Filter(request_id="F1"), ["F1"]),
        (Filter(request_id="Q1"), ["Q1"]),
        (Filter(request_id="1007"), []),
        (Filter(request_id="F_"), []),
        (Filter(kind="call"), []),
        (Filter(older_ms=60_000), []),
        (Filter(newer_ms=60_000, lane="bulk"), ["S1"]),
    ],
)
def test_a_filter_chooses(filled: Ledger, wanted: Filter, found: list[str]) -> None:
    assert names(filled, wanted) == found
    assert count_operations(filled, wanted) == (len(found), True)
    assert list_operations(filled, wanted).count in (None, (len(found), True))


@pytest.mark.parametrize("states", [(), FAILED, OPEN])
@pytest.mark.parametrize("oldest_first", [True, False])
def test_pages_skip_nothing_and_repeat_nothing(ledger: Ledger, states: tuple[State, ...], oldest_first: bool) -> None:
    for number in range(7):
        fail_operation(ledger, f"F{number}")
    record_operations(ledger, *(f"Q{number}" for number in range(7)))
    wanted = Filter(states, oldest_first=oldest_first)
    seen: list[int] = []
    after = None
    while True:
        page = list_operations(ledger, wanted, after, limit=3)
        seen += [one.id for one in page.operations]
        after = page.next
        if after is None:
            break

    assert seen == sorted(set(seen), reverse=not oldest_first)
    assert len(seen) == (7 if states else 14)


def test_an_account_or_a_request_id_is_found_in_the_payload_as_a_whole(ledger: Ledger) -> None:
    payloads = {
        "plain": {"account_login": "7", "request_id": "R: 1"},
        "longer": {"account_login": "77", "request_id": "R: 12"},
        "other field": {"account_login": "7x", "old_request_id": "R: 1"},
        "any text": {"account_login": "Zoë", "request_id": "Überweisung"},
    }
    for name, payload in payloads.items():
        record_operations(ledger, name, payload=payload)

    assert names(ledger, Filter(request_id="R: 1")) == ["plain"]
    assert names(ledger, Filter(request_id="Überweisung")) == ["any text"]
    assert names(ledger, Filter(account="7")) == ["plain"]
    assert names(ledger, Filter(account="Zoë")) == ["any text"]


def test_since_includes_its_instant_and_until_does_not(filled: Ledger) -> None:
    for ms, key in enumerate(("F1", "F2", "S1"), 1000):
        with filled.writing() as connection:
            connection.execute(
                text(f"UPDATE b2copy_operations SET state_since = {ms} WHERE key = 'fees.process:{key}'")
            )

    assert names(filled, Filter(since_at=1001, until_at=1002)) == ["F2"]
    assert names(filled, Filter(newer_ms=60_000, until_at=4_000_000_000_000)) == ["Q2", "Q1", "P1"]
    assert names(filled, Filter(older_ms=60_000)) == ["S1", "F2", "F1"]
    assert names(filled, Filter(lane="default", older_ms=-60_000)) == ["Q2", "Q1"]


def test_an_age_is_by_our_clock_and_an_attempt_does_not_end_it(ledger: Ledger, clock: LedgerClock) -> None:
    old = Filter(OPEN, lane="money", age_ms=120_000)
    record_operations(ledger, "retried", "pending", "paused", "ended")
    succeed(ledger, claim_named(ledger, "ended"))
    pending = claim_named(ledger, "pending")
    make_wait(ledger, pending, wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=0.0)
    for _ in range(3):
        make_wait(ledger, claim_named(ledger, "retried"), wait_reason=WaitReason.BACKOFF, due_in_s=0.0)
        pause(ledger, "money", "ann", "a quiet moment")
        clock.advance(30)
        resume(ledger, "money", "ann", "it is over")
        clock.advance(60)
        assert names(ledger, Filter(OPEN, older_ms=120_000, reason="backoff")) == []
    make_wait(ledger, claim_named(ledger, "pending"), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=900)
    record_operations(ledger, "new")

    assert names(ledger, old) == ["paused", "retried"]
    assert count_operations(ledger, old) == (2, True)
    assert names(ledger, replace(old, age_ms=190_000)) == []
    assert names(ledger, Filter(age_ms=120_000)) == ["paused", "retried"]
    assert names(ledger, Filter((State.WAITING,), reason="backoff", age_ms=120_000)) == ["retried"]
    assert names(ledger, Filter((State.SUCCEEDED,), age_ms=120_000)) == []


def test_the_time_of_a_pause_that_lasts_does_not_make_an_operation_older(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    record_operations(ledger, "B1", lane="bulk")
    pause(ledger, "money", "ann", "a quiet hour")
    clock.advance(3600)

    assert names(ledger, Filter(OPEN, age_ms=120_000)) == ["B1"]


@pytest.mark.parametrize("states", [(), FAILED, OPEN])
def test_the_last_page_may_be_full(ledger: Ledger, states: tuple[State, ...]) -> None:
    for number in range(4):
        if State.QUEUED in states:
            record_operations(ledger, f"W{number}")
        else:
            fail_operation(ledger, f"W{number}")
    count = Count(4, True) if states == OPEN else None

    first = list_operations(ledger, Filter(states), limit=2)
    last = list_operations(ledger, Filter(states), first.next, limit=2)
    beyond = list_operations(ledger, Filter(states), last.operations[-1].id, limit=2)

    assert [len(page.operations) for page in (first, last, beyond)] == [2, 2, 0]
    assert first == Page(first.operations, first.operations[-1].id, True, count)
    assert last == Page(last.operations, None, True, count)
    assert beyond == Page([], None, True, None)
    assert list_operations(ledger, Filter(states, kind="call")).count == (Count(0, True) if states == OPEN else None)


def test_a_window_without_a_match_says_where_to_go_on(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation_lists, "WINDOW", 5)
    succeed_operation(ledger, "old", lane="bulk")
    for number in range(8):
        fail_operation(ledger, f"F{number}")
    wanted = Filter(lane="bulk")

    first = list_operations(ledger, wanted)
    assert (first.operations, first.all_seen, count_operations(ledger, wanted)) == ([], False, (0, False))
    second = list_operations(ledger, wanted, first.next)

    assert [one.key for one in second.operations] == ["fees.process:old"]
    assert (second.next, second.all_seen) == (None, True)


def test_operations_are_found_by_their_ids(filled: Ledger) -> None:
    ids = {one.key: one.id for one in list_operations(filled, Filter()).operations}

    found = find_by_ids(filled, [ids["fees.process:F1"], ids["fees.process:S1"], 999])

    assert [one.key for one in found] == ["fees.process:S1", "fees.process:F1"]


def test_a_list_of_open_operations_says_that_its_window_was_cut(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operation_lists, "WINDOW", 5)
    record_operations(ledger, *(f"Q{number}" for number in range(6)))
    wanted = Filter(OPEN, kind="call")

    assert list_operations(ledger, wanted) == Page([], None, False, Count(0, False))
    assert count_operations(ledger, wanted) == (0, False)
    monkeypatch.setattr(operation_lists, "WINDOW", 6)
    assert list_operations(ledger, wanted) == Page([], None, True, Count(0, True))
    assert count_operations(ledger, wanted) == (0, True)


@pytest.mark.parametrize("wanted", [Filter(OPEN), Filter((State.WAITING,), reason=WaitReason.BACKOFF)])
def test_operations_that_have_ended_cut_no_window_of_open_ones(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, wanted: Filter
) -> None:
    monkeypatch.setattr(operation_lists, "WINDOW", 2)
    make_wait(ledger, hold_operation(ledger, "W1"), wait_reason=WaitReason.BACKOFF, due_in_s=900)
    for number in range(3):
        fail_operation(ledger, f"F{number}")

    assert count_operations(ledger, wanted) == (1, True)
    assert list_operations(ledger, wanted).all_seen


def test_the_oldest_is_known_on_both_clocks(ledger: Ledger, clock: LedgerClock) -> None:
    assert oldest_open(ledger, "money") == (None, None)
    record_operations(ledger, "theirs")
    make_wait(ledger, claim_named(ledger, "theirs"), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=900)
    clock.advance(300)
    record_operations(ledger, "newer")
    make_wait(ledger, claim_named(ledger, "newer"), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=900)
    record_operations(ledger, "ours")
    clock.advance(20)
    record_operations(ledger, "later")

    ours, theirs = oldest_open(ledger, "money")

    assert ours is not None
    assert theirs is not None
    assert (ours.key, theirs.key) == ("fees.process:ours", "fees.process:theirs")
    assert 20_000 <= ours.age_ms < 30_000
    assert 320_000 <= theirs.age_ms < 330_000
