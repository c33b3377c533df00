"""Claims: one process holds an operation, loses it if it dies, and keeps it as long as it renews its lease."""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError, OperationalError

from tests.ledger.databases import on_postgresql
from tests.operations import (
    LedgerClock,
    claim,
    claim_due,
    claim_one,
    find_operation,
    make_wait,
    names_of,
    record_operations,
    succeed,
)
from tests.support import until
from worker import app as worker_app
from worker.ledger import (
    LEASE_S,
    Ledger,
    attempts_of,
    cancel,
    claims,
    pause,
    renew_leases,
    return_unsent,
    search,
    settle_and_claim,
)
from worker.ledger.notices import want_notices
from worker.ledger.overview import overview
from worker.ledger.pauses import resume
from worker.ledger.running_workers import ThisWorker, note_running
from worker.ledger.statistics import statistics_of
from worker.operation import NOTICE_KIND, AttemptRecord, FailureReason, Phase, State, WaitReason, claim_clock
from worker.per_process import PerProcess


def test_a_claim_holds_what_has_been_due_longest(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1", "W2")
    clock.advance(1)
    record_operations(ledger, "W3")

    first = claim_due(ledger, limit=2)
    second = claim_due(ledger, limit=2)

    assert (names_of(first), names_of(second)) == (["W1", "W2"], ["W3"])
    assert find_operation(ledger, "W1").state == State.RUNNING


def test_a_claim_takes_its_own_lane_only(ledger: Ledger) -> None:
    record_operations(ledger, "W1", lane="bulk")

    assert claim_due(ledger) == []
    assert names_of(claim_due(ledger, lane="bulk")) == ["W1"]


def test_no_operation_is_claimed_by_two_processes_at_once(ledger: Ledger, open_again: Callable[[], Ledger]) -> None:
    recorded = [f"W{number}" for number in range(200)]
    record_operations(ledger, *recorded)
    processes = [open_again() for _ in range(4)]

    def work(number: int) -> list[str]:
        done: list[str] = []
        while claims := claim_due(processes[number], owner=f"worker {number}", limit=7):
            done += names_of(claims)
            succeed(processes[number], *claims)
        return done

    with ThreadPoolExecutor(4) as threads:
        done = [name for names in threads.map(work, range(4)) for name in names]

    assert sorted(done) == sorted(recorded)


def test_operations_to_submit_are_claimed_before_those_to_poll(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "pending")
    make_wait(ledger, *claim_due(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=1)
    clock.advance(60)
    record_operations(ledger, "new")

    assert names_of(claim_due(ledger)) == ["new", "pending"]


def test_a_claim_never_exceeds_its_limit(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "P1", "P2", "P3")
    make_wait(ledger, *claim_due(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=1)
    clock.advance(60)
    record_operations(ledger, "W1")
    record_operations(ledger, "A1", "A2", "A3", entity="A")

    assert names_of(claim_due(ledger, limit=3)) == ["W1", "A1", "P1"]


@pytest.mark.parametrize(
    ("polls", "submits", "limit", "claimed"),
    [
        (1, 20, 1, "P"),
        (0, 20, 1, "S"),
        (5, 20, 3, "PPS"),
        (5, 20, 4, "PPSS"),
        (1, 20, 4, "PSSS"),
        (5, 1, 4, "PPSP"),
        (5, 0, 4, "PPPP"),
        (1, 1, 4, "PS"),
    ],
)
def test_polls_that_come_first_get_half_of_the_claim_and_what_submits_leave(
    ledger: Ledger, clock: LedgerClock, polls: int, submits: int, limit: int, claimed: str
) -> None:
    record_operations(ledger, *(f"P{number}" for number in range(polls)))
    make_wait(ledger, *claim_due(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=1)
    clock.advance(60)
    record_operations(ledger, *(f"W{number}" for number in range(submits)))

    _, claims = settle_and_claim(ledger, [], "money", "worker 1", limit, first=Phase.POLL)

    assert "".join("P" if claim.phase == Phase.POLL else "S" for claim in claims) == claimed
    assert len({claim.id for claim in claims}) == len(claimed)


def test_a_claim_knows_what_happened_before(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1", time_allowed_s=100.0)
    first = claim_one(ledger)
    make_wait(ledger, first, wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=2.5)
    clock.advance(3)

    second = claim_one(ledger)

    assert (first.fence, first.phase, first.sent, first.wait_reason) == (1, Phase.SUBMIT, False, None)
    assert (second.fence, second.phase, second.sent) == (2, Phase.POLL, True)
    assert (second.wait_reason, second.last_wait_s) == (WaitReason.PENDING_AT_B2COPY, 2.5)
    assert second.deadline is not None
    assert 90 < second.deadline - claim_clock() < 97.5
    assert not second.overdue


def test_a_claim_is_overdue_when_its_deadline_has_passed(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1", time_allowed_s=100.0)
    clock.advance(101)

    assert claim_one(ledger).overdue


def test_a_lease_begins_before_the_claim_is_sent_to_the_database(ledger: Ledger) -> None:
    record_operations(ledger, "W1")
    event.listen(ledger.engine, "begin", lambda _: time.sleep(0.3))  # the database is slow
    before = claim_clock()

    claimed = claim_one(ledger)

    assert before + LEASE_S <= claimed.lease_until < before + LEASE_S + 0.2


def test_after_a_lapsed_lease_the_outcome_is_unknown(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    claim_due(ledger, "worker 1")
    clock.advance(LEASE_S - 1)
    assert claim_due(ledger, "worker 2") == [], "claimed while its lease was valid"

    clock.advance(1.1)
    claimed = claim_one(ledger, "worker 2")

    assert (claimed.outcome_unknown, claimed.sent, claimed.fence) == (True, True, 2)
    [lapsed] = attempts_of(ledger, claimed.id)
    assert lapsed == AttemptRecord(
        lapsed.started_at, lapsed.duration_ms, "lease_lapsed", "worker 1", version="", last_at=lapsed.last_at
    )
    assert lapsed.duration_ms == (lapsed.last_at or 0) - lapsed.started_at >= LEASE_S * 1000


def test_a_lease_that_lapsed_weeks_ago_is_taken_over(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1", "W2")
    claim_due(ledger, "worker 1", limit=1)
    clock.advance(40 * 86_400)

    assert set(names_of(claim_due(ledger, "worker 2"))) == {"W1", "W2"}


def test_a_renewed_lease_does_not_lapse(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1", "W2")
    claimed = claim_due(ledger)
    clock.advance(LEASE_S - 1)

    assert renew_leases(ledger, "worker 1", claimed) == {one.id for one in claimed}

    clock.advance(LEASE_S - 1)
    assert claim_due(ledger, "worker 2") == []
    clock.advance(1.1)
    assert len(claim_due(ledger, "worker 2")) == 2, "it was renewed for longer than a lease"


def test_after_an_outage_of_the_ledger_the_holder_goes_first(
    ledger: Ledger, open_again: Callable[[], Ledger], clock: LedgerClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "HOLDERS_FIRST_S", 0.5)
    record_operations(ledger, "W1", "W2")
    [held] = claim_due(ledger, "worker 1", limit=1)
    other = open_again()
    clock.advance(LEASE_S + 1)
    lose_connection(other)

    soon = claim_due(other, "worker 2")
    renewed = renew_leases(ledger, "worker 1", [held])
    time.sleep(0.6)  # the time that is tested
    later = claim_due(other, "worker 2")

    assert (names_of(soon), later, renewed) == (["W2"], [], {held.id})
    assert succeed(ledger, held) == []


def test_after_a_suspension_of_the_host_the_holder_goes_first(
    ledger: Ledger, open_again: Callable[[], Ledger], clock: LedgerClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_operations(ledger, "W1", "W2")
    [held] = claim_due(ledger, "worker 1", limit=1)
    other = open_again()
    assert claim_due(other, "worker 2", lane="bulk") == []
    clock.advance(60)  # the host slept, and with it all workers
    for name in ("worker.ledger.claims", "worker.ledger.settle"):
        monkeypatch.setattr(sys.modules[name], "claim_clock", lambda: claim_clock() + 60)

    soon = claim_due(other, "worker 2")

    assert names_of(soon) == ["W2"]
    assert renew_leases(ledger, "worker 1", [held]) == {held.id}


def test_a_worker_that_starts_after_an_outage_of_the_ledger_lets_the_holder_go_first(
    ledger: Ledger, open_again: Callable[[], Ledger], clock: LedgerClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "HOLDERS_FIRST_S", 0.5)
    record_operations(ledger, "W1", "W2", "W3")
    [held, lost] = claim_due(ledger, "worker 1", limit=2)
    clock.advance(LEASE_S + 1)
    opened = PerProcess(open_again)
    opened.prepare_each(worker_app._prepare)  # as in a worker

    soon = claim_due(opened(), "worker 2")
    renewed = renew_leases(ledger, "worker 1", [held])
    later = until(lambda: claim_due(opened(), "worker 2"))

    assert (names_of(soon), names_of(later), renewed) == (["W3"], names_of([lost]), {held.id})
    assert succeed(ledger, held) == []


@pytest.fixture
def limited(ledger: Ledger, open_again: Callable[[], Ledger]) -> Iterator[Ledger]:
    """The ledger as a role sees it that has all rights. A test takes some of them away."""
    with ledger.writing() as connection:
        schema = connection.execute(text("SELECT current_schema()")).scalar()
        connection.execute(text("CREATE ROLE limited"))
        connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO limited"))
        connection.execute(text(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO limited"))
    other = open_again()
    event.listen(other.engine, "begin", lambda connection: connection.exec_driver_sql("SET LOCAL ROLE limited"))
    yield other
    with ledger.writing() as connection:
        connection.execute(text("DROP OWNED BY limited; DROP ROLE limited"))


@on_postgresql
def test_a_right_that_has_nothing_to_do_with_leases_keeps_no_lapsed_lease_from_being_taken_over(
    ledger: Ledger, limited: Ledger, clock: LedgerClock
) -> None:
    record_operations(ledger, "W1")
    claim_one(ledger, "worker 1")
    clock.advance(LEASE_S + 1)
    with ledger.writing() as connection:
        connection.execute(text("REVOKE INSERT ON b2copy_workers FROM limited"))

    with pytest.raises(OperationalError, match="permission denied"), limited.writing() as connection:
        note_running(connection, ThisWorker())

    assert names_of(claim_due(limited, "worker 2")) == ["W1"]


@on_postgresql
@pytest.mark.parametrize("refused", ["a claim", "a renewal"])
def test_while_leases_cannot_be_renewed_for_a_right_none_is_taken_over(
    ledger: Ledger, limited: Ledger, clock: LedgerClock, refused: str
) -> None:
    record_operations(ledger, "W1")
    held = claim_one(limited, "worker 1")
    clock.advance(LEASE_S + 1)
    with ledger.writing() as connection:
        connection.execute(text("REVOKE UPDATE ON b2copy_operations FROM limited"))

    with pytest.raises(OperationalError, match="permission denied"):
        claim_due(limited, "worker 2") if refused == "a claim" else renew_leases(limited, "worker 1", [held])
    with ledger.writing() as connection:
        connection.execute(text("GRANT UPDATE ON b2copy_operations TO limited"))

    assert claim_due(limited, "worker 2") == []


def test_a_lease_that_nobody_renews_after_an_outage_is_taken_over(
    ledger: Ledger, clock: LedgerClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "HOLDERS_FIRST_S", 0.3)
    record_operations(ledger, "W1")
    claim_one(ledger, "worker 1")
    clock.advance(LEASE_S + 1)
    lose_connection(ledger)

    assert claim_due(ledger, "worker 2") == []
    taken = until(lambda: claim_due(ledger, "worker 2"))

    assert names_of(taken) == ["W1"]
    assert taken[0].outcome_unknown


def test_a_claim_that_a_suspended_database_delayed_takes_over_no_lapsed_lease(
    ledger: Ledger, clock: LedgerClock
) -> None:
    record_operations(ledger, "W1", "W2")
    claim_due(ledger, "worker 1", limit=1)
    clock.advance(LEASE_S + 1)

    delayed = ledger.write(
        lambda connection: claims.claim_within(connection, "money", "worker 2", 10, claim_clock() - 20.0)
    )

    assert names_of(delayed) == ["W2"]
    assert claim_due(ledger, "worker 2") == []


def lose_connection(ledger: Ledger) -> None:
    """Let a statement fail as it does when the database is gone."""
    statement = "SELECT pg_terminate_backend(pg_backend_pid())"
    with pytest.raises(OperationalError), ledger.writing() as connection:
        connection.execute(text(statement if connection.dialect.name == "postgresql" else "SELECT 1 FROM nothing"))


def test_a_lapsed_lease_can_be_renewed_until_another_process_claims_the_operation(
    ledger: Ledger, clock: LedgerClock
) -> None:
    record_operations(ledger, "W1")
    claimed = claim_one(ledger, "worker 1")
    clock.advance(LEASE_S + 1)
    assert renew_leases(ledger, "worker 1", [claimed]) == {claimed.id}
    assert claim_due(ledger, "worker 2") == []

    clock.advance(LEASE_S + 1)
    claim_due(ledger, "worker 2")

    assert renew_leases(ledger, "worker 1", [claimed]) == set()


def test_the_owners_second_claim_does_not_renew_its_first(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    first = claim_one(ledger)
    clock.advance(LEASE_S + 1)
    second = claim_one(ledger)

    assert renew_leases(ledger, "worker 1", [first]) == set()
    assert renew_leases(ledger, "worker 1", [second]) == {second.id}
    assert renew_leases(ledger, "worker 1", []) == set()


def test_an_operation_returned_unsent_is_as_before_its_claim(ledger: Ledger) -> None:
    [recorded] = record_operations(ledger, "W1")

    return_unsent(ledger, claim_due(ledger))

    found = find_operation(ledger, "W1")
    assert (found.state, found.sent, found.lease_owner) == (State.QUEUED, False, None)
    assert attempts_of(ledger, recorded.id) == []
    assert claim_one(ledger).outcome_unknown is False
    return_unsent(ledger, [])


def test_a_waiting_operation_returned_unsent_waits_for_the_same_reason_and_is_due(
    ledger: Ledger, clock: LedgerClock
) -> None:
    record_operations(ledger, "W1")
    make_wait(ledger, *claim_due(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY)
    clock.advance(60)

    return_unsent(ledger, claim_due(ledger))

    assert (find_operation(ledger, "W1").state, find_operation(ledger, "W1").wait_reason) == (
        State.WAITING,
        WaitReason.PENDING_AT_B2COPY,
    )
    assert names_of(claim_due(ledger)) == ["W1"]


def test_returning_an_operation_after_a_lapsed_lease_leaves_its_outcome_unknown(
    ledger: Ledger, clock: LedgerClock
) -> None:
    record_operations(ledger, "W1")
    claim_due(ledger, "worker 1")
    clock.advance(LEASE_S + 1)

    return_unsent(ledger, claim_due(ledger, "worker 2"))

    assert claim_one(ledger, "worker 3").outcome_unknown


def test_only_the_holder_can_return_an_operation(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "W1")
    lapsed = claim_due(ledger, "worker 1")
    clock.advance(LEASE_S + 1)
    claimed = claim_one(ledger, "worker 2")

    return_unsent(ledger, lapsed)

    assert find_operation(ledger, "W1").lease_owner == claimed.lease_owner


@pytest.mark.parametrize("paused", ["money", "all"])
def test_nothing_is_claimed_in_a_paused_lane_until_it_is_resumed(ledger: Ledger, paused: str) -> None:
    record_operations(ledger, "W1")
    pause(ledger, paused, "ada", "B2COPY is being upgraded")
    assert claim_due(ledger) == []

    assert resume(ledger, paused, "ada", "the upgrade is done")

    assert names_of(claim_due(ledger)) == ["W1"]
    assert not resume(ledger, paused, "ada", "the upgrade is done")


def test_a_pause_stops_claims_in_its_own_lane_only(ledger: Ledger) -> None:
    record_operations(ledger, "W1")

    pause(ledger, "bulk", "ada", "too many")

    assert names_of(claim_due(ledger)) == ["W1"]


def test_a_claim_with_limit_0_claims_nothing(ledger: Ledger) -> None:
    record_operations(ledger, "W1")

    assert claim(ledger, "money", "worker 1", 0) == []
    assert cancel(ledger, "fees.process:W1", "ada", "nothing was sent").state == State.CANCELLED


@pytest.mark.parametrize("column", ["payload", "progress"])
def test_a_row_that_cannot_be_read_fails_and_holds_no_other_up(ledger: Ledger, column: str) -> None:
    want_notices(ledger)
    record_operations(ledger, "bad", "W1", entity="7")
    with ledger.writing() as connection:
        connection.execute(text(f"UPDATE b2copy_operations SET {column} = '{{' WHERE key = 'fees.process:bad'"))

    assert names_of(claim_due(ledger)) + names_of(claim_due(ledger)) == ["W1"]

    bad = find_operation(ledger, "bad")
    assert (bad.state, bad.failure_reason) == (State.FAILED, FailureReason.BAD_PAYLOAD)
    assert bad.result == {"error": "the row cannot be read: JSONDecodeError", column: "{"}
    assert (bad.payload == {}) == (column == "payload"), "what could be read was replaced"
    assert [one.payload["id"].startswith(f"ntc_{bad.id}_") for one in search(ledger, kind=NOTICE_KIND)] == [True]


def test_a_wait_reason_of_a_newer_version_is_read_and_its_operation_is_claimed(ledger: Ledger) -> None:
    record_operations(ledger, "W1")
    make_wait(ledger, claim_one(ledger), due_in_s=0.0, progress={"step": 1})
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_operations SET wait_reason = 'something_new'"))
    before = find_operation(ledger, "W1")

    claimed = claim_one(ledger)
    return_unsent(ledger, [claimed])

    after = find_operation(ledger, "W1")
    assert (before.wait_reason, after.wait_reason, after.state) == ("something_new", "something_new", State.WAITING)
    assert before.payload == claimed.payload == after.payload != {}
    assert before.progress == claimed.progress == after.progress == {"step": 1}
    assert statistics_of(overview(ledger)).open["money"] == 1


@pytest.mark.parametrize("column", ["phase", "on_unknown"])
def test_the_database_refuses_a_word_that_nobody_knows(ledger: Ledger, column: str) -> None:
    record_operations(ledger, "W1")

    with pytest.raises(IntegrityError), ledger.writing() as connection:
        connection.execute(text(f"UPDATE b2copy_operations SET {column} = 'foreign'"))
