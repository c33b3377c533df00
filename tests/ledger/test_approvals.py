"""Four eyes: what one person proposes, another one approves."""

import time
from collections.abc import Callable
from dataclasses import replace as changed
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from tests.operations import (
    claim_one,
    fail,
    fail_operation,
    find_operation,
    hold_operation,
    make_wait,
    record_operation,
)
from worker.errors import BadPayload, NotAllowed
from worker.ledger import (
    Ledger,
    active_flags,
    audit_of,
    cancel,
    pause,
    replay,
    return_unsent,
)
from worker.ledger.approvals import (
    OURSELVES,
    Approval,
    approvals_of,
    approve,
    cancel_batch_or_propose,
    decide_or_propose,
    decided_approvals,
    is_same_person,
    open_approvals,
    reject,
    resume_batch_or_propose,
    resume_or_propose,
)
from worker.ledger.batches import Batch, begin_batch, find_batch, pause_batch
from worker.ledger.operator_actions import correct, resolve, stop_asking
from worker.ledger.pauses import resume
from worker.operation import FailureReason, State, WaitReason


@pytest.fixture
def strict(ledger: Ledger) -> Ledger:
    with ledger.writing() as connection:
        connection.execute(text("DELETE FROM b2copy_approvals"))
    return changed(ledger, needs_approval=lambda kind, lane: True)


def propose(ledger: Ledger, name: str = "W1", action: str = "replay", by: str = "ann", **arguments: Any) -> Approval:
    proposed = decide_or_propose(ledger, action, find_operation(ledger, name), by, "the account is open", **arguments)
    assert isinstance(proposed, Approval)
    return proposed


def test_without_four_eyes_the_decision_is_made_at_once(ledger: Ledger) -> None:
    fail_operation(ledger, "W1")

    decide_or_propose(ledger, "replay", find_operation(ledger, "W1"), "ann", "the account is open")

    assert find_operation(ledger, "W1").state == State.QUEUED


def test_no_function_goes_around_the_second_person(strict: Ledger) -> None:
    key = fail_operation(strict, "W1")
    waits = record_operation(strict, "W2").key
    pause(strict, "money", "ann", "stop")

    assert replay(strict, [key], "ann", "again") == []
    for refused in (
        lambda: resolve(strict, key, "ann", "done", succeeded=True),
        lambda: cancel(strict, waits, "ann", "no"),
        lambda: stop_asking(strict, waits, "ann", "no"),
        lambda: resume(strict, "money", "ann", "go"),
    ):
        with pytest.raises(NotAllowed, match="second person"):
            refused()
    assert find_operation(strict, "W1").state == State.FAILED


def test_a_correction_is_proposed_and_made_by_the_second_person(strict: Ledger) -> None:
    key = fail_operation(strict, "W1")
    payload = {"account_login": "8", "request_id": "W1"}
    with pytest.raises(NotAllowed, match="second person"):
        correct(strict, key, payload, "ann", "mistyped")
    proposed = propose(strict, action="correct", payload=payload)
    assert find_operation(strict, "W1").payload["account_login"] == "7"

    assert approve(strict, proposed.id, "bob", "seen").decision == "approved"

    found = find_operation(strict, "W1")
    assert (found.state, found.payload, found.replays) == (State.QUEUED, payload, 1)


def test_what_may_have_been_done_cannot_be_proposed_to_be_corrected(strict: Ledger) -> None:
    fail_operation(strict, "W1", failure_reason=FailureReason.UNRESOLVED)

    with pytest.raises(NotAllowed, match="resolve it first"):
        propose(strict, action="correct", payload={"account_login": "8", "request_id": "W1"})


