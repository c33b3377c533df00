"""Flags, which the whole fleet sees."""

from sqlalchemy import text

from tests.operations import (
    LedgerClock,
)
from worker.ledger import Ledger, active_flags, audit_of, pause, raise_flag
from worker.ledger.fleet_flags import end_try, lower_flag, start_try
from worker.ledger.pauses import resume


def test_a_flag_is_seen_by_all_until_it_is_lowered(ledger: Ledger) -> None:
    raise_flag(ledger, "login_refused", "worker 1", "B2COPY refused our login three times")
    raise_flag(ledger, "login_refused", "worker 2", "refused here as well")
    pause(ledger, "bulk", "ada", "month end")

    raised = active_flags(ledger)
    assert list(raised) == ["login_refused", "pause:bulk"]
    assert (raised["login_refused"].actor, raised["pause:bulk"].note) == ("worker 1", "month end")
    assert lower_flag(ledger, "login_refused", "ada", "new key registered")
    assert resume(ledger, "bulk", "ada", "month end is over")
    assert active_flags(ledger) == {}


def test_one_process_tries_and_the_next_waits_until_the_try_has_ended_or_is_old(ledger: Ledger) -> None:
    assert start_try(ledger, "trying:x", "worker 1", "", again_after_s=60)
    assert not start_try(ledger, "trying:x", "worker 2", "", again_after_s=60)
    assert start_try(ledger, "trying:x", "worker 2", "", again_after_s=0)

    end_try(ledger, "trying:x")

    assert start_try(ledger, "trying:x", "worker 3", "", again_after_s=60)


def test_the_next_try_replaces_one_that_is_old_enough(ledger: Ledger, clock: LedgerClock) -> None:
    start_try(ledger, "trying:x", "worker 1", "first", again_after_s=60)
    clock.advance(50)
    assert not start_try(ledger, "trying:x", "worker 2", "second", again_after_s=60)
    clock.advance(40)

    assert start_try(ledger, "trying:x", "worker 3", "third", again_after_s=60)

    assert not start_try(ledger, "trying:x", "worker 4", "fourth", again_after_s=60)
    raised = active_flags(ledger)["trying:x"]
    assert (raised.actor, raised.note) == ("worker 3", "third")
    assert audit_of(ledger, "trying:x") == []


def test_the_audit_says_once_who_raised_a_flag_and_who_lowered_it(ledger: Ledger) -> None:
    assert raise_flag(ledger, "login_refused", "worker 1", "refused")
    assert not raise_flag(ledger, "login_refused", "worker 2", "refused here as well")
    assert lower_flag(ledger, "login_refused", "ada", "new key")
    assert not lower_flag(ledger, "login_refused", "bob", "new key")
    assert pause(ledger, "bulk", "ada", "month end")
    assert not pause(ledger, "bulk", "bob", "month end")
    assert not resume(ledger, "all", "ada", "go on")

    said = [(entry.action, entry.actor, entry.note) for entry in audit_of(ledger, "login_refused")]
    assert said == [("raise", "worker 1", "refused"), ("lower", "ada", "new key")]
    assert [entry.actor for entry in audit_of(ledger, "pause:bulk")] == ["ada"]


def test_a_try_is_made_again_after_the_databases_clock_was_set_back(ledger: Ledger) -> None:
    start_try(ledger, "trying:x", "worker 1", "", again_after_s=60)
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_flags SET since = since + 3600000"))

    assert start_try(ledger, "trying:x", "worker 2", "", again_after_s=60)
