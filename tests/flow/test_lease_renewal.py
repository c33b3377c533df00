"""A lease is renewed while its claim is held, and nothing is sent on a lease that is about to lapse."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text

from tests.operations import OWNER, claim_one, find_operation, hold_operation
from tests.support import until
from worker.flow import lease_renewal
from worker.flow.lease_renewal import MARGIN_S, LeaseRenewal
from worker.http import event_loop
from worker.ledger import LEASE_S, Ledger, renew_leases
from worker.operation import Claim, claim_clock
from worker.watch import metrics
from worker.watch.heartbeat import stalled_loops

Hold = Callable[[Claim], LeaseRenewal]


@pytest.fixture
def renewing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hold]:
    """Renews the lease of a claim every 0.1 s instead of every three."""
    monkeypatch.setattr(lease_renewal, "RENEW_EVERY_S", 0.1)
    made: list[tuple[LeaseRenewal, Claim]] = []

    def hold(claim: Claim) -> LeaseRenewal:
        leases = LeaseRenewal(ledger, OWNER)
        leases.add([claim])
        made.append((leases, claim))
        return leases

    yield hold
    for leases, claim in made:
        leases.remove([claim])


def lapses_at(ledger: Ledger, name: str = "W1") -> int:
    due_at = find_operation(ledger, name).due_at
    assert due_at is not None
    return due_at


def test_a_lease_that_is_held_is_renewed(ledger: Ledger, renewing: Hold) -> None:
    claim = hold_operation(ledger)
    before = lapses_at(ledger)

    leases = renewing(claim)

    until(lambda: lapses_at(ledger) > before + 200)
    assert leases.is_valid(claim)


def test_nothing_is_sent_on_a_claim_that_was_removed(ledger: Ledger, renewing: Hold) -> None:
    claim = hold_operation(ledger)
    leases = renewing(claim)

    leases.remove([claim])

    assert not leases.is_valid(claim)


def test_the_metric_counts_what_is_held(ledger: Ledger) -> None:
    claim = hold_operation(ledger)
    leases = LeaseRenewal(ledger, OWNER)

    leases.add([claim, claim._replace(id=claim.id + 1)])
    assert metrics.CLAIMS_HELD._value.get() == 2
    leases.remove([claim])
    assert metrics.CLAIMS_HELD._value.get() == 1
    leases.close()


def test_leases_are_renewed_before_a_claim_if_that_is_overdue(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = hold_operation(ledger)
    leases = LeaseRenewal(ledger, OWNER)
    leases.close()  # no thread renews
    now = [1000.0]
    monkeypatch.setattr(lease_renewal, "claim_clock", lambda: now[0])
    leases.add([claim])
    before = lapses_at(ledger)

    now[0] += lease_renewal.RENEW_EVERY_S + 1  # with a second of grace
    leases.renew_if_overdue()
    assert lapses_at(ledger) == before
    now[0] += 0.01
    leases.renew_if_overdue()
    assert lapses_at(ledger) > before


def test_a_lease_ends_while_the_host_is_suspended(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = hold_operation(ledger)
    leases = LeaseRenewal(ledger, OWNER)
    leases.close()  # no thread renews
    leases.add([claim])
    assert leases.is_valid(claim)
    before = lapses_at(ledger)
    clock_gettime = time.clock_gettime

    def after_an_hour(clock: int) -> float:
        return clock_gettime(clock) + (3600.0 if clock == time.CLOCK_BOOTTIME else 0.0)

    monkeypatch.setattr(time, "clock_gettime", after_an_hour)

    assert not leases.is_valid(claim), "another process may have taken it over"
    leases.renew_if_overdue()
    assert leases.is_valid(claim)
    assert lapses_at(ledger) > before


def test_a_renewed_lease_begins_before_the_database_is_asked(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    passed_s = 0.0
    claim = hold_operation(ledger)
    leases = LeaseRenewal(ledger, OWNER)
    leases.close()  # no thread renews
    leases.add([claim])

    def renew_slowly(*args: Any) -> set[int]:
        nonlocal passed_s
        renewed = renew_leases(*args)
        passed_s += LEASE_S - 1
        return renewed

    monkeypatch.setattr(lease_renewal, "claim_clock", lambda: claim_clock() + passed_s)
    monkeypatch.setattr(lease_renewal, "renew_leases", renew_slowly)
    leases.renew()

    assert not leases.is_valid(claim)


def test_a_claim_that_is_removed_during_a_renewal_is_forgotten(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = hold_operation(ledger)
    leases = LeaseRenewal(ledger, OWNER)
    leases.close()  # no thread renews
    leases.add([claim])

    def remove_and_renew(*arguments: Any) -> Any:
        leases.remove([claim])
        return renew_leases(*arguments)

    monkeypatch.setattr(lease_renewal, "renew_leases", remove_and_renew)
    leases.renew()

    assert not leases.is_valid(claim)


def test_what_is_held_is_renewed_although_another_claim_was_removed(ledger: Ledger, renewing: Hold) -> None:
    first, second = hold_operation(ledger, "W1"), hold_operation(ledger, "W2")
    leases = renewing(second)
    leases.add([first])

    leases.remove([first])

    before = lapses_at(ledger, "W2")
    until(lambda: lapses_at(ledger, "W2") > before)


@pytest.mark.parametrize("holds_some", [False, True])
def test_closing_ends_the_thread_that_renews(ledger: Ledger, holds_some: bool) -> None:
    others = set(threading.enumerate())
    leases = LeaseRenewal(ledger, OWNER)
    if holds_some:
        leases.add([hold_operation(ledger)])
    [renewing] = [one for one in threading.enumerate() if one not in others and one.name == "b2copy-leases"]
    assert renewing.daemon  # it holds up no process that ends

    leases.close()

    renewing.join(2.0)
    assert not renewing.is_alive()


def test_nothing_is_sent_on_the_last_seconds_of_a_lease(ledger: Ledger) -> None:
    claim = hold_operation(ledger)
    leases = LeaseRenewal(ledger, OWNER)
    for seconds, is_valid in ((MARGIN_S + 1, True), (MARGIN_S - 0.1, False), (-1.0, False)):
        short = claim._replace(lease_until=claim_clock() + seconds)
        leases.add([short])
        assert leases.is_valid(short) is is_valid
    leases.remove([claim])


def test_nothing_is_sent_on_a_claim_that_another_process_has_taken_over(ledger: Ledger, renewing: Hold) -> None:
    claim = hold_operation(ledger)
    leases = renewing(claim)
    assert leases.is_valid(claim)

    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_operations SET lease_owner = 'worker 2', fence = fence + 1"))

    until(lambda: not leases.is_valid(claim))


def test_an_earlier_claim_of_the_same_operation_is_not_valid_and_removing_it_ends_no_later_one(
    ledger: Ledger,
) -> None:
    earlier = hold_operation(ledger)
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_operations SET due_at = 1"))
    later = claim_one(ledger)
    leases = LeaseRenewal(ledger, OWNER)
    leases.add([earlier])
    leases.add([later])

    assert (leases.is_valid(earlier), leases.is_valid(later)) == (False, True)
    leases.remove([earlier])
    assert leases.is_valid(later)
    leases.remove([later])


def test_no_lease_is_renewed_while_something_blocks_the_event_loop(
    ledger: Ledger, renewing: Hold, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lease_renewal, "BLOCKED_MAX_S", 0.2)
    leases, may_continue = renewing(hold_operation(ledger)), threading.Event()

    event_loop().call(may_continue.wait, 20)
    until(lambda: "blocked the event loop" in caplog.text)

    assert "attempts" in stalled_loops(0.2)
    before = lapses_at(ledger)
    leases.renew()
    assert lapses_at(ledger) == before
    may_continue.set()
    until(lambda: lapses_at(ledger) > before)


def test_a_claim_that_is_held_longer_than_any_attempt_lasts_is_an_error_once(
    ledger: Ledger, renewing: Hold, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lease_renewal, "HELD_MAX_S", 0.2)
    leases = renewing(hold_operation(ledger))

    until(lambda: "has had no result for" in caplog.text)
    leases.renew()

    assert caplog.text.count("has had no result for") == 1


def test_a_ledger_that_is_unavailable_for_a_moment_costs_no_lease(
    ledger: Ledger, renewing: Hold, caplog: pytest.LogCaptureFixture
) -> None:
    claim = hold_operation(ledger)
    with ledger.writing() as connection:
        connection.execute(text("ALTER TABLE b2copy_operations RENAME TO elsewhere"))
    leases = renewing(claim)
    until(lambda: "leases not renewed" in caplog.text)
    with ledger.writing() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO b2copy_operations"))

    before = lapses_at(ledger)
    until(lambda: lapses_at(ledger) > before)
    assert leases.is_valid(claim)
