"""Batches: what a person pauses, resumes or cancels is never started meanwhile, and nothing is lost by it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.operations import (
    LedgerClock,
    claim_due,
    claim_one,
    fail,
    find_operation,
    make_wait,
    names_of,
    record_operations,
    succeed,
)
from worker.errors import NotAllowed
from worker.ledger import Ledger, audit_of, count_due, return_unsent
from worker.ledger.approvals import Approval, approve, cancel_batch_or_propose, resume_batch_or_propose
from worker.ledger.batches import (
    begin_batch,
    beyond_recall,
    cancel_batch,
    find_batch,
    list_batches,
    pause_batch,
    resume_batch,
    standing_of,
    sweep,
)
from worker.operation import State


def record_book(ledger: Ledger, *names: str, batch: str = "book", **fields: Any) -> None:
    record_operations(ledger, *names, lane="bulk", batch=batch, **fields)


def claimed(ledger: Ledger) -> list[str]:
    return names_of(claim_due(ledger, lane="bulk"))


@pytest.mark.parametrize("is_swept", [True, False], ids=["swept", "not swept yet"])
def test_a_paused_batch_starts_nothing_and_holds_nobody_up(ledger: Ledger, is_swept: bool) -> None:
    record_book(ledger, "B1", "B2", entity="7")
    record_operations(ledger, "L1", lane="bulk")
    record_operations(ledger, "W1", entity="7")  # a withdrawal of the same account

    pause_batch(ledger, "book", "ada", "wrong file?")
    assert not is_swept or sweep(ledger, 5.0)
    record_book(ledger, "B3")  # by an import that has not noticed yet

    assert claimed(ledger) == ["L1"]
    assert names_of(claim_due(ledger)) == ["W1"]
    assert find_operation(ledger, "B1").state == State.QUEUED
    assert count_due(ledger)["bulk"] == 0, "what is put aside wakes nobody"


def test_what_is_resumed_is_due_again_and_the_pause_does_not_count(ledger: Ledger, clock: LedgerClock) -> None:
    record_book(ledger, "B1", "B2", time_allowed_s=3600.0)
    pause_batch(ledger, "book", "ada", "month end")
    sweep(ledger, 5.0)
    clock.advance(7200)
    assert claimed(ledger) == []

    resume_batch(ledger, "book", "bob", "month end is over")
    assert sweep(ledger, 5.0)

    claims = claim_due(ledger, lane="bulk")
    assert names_of(claims) == ["B1", "B2"]
    assert not any(claim.overdue for claim in claims), "its deadline is later by the time of the pause"
    assert 7200 <= find_operation(ledger, "B1").external_wait_ms / 1000 < 7215
    assert [entry.action for entry in audit_of(ledger, "batch:book")] == ["pause import", "resume import"]


def test_what_was_sent_is_finished_while_its_batch_is_paused(ledger: Ledger) -> None:
    record_book(ledger, "B1", "B2")
    begun, _ = claim_due(ledger, lane="bulk")
    make_wait(ledger, begun, due_in_s=0.0)
    pause_batch(ledger, "book", "ada", "wrong file?")
    sweep(ledger, 5.0)

    again = claim_one(ledger, lane="bulk")

    assert names_of([again]) == ["B1"]
    succeed(ledger, again)


def test_a_claim_that_comes_back_unsent_obeys_the_decision(ledger: Ledger) -> None:
    record_book(ledger, "B1", "B2")
    first, second = claim_due(ledger, lane="bulk")
    cancel_batch(ledger, "book", "ada", "wrong file")
    sweep(ledger, 5.0)

    return_unsent(ledger, [first, second])

    assert claimed(ledger) == []
    sweep(ledger, 5.0)
    assert {find_operation(ledger, name).state for name in ("B1", "B2")} == {State.CANCELLED}


def test_a_cancelled_batch_ends_what_was_never_sent_and_tells_what_is_beyond_recall(ledger: Ledger) -> None:
    record_book(ledger, *(f"B{number}" for number in range(600)))
    begun, failed, running = claim_due(ledger, lane="bulk", limit=3)
    make_wait(ledger, begun)
    fail(ledger, failed)

    _, beyond = cancel_batch(ledger, "book", "ada", "wrong file")
    sweep(ledger, 30.0)

    assert beyond == beyond_recall(ledger, "book") == 2
    assert standing_of(ledger, ["book"])["book"].states == {
        State.CANCELLED: 597, State.RUNNING: 1, State.WAITING: 1, State.FAILED: 1,
    }  # fmt: skip
    succeed(ledger, running)
    sweep(ledger, 5.0)
    record_book(ledger, "late")
    assert claimed(ledger) == []
    sweep(ledger, 5.0)
    assert find_operation(ledger, "late").state == State.CANCELLED
    with pytest.raises(NotAllowed, match="cancelled"):
        resume_batch(ledger, "book", "bob", "please")
    with pytest.raises(NotAllowed, match="another name"):
        begin_batch(ledger, "book", kind="fees.process", lane="bulk", source="book.csv", rows=3, by="ann")


def test_the_next_of_an_account_goes_when_a_batch_is_cancelled(ledger: Ledger) -> None:
    record_book(ledger, "B1", entity="7")
    record_operations(ledger, "W1", entity="7")
    assert claim_due(ledger) == []  # parked behind B1

    cancel_batch(ledger, "book", "ada", "wrong file")
    sweep(ledger, 5.0)

    assert names_of(claim_due(ledger)) == ["W1"]


def test_a_sweep_that_was_interrupted_is_completed_by_the_next(
    ledger: Ledger, open_again: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.ledger.batches.CHUNK", 20)
    record_book(ledger, *(f"B{number}" for number in range(45)))
    pause_batch(ledger, "book", "ada", "wrong file?")
    assert not sweep(ledger, 0.0), "a part is done, then its process dies"

    assert sweep(open_again(), 30.0)
    resume_batch(ledger, "book", "ada", "it was right")
    assert not sweep(ledger, 0.0)
    pause_batch(ledger, "book", "ada", "no, it was not")
    sweep(ledger, 30.0)
    assert claimed(ledger) == []
    resume_batch(ledger, "book", "ada", "it was")
    sweep(ledger, 30.0)
    assert count_due(ledger)["bulk"] == 45


def test_a_claim_puts_aside_only_a_part_of_a_batch_that_is_not_swept(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.ledger.claims.PUT_ASIDE", 400)
    record_book(ledger, *(f"B{number}" for number in range(650)))
    pause_batch(ledger, "book", "ada", "wrong file?")

    assert claimed(ledger) == []
    left = count_due(ledger)["bulk"]
    assert claimed(ledger) == []

    assert 0 < left < 650
    assert count_due(ledger)["bulk"] == 0


def test_a_decision_is_made_once_and_only_about_what_the_person_saw(ledger: Ledger) -> None:
    record_book(ledger, "B1")
    seen = find_batch(ledger, "book")
    assert seen is not None
    pause_batch(ledger, "book", "ada", "wrong file?", seen.seen)

    with pytest.raises(NotAllowed, match="paused already, by ada: wrong file"):
        pause_batch(ledger, "book", "bob", "wrong file?")
    with pytest.raises(NotAllowed, match="has changed since you looked"):
        cancel_batch(ledger, "book", "bob", "wrong file", seen.seen)
    resume_batch(ledger, "book", "ada", "right file")
    with pytest.raises(NotAllowed, match="not paused"):
        resume_batch(ledger, "book", "bob", "right file")
    with pytest.raises(NotAllowed, match="no such import"):
        pause_batch(ledger, "bok", "ada", "wrong file?")


def test_four_eyes_ask_a_second_person_to_cancel_and_to_resume(ledger: Ledger) -> None:
    ledger = replace(ledger, needs_approval=lambda kind, lane: True)
    record_book(ledger, "B1")
    batch = pause_batch(ledger, "book", "ada", "wrong file?")
    for refused in (resume_batch, cancel_batch):
        with pytest.raises(NotAllowed, match="second person"):
            refused(ledger, "book", "ada", "alone")

    proposed = resume_batch_or_propose(ledger, batch, "ada", "right file")
    assert isinstance(proposed, Approval)
    assert approve(ledger, proposed.id, "bob", "I have seen it").decision == "approved"
    sweep(ledger, 5.0)
    assert claimed(ledger) == ["B1"]
    record_book(ledger, "B2")
    found = find_batch(ledger, "book")
    assert found is not None
    to_cancel = cancel_batch_or_propose(ledger, found, "ada", "wrong after all")
    assert isinstance(to_cancel, Approval)
    pause_batch(ledger, "book", "cyd", "one moment")
    assert approve(ledger, to_cancel.id, "bob", "yes").decision == "changed"


def test_an_import_that_goes_on_is_the_same_batch(ledger: Ledger) -> None:
    begun = {"kind": "fees.process", "lane": "bulk", "source": "book.csv", "rows": 3}
    first = begin_batch(ledger, "book", by="ann", **begun)  # type: ignore[arg-type]

    assert begin_batch(ledger, "book", by="bob", **begun) == first  # type: ignore[arg-type]
    assert list_batches(ledger) == [first]
    with pytest.raises(NotAllowed, match="another name"):
        begin_batch(ledger, "book", by="ann", **begun | {"lane": "money"})  # type: ignore[arg-type]