def test_the_second_person_makes_the_decision(strict: Ledger) -> None:
    key = fail_operation(strict, "W1")
    proposed = propose(strict)
    assert find_operation(strict, "W1").state == State.FAILED

    assert approve(strict, proposed.id, "bob", "seen").decision == "approved"

    assert find_operation(strict, "W1").state == State.QUEUED
    actions = [(entry.action, entry.actor) for entry in audit_of(strict, key)]
    assert actions == [
        (f"propose replay, {proposed.name}", "ann"),
        (f"approved {proposed.name}", "bob"),
        ("replay", "bob"),
    ]
    with pytest.raises(NotAllowed, match="approved already"):
        approve(strict, proposed.id, "carl", "again")


@pytest.mark.parametrize("same", ["ann", " Ann", "ANN ", "an\u200bn", "\uff41nn", "\u202eann", "ann\u00a0"])
def test_nobody_approves_their_own_proposal(strict: Ledger, same: str) -> None:
    fail_operation(strict, "W1")
    proposed = propose(strict)

    with pytest.raises(NotAllowed, match="another person"):
        approve(strict, proposed.id, same, "fine")
    assert find_operation(strict, "W1").state == State.FAILED
    assert reject(strict, proposed.id, same, "no").decision == "withdrawn"


def test_a_proposal_stays_open_while_a_claim_holds_its_operation_for_a_moment(strict: Ledger) -> None:
    record_operation(strict, "W1")
    proposed = propose(strict, action="cancel")
    held = claim_one(strict)

    with pytest.raises(NotAllowed, match="a call may be under way this very moment: try again in some seconds"):
        approve(strict, proposed.id, "bob", "seen")

    assert [one.id for one in open_approvals(strict)] == [proposed.id]
    return_unsent(strict, [held])
    assert approve(strict, proposed.id, "bob", "seen").decision == "approved"
    assert find_operation(strict, "W1").state == State.CANCELLED


@pytest.mark.parametrize("is_running_again", [True, False])
def test_a_proposal_to_cancel_is_void_once_something_was_sent_or_it_was_replayed(
    strict: Ledger, ledger: Ledger, is_running_again: bool
) -> None:
    record_operation(strict, "W1")
    proposed = propose(strict, action="cancel")
    held = claim_one(strict)
    if is_running_again:
        fail(strict, held, sent=False)
        replay(ledger, [held.key], "cyd", "again")
        claim_one(strict)
    else:
        make_wait(strict, held)

    assert approve(strict, proposed.id, "bob", "seen").decision == "changed"


def test_the_table_itself_refuses_an_approval_by_the_proposer(strict: Ledger) -> None:
    fail_operation(strict, "W1")
    proposed = propose(strict)

    with pytest.raises(IntegrityError), strict.writing() as connection:
        connection.execute(
            text(
                "UPDATE b2copy_approvals SET decision = 'approved', decided_by = ' ANN', decided_at = 1"
                f" WHERE id = {proposed.id}"
            )
        )


def test_a_proposal_is_void_once_the_operation_has_changed(strict: Ledger, ledger: Ledger) -> None:
    fail_operation(strict, "W1")
    proposed = propose(strict)
    replay(ledger, [find_operation(ledger, "W1").key], "carl", "meanwhile")
    fail(ledger, claim_one(ledger))

    assert approve(strict, proposed.id, "bob", "seen").decision == "changed"

    assert find_operation(strict, "W1").replays == 1
    assert open_approvals(strict) == []


def test_a_proposal_of_a_newer_version_stays_open(strict: Ledger) -> None:
    fail_operation(strict, "W1")
    proposed = propose(strict)
    with strict.writing() as connection:
        connection.execute(text("UPDATE b2copy_approvals SET action = 'something_new'"))

    with pytest.raises(NotAllowed, match="newer version of b2copy-sync knows the action 'something_new'"):
        approve(strict, proposed.id, "bob", "seen")

    assert [one.action for one in open_approvals(strict)] == ["something_new"]


