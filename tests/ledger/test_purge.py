"""Retention: what ended long ago goes, what is open stays for ever."""

from tests.ledger.actors import Clock, fail, look, put, succeed, take, take_one
from worker.ledger import Ledger, attempts_of, audit_of, find, purge, replay

DAY = 86_400.0


def test_what_ended_long_ago_goes_with_its_evidence(ledger: Ledger, clock: Clock) -> None:
    [recorded] = put(ledger, "old")
    fail(ledger, take_one(ledger))
    replay(ledger, ["fees.process:old"], "ada", "again")
    succeed(ledger, take_one(ledger))
    put(ledger, "open")
    clock.passes(401 * DAY)
    put(ledger, "young")
    succeed(ledger, *[one for one in take(ledger) if one.key.endswith("young")])

    assert purge(ledger, 400 * DAY) == 1

    assert find(ledger, "fees.process:old") is None
    assert attempts_of(ledger, recorded.id) == []
    assert audit_of(ledger, recorded.id) == []
    assert look(ledger, "open").id
    assert look(ledger, "young").id


def test_a_purge_in_small_bites_takes_everything(ledger: Ledger, clock: Clock) -> None:
    put(ledger, *(f"W{number}" for number in range(25)))
    succeed(ledger, *take(ledger))
    clock.passes(2 * DAY)

    assert purge(ledger, DAY, batch=10) == 25


def test_a_purged_id_is_never_given_again(ledger: Ledger, clock: Clock) -> None:
    [gone] = put(ledger, "W1")
    succeed(ledger, take_one(ledger))
    clock.passes(2 * DAY)
    purge(ledger, DAY)

    [again] = put(ledger, "W1")

    assert again.created
    assert again.id > gone.id
