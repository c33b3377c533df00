"""A claim is kept alive while it is held, and nothing is sent on one that is about to lapse."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text

from tests.flow.conftest import hold
from tests.support import until
from worker.flow import lease_renewal
from worker.flow.lease_renewal import MARGIN, LeaseRenewal
from worker.ledger import Ledger, find
from worker.operation import Claim

OWNER = "worker 1"


@pytest.fixture
def leases(books: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Claim], LeaseRenewal]]:
    """LeaseRenewal that hold a claim, renewed every 0.1 s instead of every three."""
    monkeypatch.setattr(lease_renewal, "RENEW_EVERY", 0.1)
    made: list[tuple[LeaseRenewal, Claim]] = []

    def holding(claim: Claim) -> LeaseRenewal:
        leases = LeaseRenewal(books, OWNER)
        leases.took([claim])
        made.append((leases, claim))
        return leases

    yield holding
    for leases, claim in made:
        leases.let_go([claim])


def lapses_at(books: Ledger) -> int:
    found = find(books, "fees.process:W1")
    assert found is not None
    assert found.due_at is not None
    return found.due_at


def test_what_is_held_is_renewed(books: Ledger, leases: Callable[[Claim], LeaseRenewal]) -> None:
    claim = hold(books)
    before = lapses_at(books)

    held = leases(claim)

    until(lambda: lapses_at(books) > before + 200)
    assert held.good(claim)


def test_what_was_let_go_is_not_sent(books: Ledger, leases: Callable[[Claim], LeaseRenewal]) -> None:
    claim = hold(books)
    held = leases(claim)
    before = lapses_at(books)
    until(lambda: lapses_at(books) > before)

    held.let_go([claim])

    assert not held.good(claim)


def test_nothing_is_sent_on_the_last_seconds_of_a_lease(books: Ledger, leases: Callable[[Claim], LeaseRenewal]) -> None:
    claim = hold(books)
    held = LeaseRenewal(books, OWNER)
    for seconds, good in ((MARGIN + 1, True), (MARGIN - 0.1, False), (-1.0, False)):
        short = claim._replace(lease_until=claim.lease_until - claim.lease_left + seconds)
        held.took([short])
        assert held.good(short) is good
    held.let_go([claim])


def test_what_another_has_taken_over_is_not_sent(books: Ledger, leases: Callable[[Claim], LeaseRenewal]) -> None:
    claim = hold(books)
    held = leases(claim)
    assert held.good(claim)

    with books.writing() as connection:
        connection.execute(text("UPDATE b2copy_operations SET owner = 'worker 2', fence = fence + 1"))

    until(lambda: not held.good(claim))


def test_a_ledger_that_is_away_for_a_moment_loses_no_lease(
    books: Ledger, leases: Callable[[Claim], LeaseRenewal], caplog: pytest.LogCaptureFixture
) -> None:
    claim = hold(books)
    with books.writing() as connection:
        connection.execute(text("ALTER TABLE b2copy_operations RENAME TO elsewhere"))
    held = leases(claim)
    until(lambda: "leases not renewed" in caplog.text)
    with books.writing() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO b2copy_operations"))

    before = lapses_at(books)
    until(lambda: lapses_at(books) > before)
    assert held.good(claim)