def test_a_proposal_expires(strict: Ledger) -> None:
    fail_operation(strict, "W1")
    proposed = propose(strict)
    with strict.writing() as connection:
        connection.execute(text("UPDATE b2copy_approvals SET expires_at = 1"))

    assert open_approvals(strict) == []
    assert approve(strict, proposed.id, "bob", "seen").decision == "expired"
    assert find_operation(strict, "W1").state == State.FAILED
    assert propose(strict).id > proposed.id


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Jos\u00e9", "jose\u0301", True),
        ("Ann  Lee", "ann\u00a0lee", True),
        ("stra\u00dfe", "STRASSE", True),
        ("ann", "a\ufe0fn\u034fn\u3164", True),
        ("ann", "ann\U000e0100\u115f\u2800", True),
        ("ann", "anna", False),
        ("jose", "jos\u00e9", False),
        ("ann@a", "ann@b", False),
    ],
)
def test_names_that_look_alike_are_one_persons(one: str, other: str, same: bool) -> None:
    assert is_same_person(one, other) is same


def test_the_same_proposal_twice_is_one_and_another_must_wait(strict: Ledger) -> None:
    fail_operation(strict, "W1")
    first = propose(strict)

    assert propose(strict).id == first.id
    with pytest.raises(NotAllowed, match=f"{first.name} is open"):
        propose(strict, action="resolve", by="carl", succeeded=True)


def test_what_is_proposed_must_be_possible(strict: Ledger) -> None:
    fail_operation(strict, "W1", failure_reason=FailureReason.UNRESOLVED, kind="call")
    record_operation(strict, "W2")

    operation = find_operation(strict, "W1", kind="call")
    with pytest.raises(NotAllowed):
        decide_or_propose(strict, "replay", operation, "ann", "again")
    with pytest.raises(NotAllowed):
        propose(strict, "W2", action="stop_asking")
    assert decide_or_propose(strict, "replay", operation, "ann", "looked", not_done=True)
    assert propose(strict, "W2", action="cancel").action == "cancel"


def test_the_end_of_a_pause_is_proposed_too(strict: Ledger) -> None:
    pause(strict, "money", "ann", "stop")

    proposed = resume_or_propose(strict, "money", "ann", "go")
    assert isinstance(proposed, Approval)
    assert "pause:money" in active_flags(strict)

    approve(strict, proposed.id, "bob", "go")
    assert active_flags(strict) == {}


def test_a_resolution_keeps_its_arguments(strict: Ledger) -> None:
    fail_operation(strict, "W1", failure_reason=FailureReason.UNRESOLVED)

    approve(strict, propose(strict, action="resolve", succeeded=True, result={"id": 7}).id, "bob", "seen")

    assert find_operation(strict, "W1").result == {"id": 7}


PAYLOAD = {"account_login": "8", "request_id": "W1"}


def wait_sent(ledger: Ledger) -> None:
    make_wait(ledger, hold_operation(ledger, "W1"), wait_reason=WaitReason.PENDING_AT_B2COPY)


DECISIONS: list[tuple[str, Callable[[Ledger], object], dict[str, Any], dict[str, Any]]] = [
    ("replay", fail_operation, {}, {"state": State.QUEUED}),
    ("correct", fail_operation, {"payload": PAYLOAD, "entity": "8"},
     {"state": State.QUEUED, "payload": PAYLOAD, "entity": "8"}),
    ("resolve", fail_operation, {"succeeded": True, "result": {"id": 7}},
     {"state": State.SUCCEEDED, "result": {"id": 7}}),
    ("resolve", fail_operation, {"succeeded": False}, {"state": State.FAILED, "failure_reason": "rejected"}),
    ("cancel", record_operation, {}, {"state": State.CANCELLED}),
    ("stop_asking", wait_sent, {}, {"state": State.FAILED, "failure_reason": "unresolved"}),
]  # fmt: skip


