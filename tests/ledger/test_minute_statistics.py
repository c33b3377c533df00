"""Statistics per minute: what ended, and how each lane stood."""

import pytest
from sqlalchemy import text

from tests.operations import LedgerClock, fail_operation, record_operations, succeed_operation
from worker.ledger import Ledger
from worker.ledger.minute_statistics import DUE, MINUTE_MS, minutes_since, summarize_minutes


def forget_minutes(ledger: Ledger) -> None:
    with ledger.writing() as connection:
        connection.execute(text("DELETE FROM b2copy_minutes"))


def test_a_minute_that_is_over_is_summarized_once(ledger: Ledger) -> None:
    forget_minutes(ledger)
    summarize_minutes(ledger)
    succeed_operation(ledger, "W1")
    succeed_operation(ledger, "W2")
    fail_operation(ledger, "W3")
    with ledger.writing() as connection:
        connection.execute(text(f"UPDATE b2copy_minutes SET minute = minute - {MINUTE_MS}"))
        [last] = connection.execute(text("SELECT max(minute) FROM b2copy_minutes")).one()
        ended_at = last + MINUTE_MS + 10
        connection.execute(text(f"UPDATE b2copy_operations SET ended_at = {ended_at}, requested_at = {ended_at - 500}"))

    assert summarize_minutes(ledger) >= 1
    assert summarize_minutes(ledger) == 0

    ended = [row for row in minutes_since(ledger, 0) if row.outcome != DUE]
    assert {row[1:] for row in ended} == {
        ("money", "fees.process", "succeeded", 2, 1000, 0),
        ("money", "fees.process", "rejected", 1, 500, 0),
    }
    assert {row.minute for row in ended} == {last + MINUTE_MS}


def test_an_end_counts_in_its_own_minute_and_once(ledger: Ledger) -> None:
    """Minutes are written out here: a minute of another length would be a wrong chart."""
    names = ["before", "first ms", "last ms of the first", "last ms", "too late"]
    for name in names:
        succeed_operation(ledger, name)
    written = 0
    while written != 3:  # more than three minutes: one was over just now
        forget_minutes(ledger)
        summarize_minutes(ledger)
        newest = minutes_since(ledger, 0)[0].minute
        start = newest - 120_000
        ended_at = [start - 1, start, start + 59_999, newest + 59_999, newest + 60_000]
        with ledger.writing() as connection:
            connection.execute(text("UPDATE b2copy_minutes SET minute = minute - 180000"))
            for name, at in zip(names, ended_at, strict=True):
                times = f"ended_at = {at}, requested_at = {at - 500}, external_wait_ms = 30"
                connection.execute(text(f"UPDATE b2copy_operations SET {times} WHERE key = 'fees.process:{name}'"))
        written = summarize_minutes(ledger)

    assert [row for row in minutes_since(ledger, start) if row.outcome != DUE] == [
        (start, "money", "fees.process", "succeeded", 2, 1000, 60),
        (newest, "money", "fees.process", "succeeded", 1, 500, 30),
    ]
    assert {row[0] for row in minutes_since(ledger, newest)} == {newest}
    assert len(minutes_since(ledger, newest, limit=3)) == 3


def test_a_minute_is_forgotten_after_ninety_days(ledger: Ledger) -> None:
    day = 24 * 3_600_000
    forget_minutes(ledger)
    summarize_minutes(ledger)
    with ledger.writing() as connection:
        connection.execute(text(f"UPDATE b2copy_minutes SET minute = minute - {91 * day} WHERE lane = 'bulk'"))
        connection.execute(text(f"UPDATE b2copy_minutes SET minute = minute - {89 * day} WHERE lane = 'money'"))
        connection.execute(text("DELETE FROM b2copy_minutes WHERE lane IN ('default', 'notify')"))

    summarize_minutes(ledger)

    lanes = [row.lane for row in minutes_since(ledger, 0)]
    assert (lanes.count("bulk"), lanes.count("money")) == (1, 2)


