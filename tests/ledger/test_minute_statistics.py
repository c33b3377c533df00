"""Statistics per minute: what ended, and how each lane stood."""

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


def test_a_quiet_minute_says_what_is_due(ledger: Ledger, clock: LedgerClock) -> None:
    forget_minutes(ledger)
    record_operations(ledger, "W1", "W2")
    clock.advance(30)

    summarize_minutes(ledger)

    due = {row.lane: row for row in minutes_since(ledger, 0)}
    assert {lane: row.operations for lane, row in due.items()} == {"money": 2, "default": 0, "bulk": 0, "notify": 0}
    assert 30_000 <= due["money"].total_ms < 40_000
    assert all(row.minute % MINUTE_MS == 0 for row in due.values())


def test_at_most_an_hour_is_caught_up(ledger: Ledger) -> None:
    forget_minutes(ledger)
    summarize_minutes(ledger)
    with ledger.writing() as connection:
        connection.execute(text(f"UPDATE b2copy_minutes SET minute = minute - {1000 * MINUTE_MS}"))

    assert summarize_minutes(ledger) == 60