@pytest.mark.parametrize(("action", "prepare", "arguments", "outcome"), DECISIONS)
def test_each_decision_is_made_by_one_person_or_by_two(
    ledger: Ledger,
    strict: Ledger,
    action: str,
    prepare: Callable[[Ledger], object],
    arguments: dict[str, Any],
    outcome: dict[str, Any],
) -> None:
    prepare(ledger)
    before = find_operation(ledger)
    proposed = propose(strict, action=action, **arguments)
    assert find_operation(ledger) == before
    approve(strict, proposed.id, "bob", "seen")
    by_two = find_operation(ledger)
    with ledger.writing() as connection:
        connection.execute(text("DELETE FROM b2copy_operations"))
    prepare(ledger)

    decided = decide_or_propose(ledger, action, find_operation(ledger), "ann", "the account is open", **arguments)

    found = find_operation(ledger)
    assert {name: getattr(by_two, name) for name in outcome} == outcome
    assert {name: getattr(found, name) for name in outcome} == outcome
    assert decided == found or action == "replay"
    entry = audit_of(strict, found.key)[3]
    assert (entry.actor, entry.note) == ("ann", "the account is open")
    reason = f"the account is open ({proposed.name}, proposed by ann; approved: seen)"
    assert audit_of(strict, found.key)[2].note == reason


@pytest.mark.parametrize(
    ("action", "prepare", "arguments"),
    [
        ("replay", record_operation, {}),
        ("correct", record_operation, {"payload": PAYLOAD}),
        ("resolve", record_operation, {"succeeded": True}),
        ("cancel", wait_sent, {}),
        ("cancel", fail_operation, {}),
        ("stop_asking", record_operation, {}),
        ("stop_asking", fail_operation, {}),
    ],
)
def test_what_an_operation_does_not_permit_is_neither_proposed_nor_done(
    ledger: Ledger, strict: Ledger, action: str, prepare: Callable[[Ledger], object], arguments: dict[str, Any]
) -> None:
    prepare(ledger)
    before = find_operation(ledger)

    for one in (strict, ledger):
        with pytest.raises(NotAllowed):
            decide_or_propose(one, action, before, "ann", "why", **arguments)

    assert find_operation(ledger) == before
    assert open_approvals(strict) == []


def test_a_payload_that_cannot_be_stored_is_not_proposed(strict: Ledger) -> None:
    fail_operation(strict)

    with pytest.raises(BadPayload):
        propose(strict, action="correct", payload={"amount": float("nan")})


@pytest.mark.parametrize("action", ["replay", "correct", "resolve", "cancel"])
def test_a_decision_is_about_the_operation_as_the_person_saw_it(ledger: Ledger, strict: Ledger, action: str) -> None:
    if action == "cancel":
        record_operation(ledger)
    else:
        fail_operation(ledger)
    of_action: dict[str, dict[str, Any]] = {"correct": {"payload": PAYLOAD}, "resolve": {"succeeded": True}}
    arguments = of_action.get(action, {})
    before = find_operation(ledger)

    for one in (strict, ledger):
        with pytest.raises(NotAllowed, match="has changed since you looked"):
            decide_or_propose(one, action, before, "ann", "why", "as it was yesterday", **arguments)

    assert find_operation(ledger) == before


def test_a_proposal_says_who_wants_what_and_until_when_and_then_what_became_of_it(strict: Ledger) -> None:
    key = fail_operation(strict, kind="call", failure_reason=FailureReason.UNRESOLVED)
    fail_operation(strict, "W2")
    seen = find_operation(strict, kind="call").change_mark

    proposed = decide_or_propose(
        strict, "replay", find_operation(strict, kind="call"), "ann", "it was not done", not_done=True
    )
    other = propose(strict, "W2")

    assert isinstance(proposed, Approval)
    assert proposed == Approval(
        proposed.id, "replay", key, {"not_done": True}, seen, proposed.proposed_at, "ann", "it was not done",
        proposed.proposed_at + 24 * 3_600_000, None, None, None, None,
    )  # fmt: skip
    assert abs(proposed.proposed_at - time.time() * 1000) < 60_000
    assert approvals_of(strict, key) == [proposed]
    assert open_approvals(strict) == [proposed, other]
    assert decided_approvals(strict) == []

    rejected = reject(strict, proposed.id, "bob", "it was done")

    assert rejected == proposed._replace(
        decision="rejected", decided_at=rejected.decided_at, decided_by="bob", decided_note="it was done"
    )
    assert abs((rejected.decided_at or 0) - time.time() * 1000) < 60_000
    assert approvals_of(strict, key) == []
    assert open_approvals(strict) == [other]
    assert decided_approvals(strict) == [rejected]
    approve(strict, other.id, "bob", "")
    assert [one.decision for one in decided_approvals(strict)] == ["approved", "rejected"]
    assert audit_of(strict, other.subject)[1].note == "its proposal to replay"
    with pytest.raises(NotAllowed, match="there is no such proposal"):
        approve(strict, 999, "bob", "which?")