def test_minutes_of_a_clock_that_was_ahead_stop_nothing_and_go_before_their_time_comes(ledger: Ledger) -> None:
    forget_minutes(ledger)
    summarize_minutes(ledger)
    with ledger.writing() as connection:  # as the clock wrote them that was a day ahead for three minutes
        newest = connection.execute(text("SELECT max(minute) FROM b2copy_minutes")).scalar_one()
        ahead = newest + 24 * 3_600_000
        for number in range(3):
            row = f"SELECT {ahead} + 60000 * {number}, lane, kind, outcome, 77, 0, 0 FROM b2copy_minutes"
            connection.execute(text(f"INSERT INTO b2copy_minutes {row} WHERE minute = {newest}"))
        connection.execute(text(f"UPDATE b2copy_minutes SET minute = minute - 60000 WHERE minute = {newest}"))

    written = summarize_minutes(ledger)

    assert written >= 1
    assert {row.minute for row in minutes_since(ledger, newest + 60_000) if row.operations == 77} == {
        ahead + 60000 * number for number in range(2 * written, 3)
    }, "the next ones first, and no more: the clock may be wrong now"


def test_each_minute_is_written_although_the_clock_had_been_ahead_until_it(ledger: Ledger) -> None:
    forget_minutes(ledger)
    summarize_minutes(ledger)
    with ledger.writing() as connection:  # the clock was five minutes ahead, for five minutes
        newest = connection.execute(text("SELECT max(minute) FROM b2copy_minutes")).scalar_one()
        for number in range(1, 6):
            row = f"SELECT {newest} + 60000 * {number}, lane, kind, outcome, 77, 0, 0 FROM b2copy_minutes"
            connection.execute(text(f"INSERT INTO b2copy_minutes {row} WHERE minute = {newest}"))

    summarize_minutes(ledger)
    for number in range(1, 7):
        with ledger.writing() as connection:  # a minute passes
            connection.execute(text("UPDATE b2copy_minutes SET minute = 60000 - minute"))
            connection.execute(text("UPDATE b2copy_minutes SET minute = -minute"))
        assert summarize_minutes(ledger) >= 1, number

    assert {row.operations for row in minutes_since(ledger, 0)} == {0}


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_clock_that_is_ahead_for_a_moment_forgets_a_few_minutes_and_not_the_history(
    ledger: Ledger, at_once: int
) -> None:
    forget_minutes(ledger)
    summarize_minutes(ledger)
    with ledger.writing() as connection:  # ten minutes that are older than ninety days by the clock as it is now
        newest = connection.execute(text("SELECT max(minute) FROM b2copy_minutes")).scalar_one()
        old = newest - 100 * 24 * 3_600_000
        for number in range(10):
            row = f"SELECT {old} + 60000 * {number}, lane, kind, outcome, 5, 0, 0 FROM b2copy_minutes"
            connection.execute(text(f"INSERT INTO b2copy_minutes {row} WHERE minute = {newest}"))
        earlier = f"minute = minute - {60000 * at_once}"
        connection.execute(text(f"UPDATE b2copy_minutes SET {earlier} WHERE minute = {newest}"))

    written = summarize_minutes(ledger)

    left = sorted({row.minute for row in minutes_since(ledger, 0) if row.operations == 5})
    assert written >= at_once
    assert left == [old + 60000 * number for number in range(2 * written, 10)]


def test_a_quiet_minute_says_what_is_due(ledger: Ledger, clock: LedgerClock) -> None:
    forget_minutes(ledger)
    record_operations(ledger, "W1", "W2")
    clock.advance(30)

    summarize_minutes(ledger)

    due = {row.lane: row for row in minutes_since(ledger, 0)}
    assert {lane: row.operations for lane, row in due.items()} == {"money": 2, "default": 0, "bulk": 0, "notify": 0}
    assert 30_000 <= due["money"].total_ms < 40_000
    assert all(row.minute % 60_000 == 0 for row in due.values())
    assert {(row.kind, row.outcome, row.external_ms) for row in due.values()} == {("", "due", 0)}


def test_at_most_an_hour_is_caught_up(ledger: Ledger) -> None:
    forget_minutes(ledger)
    summarize_minutes(ledger)
    with ledger.writing() as connection:
        connection.execute(text(f"UPDATE b2copy_minutes SET minute = minute - {1000 * MINUTE_MS}"))

    assert summarize_minutes(ledger) == 60


def test_what_is_due_now_is_not_written_for_the_minutes_of_a_gap(ledger: Ledger, clock: LedgerClock) -> None:
    forget_minutes(ledger)
    summarize_minutes(ledger)
    with ledger.writing() as connection:
        connection.execute(text(f"UPDATE b2copy_minutes SET minute = minute - {5 * MINUTE_MS}, operations = 0"))
    record_operations(ledger, "W1")
    clock.advance(1)

    assert summarize_minutes(ledger) == 5

    assert [row.operations for row in minutes_since(ledger, 0) if row.lane == "money"] == [0, 1]
