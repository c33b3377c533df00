"""A ledger from a backup: nothing that may have been done since is taken for new, and people keep their say."""

from typing import Any

import pytest
from sqlalchemy import select, text

from tests.ledger.databases import on_sqlite
from tests.operations import (
    claim_due,
    claim_one,
    fail,
    fail_operation,
    find_operation,
    hold_operation,
    names_of,
    record_operation,
    record_operations,
    succeed,
)
from worker.errors import NotAllowed
from worker.ledger import Ledger, audit_of, cancel, sweep
from worker.ledger.approvals import approve, decided_approvals, open_approvals, propose
from worker.ledger.batches import cancel_batch, count_perhaps_done, pause_batch, resume_batch
from worker.ledger.reconciliation import AccountThere, current_run, differences, start_run, store_page
from worker.ledger.restore import Distrusted, distrust_restored
from worker.ledger.schema import differences as found
from worker.ledger.schema import now_ms
from worker.operation import FailureReason, State

WHY = "restored from the backup of 02:00"


def distrust(ledger: Ledger) -> list[Distrusted]:
    return distrust_restored(ledger, {"clients.register": "wizard"}, "ada", WHY)


def record_book(ledger: Ledger, *names: str, **fields: Any) -> None:
    record_operations(ledger, *names, lane="bulk", batch="book", **fields)


def claimed(ledger: Ledger) -> list[str]:
    return names_of(claim_due(ledger, lane="bulk"))


def test_the_outcome_of_what_could_be_sent_is_unknown_and_of_nothing_else(ledger: Ledger) -> None:
    record_operation(ledger, "W1")
    fail_operation(ledger, "W2")
    hold_operation(ledger, "W3", owner="a worker of before the backup")
    succeed(ledger, hold_operation(ledger, "W4"))
    record_operation(ledger, "1/7", kind="clients.register", lane="default")

    counted = distrust(ledger)

    assert [tuple(one) for one in counted] == [
        ("clients.register", "stop", False, 1, 1),
        ("fees.process", "start_or_get", False, 2, 1),
        ("fees.process", "start_or_get", True, 1, 0),
    ]
    unknown = {name: find_operation(ledger, name).outcome_unknown for name in ("W1", "W2", "W3", "W4")}
    assert unknown == {"W1": True, "W2": True, "W3": True, "W4": False}
    registration = claim_one(ledger, lane="default")
    assert (registration.outcome_unknown, registration.unknown_step) == (True, "wizard")
    assert set(names_of(claim_due(ledger))) == {"W1", "W3"}, "the lease of before the backup has ended"
    assert [(one.actor, one.action, one.note) for one in audit_of(ledger, "restored ledger")] == [
        ("ada", "distrust", WHY)
    ]


@pytest.mark.parametrize("swept_by", ["a claim", "a sweep"])
def test_what_a_paused_import_had_not_sent_stays_paused_until_it_resumes(ledger: Ledger, swept_by: str) -> None:
    record_book(ledger, "B1", "B2")
    pause_batch(ledger, "book", "ada", "wrong file?")

    distrust(ledger)

    assert swept_by == "a claim" or sweep(ledger, 5.0)
    assert claimed(ledger) == []
    resume_batch(ledger, "book", "ada", "right file")
    assert sweep(ledger, 5.0)
    claims = claim_due(ledger, lane="bulk")
    assert (names_of(claims), {one.outcome_unknown for one in claims}) == (["B1", "B2"], {True})


def test_what_was_put_aside_before_the_backup_is_sent_after_the_resumption(ledger: Ledger) -> None:
    record_book(ledger, "B1", "B2")
    pause_batch(ledger, "book", "ada", "wrong file?")
    assert sweep(ledger, 5.0)

    distrust(ledger)

    resume_batch(ledger, "book", "ada", "right file")
    assert sweep(ledger, 5.0)
    assert claimed(ledger) == ["B1", "B2"]


def test_what_a_cancelled_import_had_not_sent_is_never_sent_and_known(ledger: Ledger) -> None:
    record_book(ledger, "B1", "B2")
    [sent] = claim_due(ledger, lane="bulk", limit=1)
    cancel_batch(ledger, "book", "ada", "wrong file")
    record_operation(ledger, "W1")  # of no import

    counted = distrust(ledger)

    assert [(one.operations, one.never_sent) for one in counted] == [(2, 1)]
    assert find_operation(ledger, "W1").outcome_unknown
    assert claimed(ledger) == names_of([sent])
    assert sweep(ledger, 5.0)
    unsent = find_operation(ledger, "B2")
    assert (unsent.state, unsent.outcome_unknown) == (State.CANCELLED, False)


def test_an_import_that_is_cancelled_again_leaves_to_a_person_what_may_have_been_done_since_the_backup(
    ledger: Ledger,
) -> None:
    """A CRM that is told "cancelled" requests a withdrawal again under another id: its fees would be charged twice."""
    record_book(ledger, "B1", "B2")
    distrust(ledger)
    record_book(ledger, "B3")  # since the restore
    assert count_perhaps_done(ledger, "book") == 2

    cancel_batch(ledger, "book", "ada", "cancelled at 03:00, after the backup")
    assert sweep(ledger, 5.0)

    ended = [find_operation(ledger, name) for name in ("B1", "B2", "B3")]
    assert [(one.state, one.failure_reason, one.outcome_unknown) for one in ended] == [
        (State.FAILED, FailureReason.UNRESOLVED, True),
        (State.FAILED, FailureReason.UNRESOLVED, True),
        (State.CANCELLED, None, False),
    ]
    assert claimed(ledger) == []
    assert count_perhaps_done(ledger, "book") == 0