def test_a_proposal_about_an_operation_that_has_changed_makes_room_for_another(ledger: Ledger, strict: Ledger) -> None:
    key = fail_operation(ledger)
    void = propose(strict)
    replay(ledger, [key], "carl", "meanwhile")
    fail(ledger, claim_one(ledger))

    proposed = propose(strict, action="resolve", by="carl", succeeded=True)

    assert open_approvals(strict) == [proposed]
    [closed] = decided_approvals(strict)
    assert (closed.id, closed.decision, closed.decided_by) == (void.id, "changed", OURSELVES)
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_approvals SET expires_at = 1 WHERE decision IS NULL"))
    assert approvals_of(strict, key) == []
    assert propose(strict, by="carl").id > proposed.id
    assert [one.decision for one in decided_approvals(strict)] == ["expired", "changed"]


def test_an_approval_that_comes_too_late_says_why(ledger: Ledger, strict: Ledger) -> None:
    key = fail_operation(ledger)
    proposed = propose(strict)
    resolve(ledger, key, "carl", "found it", succeeded=True)

    void = approve(strict, proposed.id, "bob", "seen")

    assert (void.decision, void.decided_by) == ("changed", OURSELVES)
    assert "has changed since you looked" in (void.decided_note or "")


def test_the_end_of_a_pause_needs_one_person_or_two(ledger: Ledger, strict: Ledger) -> None:
    assert resume_or_propose(strict, "money", "ann", "go") is False
    assert resume_or_propose(ledger, "money", "ann", "go") is False
    pause(ledger, "money", "ann", "stop")
    assert resume_or_propose(ledger, "money", "ann", "go") is True
    pause(ledger, "money", "ann", "stop")
    proposed = resume_or_propose(strict, "money", "ann", "go")
    assert isinstance(proposed, Approval)
    with ledger.writing() as connection:  # somebody ended the pause and began another one
        connection.execute(text("UPDATE b2copy_flags SET since = since + 1"))

    assert approve(strict, proposed.id, "bob", "go").decision == "changed"

    assert "pause:money" in active_flags(ledger)


@pytest.mark.parametrize("decision", ["resume", "cancel"])
def test_a_decision_about_a_batch_needs_one_person_or_two(ledger: Ledger, strict: Ledger, decision: str) -> None:
    decide: Callable[..., Any] = resume_batch_or_propose if decision == "resume" else cancel_batch_or_propose
    expected = None if decision == "resume" else "cancelled"
    for name in ("one", "two", "changed"):
        begin_batch(ledger, name, kind="fees.process", lane="money", source="f", rows=1, by="ada")
        record_operation(ledger, f"of {name}", batch=name)
        pause_batch(ledger, name, "ann", "look")

    def now(name: str) -> Batch:
        found = find_batch(ledger, name)
        assert found is not None
        return found

    decided = decide(ledger, now("one"), "ann", "looked")
    assert now("one").decision == expected
    assert decided == now("one")
    for one in (ledger, strict):
        with pytest.raises(NotAllowed, match="has changed since you looked"):
            decide(one, now("changed"), "ann", "looked", "paused since 1")

    proposed = decide(strict, now("two"), "ann", "looked")
    assert now("two").decision == "paused"
    assert approve(strict, proposed.id, "bob", "seen").decision == "approved"
    assert (now("two").decision, now("two").decided_by) == (expected, "bob")
