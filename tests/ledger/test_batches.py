"""Batches: what a person pauses, resumes or cancels is never started meanwhile, and nothing is lost by it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from tests.ledger.databases import is_waiting_for_a_lock, on_postgresql
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
    succeed_all,
    succeed_operation,
)
from tests.support import until
from worker.cli import import_control
from worker.errors import NotAllowed
from worker.ledger import Ledger, audit_of, count_due, find, make_due, pause, poll_now, return_unsent
from worker.ledger.approvals import (
    Approval,
    approve,
    cancel_batch_or_propose,
    decide_or_propose,
    reject,
    resume_batch_or_propose,
)
from worker.ledger.batches import (
    Batch,
    batch_counts,
    begin_batch,
    beyond_recall,
    cancel_batch,
    cancelled_among,
    decide_within,
    find_batch,
    list_batches,
    pause_batch,
    put_aside,
    resume_batch,
    sweep,
    sweep_forgotten,
)
from worker.ledger.claims import claim_within
from worker.ledger.schema import HELD_MS
from worker.operation import Operation, State, WaitReason, claim_clock


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


@pytest.mark.parametrize("by", ["sweep", "claim"])
def test_what_was_parked_behind_a_batch_goes_as_soon_as_that_is_put_aside(ledger: Ledger, by: str) -> None:
    record_operations(ledger, "B1", batch="book", entity="7")
    record_operations(ledger, "W1", "W2", entity="7")
    held = claim_one(ledger)
    return_unsent(ledger, [held])
    assert [find_operation(ledger, name).state for name in ("W1", "W2")] == [State.WAITING] * 2

    pause_batch(ledger, "book", "ada", "wrong file?")
    if by == "sweep":
        sweep(ledger, 5.0)
    else:
        claim_due(ledger)

    assert succeed_all(ledger) == ["W1", "W2"]


def test_what_was_parked_when_its_batch_was_paused_goes_as_soon_as_that_is_resumed(ledger: Ledger) -> None:
    record_operations(ledger, "A1", entity="7")
    record_operations(ledger, "B1", batch="book", entity="7")
    record_operations(ledger, "P1", lane="bulk")
    record_operations(ledger, "B2", batch="book", parent="fees.process:P1")
    ahead = claim_one(ledger)
    pause_batch(ledger, "book", "ada", "wrong file?")  # not swept yet
    succeed(ledger, ahead, claim_one(ledger, lane="bulk"))

    resume_batch(ledger, "book", "ada", "right file")
    sweep(ledger, 5.0)

    assert sorted(names_of(claim_due(ledger))) == ["B1", "B2"]


def test_what_comes_back_from_a_pause_and_is_parked_is_examined_again_soon(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "A1", entity="7")
    record_operations(ledger, "B1", batch="book", entity="7")
    claim_due(ledger)
    pause_batch(ledger, "book", "ada", "wrong file?")
    sweep(ledger, 5.0)
    clock.advance(600)
    resume_batch(ledger, "book", "ada", "right file")
    sweep(ledger, 5.0)
    claim_due(ledger, "worker 2")

    clock.advance(1.5)

    assert count_due(ledger)["money"] == 1


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
    with ledger.reading() as connection:
        moved = connection.execute(text("SELECT deadline_at - time_allowed_ms - requested_at FROM b2copy_operations"))
        assert {abs(ms) < 1000 for ms in moved.scalars()} == {True}, "the instant of the request stays"


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

    cancel_batch(ledger, "book", "ada", "wrong file")
    sweep(ledger, 30.0)

    assert beyond_recall(ledger, "book") == 2
    assert batch_counts(ledger, ["book"])["book"].states == {
        State.CANCELLED: 597, State.RUNNING: 1, State.WAITING: 1, State.FAILED: 1,
    }  # fmt: skip
    succeed(ledger, running)
    sweep(ledger, 5.0)
    record_operations(ledger, "late", lane="bulk")
    with ledger.writing() as connection:  # as if it had been recorded by a transaction that committed later
        connection.execute(text("UPDATE b2copy_operations SET batch = 'book' WHERE key = 'fees.process:late'"))
    assert claimed(ledger) == []
    sweep(ledger, 5.0)
    assert find_operation(ledger, "late").state == State.CANCELLED
    with pytest.raises(NotAllowed, match="cancelled"):
        resume_batch(ledger, "book", "bob", "please")
    with pytest.raises(NotAllowed, match="another name"):
        begin_batch(ledger, "book", kind="fees.process", lane="bulk", source="book.csv", rows=3, by="ann")


@on_postgresql
def test_the_command_that_cancels_a_batch_counts_what_an_open_claim_has_taken(
    ledger: Ledger, ledger_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("B2COPY_DATABASE_URL", ledger_url)
    record_book(ledger, "B1", "B2", "B3")

    with ledger.writing() as claiming, ThreadPoolExecutor(1) as threads:
        claim_within(claiming, "bulk", "worker 1", 2, claim_clock())
        cancelling = threads.submit(import_control.cancel, "book", "wrong file", "ada", yes=True)
        until(lambda: is_waiting_for_a_lock(ledger))
        claiming.commit()
        cancelling.result(20)

    count = "1 operation cancelled, 2 not: sent already, or being sent"
    assert capsys.readouterr().out == f"import book is cancelled: {count}\n"


def test_what_comes_back_unsent_behind_a_sweep_is_cancelled_all_the_same(ledger: Ledger) -> None:
    record_book(ledger, "B1", "B2")
    first = claim_due(ledger, lane="bulk", limit=1)
    cancel_batch(ledger, "book", "ada", "wrong file")
    assert not sweep(ledger, 0.0), "the sweep has passed B1 and is not at its end"
    return_unsent(ledger, first)

    assert claimed(ledger) == []
    assert sweep(ledger, 5.0)

    assert find_operation(ledger, "B1").state == State.CANCELLED


def test_what_comes_back_unsent_where_a_sweep_stands_is_cancelled_too(ledger: Ledger) -> None:
    record_book(ledger, "B1", "B2")
    cancel_batch(ledger, "book", "ada", "wrong file")
    first = find_operation(ledger, "B1").id
    with ledger.writing() as connection:  # the sweep has passed it while a process held it
        connection.execute(text(f"UPDATE b2copy_batches SET swept_to = {first}"))
    assert claimed(ledger) == []

    assert sweep(ledger, 20.0)

    assert [find_operation(ledger, name).state for name in ("B1", "B2")] == [State.CANCELLED] * 2


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


DECISIONS: dict[str, dict[str, Any]] = {
    "replay": {},
    "correct": {"payload": {"account_login": "8", "request_id": "B1"}},
}


def fail_unsent(ledger: Ledger) -> Operation:
    record_book(ledger, "B1", "B2")
    fail(ledger, claim_due(ledger, lane="bulk", limit=1)[0], failure_reason="client_unknown", sent=False)
    return find_operation(ledger, "B1")


@pytest.mark.parametrize("action", DECISIONS)
def test_what_a_person_repeats_of_a_cancelled_batch_leaves_it_and_is_sent(ledger: Ledger, action: str) -> None:
    failed = fail_unsent(ledger)
    cancel_batch(ledger, "book", "ada", "the rest is wrong")
    sweep(ledger, 5.0)

    decide_or_propose(ledger, action, failed, "bob", "this client is known now", **DECISIONS[action])

    assert claimed(ledger) == ["B1"]
    sweep_forgotten(ledger)
    assert sweep(ledger, 5.0)
    assert (find_operation(ledger, "B1").state, find_operation(ledger, "B1").batch) == (State.RUNNING, None)
    assert batch_counts(ledger, ["book"])["book"].states == {State.CANCELLED: 1}
    [decided] = audit_of(ledger, failed.key)
    assert decided.detail is not None
    assert decided.detail["before"]["batch"] == "book"


@pytest.mark.parametrize("action", DECISIONS)
def test_what_is_approved_after_its_batch_was_cancelled_is_sent(ledger: Ledger, action: str) -> None:
    strict = replace(ledger, needs_approval=lambda kind, lane: True)
    failed = fail_unsent(ledger)
    proposed = decide_or_propose(strict, action, failed, "ann", "this client is known now", **DECISIONS[action])
    assert isinstance(proposed, Approval)
    cancel_batch(ledger, "book", "ada", "the rest is wrong")
    sweep(ledger, 5.0)

    assert approve(strict, proposed.id, "bob", "yes").decision == "approved"

    assert claimed(ledger) == ["B1"]


@pytest.mark.parametrize("action", DECISIONS)
def test_what_is_repeated_of_a_batch_that_is_not_cancelled_stays_in_it(ledger: Ledger, action: str) -> None:
    failed = fail_unsent(ledger)
    pause_batch(ledger, "book", "ada", "one moment")

    decide_or_propose(ledger, action, failed, "bob", "this client is known now", **DECISIONS[action])

    assert claimed(ledger) == []
    [decided] = audit_of(ledger, failed.key)
    assert "batch" not in (decided.detail or {}).get("before", {})
    cancel_batch(ledger, "book", "ada", "wrong file")
    sweep(ledger, 5.0)
    assert find_operation(ledger, "B1").state == State.CANCELLED, "it was cancelled after the replay"


def test_what_was_sent_of_a_cancelled_batch_is_replayed_in_it(ledger: Ledger) -> None:
    record_book(ledger, "B1")
    fail(ledger, *claim_due(ledger, lane="bulk"))
    cancel_batch(ledger, "book", "ada", "wrong file")

    decide_or_propose(ledger, "replay", find_operation(ledger, "B1"), "bob", "finish it")

    assert claimed(ledger) == ["B1"]
    assert find_operation(ledger, "B1").batch == "book"


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


@on_postgresql
def test_a_resume_waits_for_a_claim_that_puts_aside(ledger: Ledger, open_again: Callable[[], Ledger]) -> None:
    record_book(ledger, "B1", "B2")
    pause_batch(ledger, "book", "ada", "wrong file?")
    other = open_again()

    def resume() -> None:
        resume_batch(other, "book", "ada", "right file")
        sweep(other, 5.0)

    with ledger.engine.begin() as claiming, ThreadPoolExecutor(1) as threads:
        assert claim_within(claiming, "bulk", "worker 1", 10, claim_clock()) == []
        resumed = threads.submit(resume)
        until(lambda: resumed.done() or is_waiting_for_a_lock(ledger))
        claiming.commit()
        resumed.result(10)

    assert claimed(ledger) == ["B1", "B2"]


@on_postgresql
def test_a_sweep_obeys_a_decision_that_is_made_at_the_same_time(
    ledger: Ledger, open_again: Callable[[], Ledger]
) -> None:
    record_book(ledger, "B1", "B2")
    pause_batch(ledger, "book", "ada", "wrong file?")
    other = open_again()

    with ThreadPoolExecutor(1) as threads:
        with ledger.writing() as connection:
            decide_within(connection, "book", None, "ada", "right file")
            swept = threads.submit(sweep, other, 5.0)
            until(lambda: swept.done() or is_waiting_for_a_lock(ledger))
        swept.result(10)
    sweep(ledger, 5.0)

    assert claimed(ledger) == ["B1", "B2"]


def test_a_claim_puts_nothing_aside_of_a_batch_that_was_resumed_meanwhile(ledger: Ledger) -> None:
    record_book(ledger, "B1")
    pause_batch(ledger, "book", "ada", "wrong file?")
    resume_batch(ledger, "book", "ada", "right file")
    sweep(ledger, 5.0)

    with ledger.writing() as connection:
        put_aside(connection, {find_operation(ledger, "B1").id: "book"})

    assert claimed(ledger) == ["B1"]


@on_postgresql
def test_a_claim_does_not_wait_for_a_decision_about_a_batch(ledger: Ledger) -> None:
    record_book(ledger, "B1")
    record_operations(ledger, "L1", lane="bulk")
    pause_batch(ledger, "book", "ada", "wrong file?")

    with ledger.engine.begin() as deciding:
        deciding.execute(text("SELECT id FROM b2copy_batches FOR UPDATE"))
        assert claimed(ledger) == ["L1"]

    assert count_due(ledger)["bulk"] == 1, "left for the next claim"
    assert claimed(ledger) == []
    assert count_due(ledger)["bulk"] == 0


def test_what_no_decision_holds_is_found_and_comes_back(ledger: Ledger) -> None:
    record_book(ledger, "B1")
    pause_batch(ledger, "book", "ada", "wrong file?")
    resume_batch(ledger, "book", "ada", "right file")
    sweep(ledger, 5.0)
    with ledger.writing() as connection:
        connection.execute(text(f"UPDATE b2copy_operations SET due_at = due_at + {HELD_MS}"))

    sweep_forgotten(ledger)
    sweep(ledger, 5.0)

    assert claimed(ledger) == ["B1"]


def test_what_comes_back_unsent_to_a_cancelled_batch_is_cancelled_while_its_lane_is_paused(ledger: Ledger) -> None:
    record_book(ledger, "B1", "B2")
    unsent, sent = claim_due(ledger, lane="bulk")
    pause(ledger, "bulk", "ada", "month end")
    cancel_batch(ledger, "book", "ada", "wrong file")
    assert sweep(ledger, 5.0)
    return_unsent(ledger, [unsent])
    make_wait(ledger, sent)

    sweep_forgotten(ledger)
    assert found_book(ledger).swept_to == 0
    assert sweep(ledger, 5.0)

    assert find_operation(ledger, "B1").state == State.CANCELLED
    assert find_operation(ledger, "B2").state == State.WAITING
    sweep_forgotten(ledger)
    assert found_book(ledger).swept_to is None, "what was sent is finished, and needs no sweep"


def test_what_is_put_aside_of_a_cancelled_batch_is_found_and_cancelled(ledger: Ledger) -> None:
    record_book(ledger, "B1")
    first = claim_due(ledger, lane="bulk")
    cancel_batch(ledger, "book", "ada", "wrong file")
    sweep(ledger, 5.0)
    return_unsent(ledger, first)
    with ledger.writing() as connection:
        connection.execute(text(f"UPDATE b2copy_operations SET due_at = due_at + {HELD_MS}"))

    sweep_forgotten(ledger)
    sweep(ledger, 5.0)

    assert find_operation(ledger, "B1").state == State.CANCELLED


def test_what_is_put_aside_stays_so_whatever_else_would_make_it_due(ledger: Ledger, clock: LedgerClock) -> None:
    record_operations(ledger, "P1", "A1", entity=None)
    record_book(ledger, "B1", parent="fees.process:P1", time_allowed_s=3600.0)
    assert claimed(ledger) == [], "it waits for its parent"
    pause_batch(ledger, "book", "ada", "month end")
    sweep(ledger, 5.0)

    assert not poll_now(ledger, "fees.process:B1", "ann")
    assert make_due(ledger, "b2copy", WaitReason.BEHIND_PARENT) == 0
    succeed(ledger, *claim_due(ledger))
    clock.advance(7200)
    assert (claimed(ledger), count_due(ledger)["bulk"]) == ([], 0)
    resume_batch(ledger, "book", "ada", "month end is over")
    sweep(ledger, 5.0)

    [claim] = claim_due(ledger, lane="bulk")
    assert not claim.overdue
    assert find_operation(ledger, "B1").external_wait_ms >= 7200_000


@pytest.mark.parametrize("is_swept", [True, False], ids=["swept", "not swept yet"])
def test_each_follower_of_an_account_goes_while_an_earlier_one_is_held(ledger: Ledger, is_swept: bool) -> None:
    record_book(ledger, "B1", entity="7")
    pause_batch(ledger, "book", "ada", "wrong file?")
    assert not is_swept or sweep(ledger, 5.0)
    record_operations(ledger, "W1", "W2", "W3", entity="7")

    for name in ("W1", "W2", "W3"):
        [claim] = claim_due(ledger)
        assert names_of([claim]) == [name]
        succeed(ledger, claim)


def test_nothing_overtakes_what_a_resume_brings_back(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.ledger.batches.CHUNK", 1)
    record_book(ledger, "B0")
    record_book(ledger, "B1", entity="7")
    pause_batch(ledger, "book", "ada", "wrong file?")
    sweep(ledger, 5.0)
    record_operations(ledger, "W1", entity="7")
    resume_batch(ledger, "book", "ada", "right file")
    assert not sweep(ledger, 0.0)

    assert claim_due(ledger) == []
    sweep(ledger, 5.0)

    assert claimed(ledger) == ["B0", "B1"]


def test_a_second_person_is_asked_for_any_kind_in_a_batch(ledger: Ledger) -> None:
    ledger = replace(ledger, needs_approval=lambda kind, lane: lane == "money")
    record_book(ledger, "C1", kind="clients.register")
    record_operations(ledger, "W1", batch="book")
    batch = find_batch(ledger, "book")
    assert batch is not None
    assert batch.lane == "bulk"
    pause_batch(ledger, "book", "ada", "wrong file?")

    for decide, propose in ((resume_batch, resume_batch_or_propose), (cancel_batch, cancel_batch_or_propose)):
        with pytest.raises(NotAllowed, match="second person"):
            decide(ledger, "book", "ada", "alone")
        proposed = propose(ledger, found_book(ledger), "ada", "wrong file")
        assert isinstance(proposed, Approval)
        reject(ledger, proposed.id, "bob", "no")


def test_a_second_person_is_asked_about_what_the_decision_is_about(ledger: Ledger) -> None:
    strict = replace(ledger, needs_approval=lambda kind, lane: kind == "call")
    begin_batch(ledger, "book", kind="fees.process", lane="bulk", source="f", rows=1, by="ada")
    record_book(ledger, "sent", kind="call")
    make_wait(ledger, *claim_due(ledger, lane="bulk"))
    record_book(ledger, "elsewhere", kind="call", batch="other")
    record_book(ledger, "B1")

    assert cancel_batch(strict, "book", "ada", "wrong file").decision == "cancelled"


def found_book(ledger: Ledger) -> Batch:
    found = find_batch(ledger, "book")
    assert found is not None
    return found


def test_a_cancelled_batch_takes_in_nothing_new(ledger: Ledger) -> None:
    record_book(ledger, "B1")
    cancel_batch(ledger, "book", "ada", "wrong file")
    with pytest.raises(NotAllowed, match=r"fees\.process:B2: import book was cancelled by ada: wrong file"):
        record_book(ledger, "B1", "B2")
    record_book(ledger, "B1")
    assert find(ledger, "fees.process:B2") is None


def test_each_batch_has_its_turn_in_a_sweep(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.ledger.batches.CHUNK", 5)
    record_book(ledger, *(f"B{number}" for number in range(20)))
    record_book(ledger, "S1", "S2", batch="small")
    pause_batch(ledger, "book", "ada", "wrong file?")
    pause_batch(ledger, "small", "ada", "wrong file?")

    assert not sweep(ledger, 0.0)

    assert count_due(ledger)["bulk"] == 15


REFUSE = {
    "sqlite": [
        """CREATE TRIGGER refuse BEFORE UPDATE OF due_at ON b2copy_operations WHEN NEW.batch = 'book'
           BEGIN SELECT RAISE(ABORT, 'no'); END"""
    ],
    "postgresql": [
        "ALTER TABLE b2copy_operations ADD CONSTRAINT refuse CHECK (batch <> 'book' OR due_at < 6000000000000)",
    ],
}


def test_a_batch_whose_sweep_fails_holds_no_other_up(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    record_book(ledger, "B1")
    record_book(ledger, "S1", batch="small")
    with ledger.writing() as connection:
        for statement in REFUSE[ledger.engine.dialect.name]:
            connection.execute(text(statement))
    undo = (
        "DROP TRIGGER refuse"
        if ledger.engine.dialect.name == "sqlite"
        else ("ALTER TABLE b2copy_operations DROP CONSTRAINT refuse")
    )
    pause_batch(ledger, "book", "ada", "wrong file?")
    pause_batch(ledger, "small", "ada", "wrong file?")
    try:
        assert not sweep(ledger, 5.0)
        assert count_due(ledger)["bulk"] == 1
        assert "batch book: not all of its operations are paused" in caplog.text
    finally:
        with ledger.writing() as connection:
            connection.execute(text(undo))
    assert sweep(ledger, 5.0)
    assert count_due(ledger)["bulk"] == 0


@pytest.mark.parametrize("is_paused", [False, True], ids=["nobody decided", "paused"])
def test_what_was_requested_without_a_file_is_not_taken_for_rows_of_one(ledger: Ledger, is_paused: bool) -> None:
    record_book(ledger, "B1", by="crm@shop")
    if is_paused:
        pause_batch(ledger, "book", "ada", "wrong file?")
    before = found_book(ledger)

    with pytest.raises(NotAllowed, match="holds operations that crm@shop requested without a file: give this import"):
        begin_batch(ledger, "book", kind="fees.process", lane="bulk", source="book.csv", rows=3, by="ann")

    assert found_book(ledger) == before


@pytest.mark.parametrize("other", [{"source": "other.csv"}, {"rows": 4}], ids=["another file", "more rows"])
def test_a_name_stands_for_one_file(ledger: Ledger, other: dict[str, Any]) -> None:
    begun: dict[str, Any] = {"kind": "fees.process", "lane": "bulk", "source": "book.csv", "rows": 3, "by": "ann"}
    first = begin_batch(ledger, "book", **begun)

    with pytest.raises(NotAllowed, match=r"book is the import of book\.csv \(rows: 3\), .* another name with --batch"):
        begin_batch(ledger, "book", **begun | other)

    assert begin_batch(ledger, "book", **begun) == first


def test_a_page_of_batches_ends_between_two_of_the_same_instant(ledger: Ledger) -> None:
    for name in "abcde":
        begin_batch(ledger, name, kind="fees.process", lane="bulk", source="book.csv", rows=3, by="ann")
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_batches SET requested_at = 7"))

    pages = [list_batches(ledger, limit=2)]
    while pages[-1]:
        last = pages[-1][-1]
        pages.append(list_batches(ledger, (last.requested_at, last.id), limit=2))

    assert [[one.id for one in page] for page in pages] == [["e", "d"], ["c", "b"], ["a"], []]


def test_a_batch_that_nobody_has_decided_about_says_so(ledger: Ledger) -> None:
    record_book(ledger, "B1")

    assert found_book(ledger).seen.startswith("not decided since ")


def test_of_several_cancelled_batches_only_those_asked_for_are_read(ledger: Ledger) -> None:
    for batch in ("one", "two"):
        begin_batch(ledger, batch, kind="fees.process", lane="bulk", source="f", rows=1, by="ada")
        cancel_batch(ledger, batch, "ada", "wrong file")

    with ledger.reading() as connection:
        found = cancelled_among(connection, ["one", "three"])

    assert {name: batch.note for name, batch in found.items()} == {"one": "wrong file"}


def test_a_batch_says_what_it_is_and_what_was_decided_last(ledger: Ledger) -> None:
    begun = begin_batch(ledger, "file", kind="fees.process", lane="bulk", source="book.csv", rows=3, by="ann")
    record_book(ledger, "B1", by="crm")
    record_book(ledger, "B2", by="another")
    by_sql = found_book(ledger)

    assert begun == Batch(
        "file", "fees.process", "bulk", "book.csv", 3, "ann", begun.requested_at, None, None, None, None, None
    )
    first = find_operation(ledger, "B1")
    assert by_sql == begun._replace(
        id="book", source=None, rows=None, requested_by="crm", requested_at=first.requested_at
    )
    assert abs(begun.requested_at - first.requested_at) < 60_000
    assert (begun.subject, begun.seen) == ("batch:file", f"not decided since {begun.requested_at}")

    paused = pause_batch(ledger, "file", "ada", "wrong?")

    assert paused == begun._replace(
        decision="paused", decided_at=paused.decided_at, decided_by="ada", note="wrong?", swept_to=0
    )
    assert abs((paused.decided_at or 0) - begun.requested_at) < 60_000
    assert paused.seen == f"paused since {paused.decided_at}"
    assert [(entry.action, entry.actor) for entry in audit_of(ledger, "batch:file")] == [("pause import", "ada")]
    assert find_batch(ledger, "none") is None


def test_a_batch_stands_at_what_its_own_operations_are(ledger: Ledger) -> None:
    record_book(ledger, "B1", "B2", "B3", "B4", "B5")
    for each in claim_due(ledger, lane="bulk", limit=2):
        succeed(ledger, each)
    make_wait(ledger, *claim_due(ledger, lane="bulk", limit=1))
    claim_due(ledger, lane="bulk", limit=1)
    record_operations(ledger, "O1", "O2", lane="default", batch="other")
    make_wait(ledger, *claim_due(ledger, lane="default"))
    succeed_operation(ledger, "of no batch", lane="default")
    with ledger.writing() as connection:
        for name, ago_ms in (("B1", 40_000), ("B2", 90_000)):
            ended_at = f"ended_at = ended_at - {ago_ms}"
            connection.execute(text(f"UPDATE b2copy_operations SET {ended_at} WHERE key = 'fees.process:{name}'"))

    counts = batch_counts(ledger, ["book", "other", "none"])

    states = {State.SUCCEEDED: 2, State.WAITING: 1, State.RUNNING: 1, State.QUEUED: 1}
    book = counts["book"]
    assert (book.states, book.ended_last_minute) == (states, 1)
    assert (book.recorded, book.open) == (5, 3)
    assert counts["other"].open == 2
    assert (counts["none"].recorded, counts["none"].open, counts["none"].ended_last_minute) == (0, 0, 0)
    assert (beyond_recall(ledger, "book"), beyond_recall(ledger, "none")) == (2, 0)