def test_what_failed_unsent_of_a_cancelled_import_may_have_been_replayed_since_the_backup(ledger: Ledger) -> None:
    record_book(ledger, "B1")
    fail(ledger, *claim_due(ledger, lane="bulk"), failure_reason="client_unknown", sent=False)
    cancel_batch(ledger, "book", "ada", "wrong file")

    assert [(one.failed, one.operations) for one in distrust(ledger)] == [(True, 1)]

    assert find_operation(ledger, "B1").outcome_unknown


def test_a_withdrawal_that_the_crm_cancelled_since_the_backup_can_be_cancelled_again(ledger: Ledger) -> None:
    key = record_operation(ledger, "W1").key
    distrust(ledger)

    cancelled = cancel(ledger, key, "ada", "cancelled at 03:00, after the backup")

    assert (cancelled.state, cancelled.outcome_unknown) == (State.CANCELLED, True)
    [entry] = audit_of(ledger, key)
    assert (entry.action, entry.detail) == ("cancel", {"before": {"outcome_unknown": True}})
    assert claim_due(ledger) == []


def test_once_a_worker_has_taken_it_it_cannot_be_cancelled(ledger: Ledger) -> None:
    key = record_operation(ledger, "W1").key
    distrust(ledger)
    claim_one(ledger)

    with pytest.raises(NotAllowed, match="under way"):
        cancel(ledger, key, "ada", "too late")


def test_an_open_proposal_may_have_been_approved_since_so_it_is_closed(ledger: Ledger) -> None:
    key = fail_operation(ledger, "W1")
    proposed = propose(ledger, "replay", key, "ann", "it is open", find_operation(ledger, "W1").change_mark, {})

    distrust(ledger)

    assert open_approvals(ledger) == []
    with pytest.raises(NotAllowed, match="changed already"):
        approve(ledger, proposed.id, "bob", "fine")
    [closed] = [one for one in decided_approvals(ledger) if one.id == proposed.id]
    assert (closed.decision, closed.decided_by) == ("changed", "b2copy-sync")
    assert "backup" in (closed.decided_note or "")
    assert f"changed A{proposed.id}" in [one.action for one in audit_of(ledger, key)]


@pytest.mark.parametrize("in_the_backup", ["earlier proposals", "no proposal"])
def test_the_number_of_a_proposal_that_the_backup_does_not_know_names_no_other_one(
    ledger: Ledger, in_the_backup: str
) -> None:
    """Carl was asked to approve the first one, and would approve the second one."""
    first, second = (fail_operation(ledger, name) for name in ("W1", "W2"))
    asked = propose(ledger, "replay", first, "ann", "open again", find_operation(ledger, "W1").change_mark, {})
    with ledger.writing() as connection:
        began = connection.execute(select(now_ms())).scalar_one()
        connection.execute(text("DELETE FROM b2copy_approvals"))
        if ledger.engine.dialect.name == "postgresql":
            sequence = "pg_get_serial_sequence('b2copy_approvals', 'id')"
            connection.execute(text(f"SELECT setval({sequence}, {asked.id}, false)"))
        elif in_the_backup == "no proposal":
            connection.execute(text("DELETE FROM sqlite_sequence WHERE name = 'b2copy_approvals'"))
        else:
            connection.execute(text(f"UPDATE sqlite_sequence SET seq = {asked.id - 1} WHERE name = 'b2copy_approvals'"))

    distrust(ledger)
    other = propose(ledger, "replay", second, "bob", "open again", find_operation(ledger, "W2").change_mark, {})

    assert other.id > asked.id
    assert other.id > began, "a ledger that is restored twice would give the same numbers twice"
    with pytest.raises(NotAllowed, match="no such proposal"):
        approve(ledger, asked.id, "carl", "fine")
    assert find_operation(ledger, "W2").state == State.FAILED
    third = propose(ledger, "replay", first, "bob", "open again", find_operation(ledger, "W1").change_mark, {})
    assert third.id == other.id + 1


def test_a_reconciliation_of_before_the_backup_is_forgotten(ledger: Ledger) -> None:
    run = start_run(ledger, "ada")
    store_page(ledger, run, [AccountThere("1", "700100", "1", "5")], 1, True)
    with ledger.writing() as connection:
        place = {"platform": "1", "login": "700100", "run": run.started_at}
        connection.execute(found.insert().values(place | {"difference": "missing_here", "fields": "{}"}))

    distrust(ledger)

    assert (current_run(ledger), differences(ledger, run)) == (None, [])
    with ledger.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM b2copy_reconciliation_accounts")).scalar() == 0


def test_rows_that_no_worker_has_taken_are_not_left_for_one(ledger: Ledger) -> None:
    record_operation(ledger, "W1")
    with ledger.writing() as connection:
        connection.execute(text("INSERT INTO b2copy_requests (kind, payload) VALUES ('call', '{}')"))

    with pytest.raises(NotAllowed, match="b2copy_requests"):
        distrust(ledger)

    assert not find_operation(ledger, "W1").outcome_unknown


@on_sqlite
@pytest.mark.parametrize(("ago_s", "is_quiet"), [(0, False), (9, False), (11, True), (-9, False), (-3600, True)])
def test_it_waits_for_workers_and_not_for_a_clock_that_was_ahead(ledger: Ledger, ago_s: int, is_quiet: bool) -> None:
    now = "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"
    with ledger.writing() as connection:
        connection.execute(text(f"UPDATE b2copy_ledger SET dispatched_at = {now} - {ago_s * 1000}"))

    if is_quiet:
        assert distrust(ledger) == []
    else:
        with pytest.raises(NotAllowed, match="stop all of them"):
            distrust(ledger)
