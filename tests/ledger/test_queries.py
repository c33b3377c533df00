"""What became of an operation: read by key, with its attempts, its children and what people decided."""

import pytest
from sqlalchemy import update

from tests.operations import (
    LedgerClock,
    attempt_record,
    claim_one,
    fail,
    fail_operation,
    find_operation,
    make_wait,
    record_operation,
    record_operations,
    succeed_operation,
)
from worker.errors import PayloadConflict
from worker.ledger import Ledger, active_flags, attempts_of, audit_of, cancel, find, raise_flag, replay, search
from worker.ledger.fleet_flags import lower_flag
from worker.ledger.operator_actions import record_renewal
from worker.ledger.queries import audit_page, children_of, find_many
from worker.ledger.schema import operations
from worker.operation import AuditEntry, State, Step, WaitReason


def test_operations_are_found_by_their_keys(ledger: Ledger) -> None:
    record_operations(ledger, "W1", "W2", "W3")

    found = find_many(ledger, ["fees.process:W1", "fees.process:W3", "fees.process:none"])

    assert found == {f"fees.process:{name}": find_operation(ledger, name) for name in ("W1", "W3")}
    assert find_many(ledger, []) == {}
    assert find(ledger, "fees.process:none") is None


@pytest.mark.parametrize("payload", ["{", "[1, 2]", "7", "[" * 100_000])
def test_an_operation_whose_payload_somebody_else_wrote_is_found_recorded_again_and_cancelled(
    ledger: Ledger, payload: str
) -> None:
    """Before a worker claims it and refuses it, which a paused lane or a long wait puts off."""
    key = record_operation(ledger, "W1").key
    with ledger.writing() as connection:
        connection.execute(update(operations).values(payload=payload))

    found = find(ledger, key)
    with pytest.raises(PayloadConflict, match="exists with another account_login, request_id"):
        record_operation(ledger, "W1")

    assert found is not None
    assert found.payload == {}
    assert cancel(ledger, key, "ada", "not ours").state == State.CANCELLED


def test_what_is_stored_as_json_is_read_as_it_was(ledger: Ledger) -> None:
    record_operation(ledger, "W1")
    make_wait(ledger, claim_one(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, progress={"seen": 1})
    waiting = find_operation(ledger, "W1")
    succeed_operation(ledger, "W2", result={"fee": "1.20"})
    ended = find_operation(ledger, "W2")

    assert (waiting.progress, waiting.result, waiting.wait_reason) == ({"seen": 1}, None, WaitReason.PENDING_AT_B2COPY)
    assert (ended.progress, ended.result, ended.wait_reason) == (None, {"fee": "1.20"}, None)


def test_of_many_attempts_the_newest_can_be_read(ledger: Ledger, clock: LedgerClock) -> None:
    recorded = record_operation(ledger, "W1")
    steps = (Step("auth_url", 1, 200, "done"), Step("wizard", 2, 503, "unavailable"))
    for number in range(3):
        evidence = attempt_record("no_answer", message=f"try {number}", steps=steps if number == 1 else ())
        make_wait(ledger, claim_one(ledger), attempt=evidence, due_in_s=1)
        clock.advance(2)

    assert [one.message for one in attempts_of(ledger, recorded.id)] == ["try 0", "try 1", "try 2"]
    newest = attempts_of(ledger, recorded.id, newest=2)
    assert [(one.message, one.steps) for one in newest] == [("try 1", steps), ("try 2", ())]


def test_the_children_of_an_operation_are_those_that_still_wait_for_it(ledger: Ledger) -> None:
    fail_operation(ledger, "parent")
    record_operations(ledger, "other", parent="fees.process:another")
    record_operations(ledger, "C1", "C2", "C3", parent="fees.process:parent")
    cancel(ledger, "fees.process:C1", "ada", "no")

    assert [one.key for one in children_of(ledger, "fees.process:parent")] == ["fees.process:C2", "fees.process:C3"]
    assert len(children_of(ledger, "fees.process:parent", limit=1)) == 1


def test_a_search_since_an_instant_includes_it(ledger: Ledger) -> None:
    record_operations(ledger, "W1")
    since = find_operation(ledger, "W1").state_since

    assert [one.key for one in search(ledger, since=since)] == ["fees.process:W1"]
    assert search(ledger, since=since + 1) == []
    assert search(ledger, state=State.FAILED) == []


def test_a_raised_flag_says_by_whom_when_and_why(ledger: Ledger) -> None:
    raise_flag(ledger, "login_refused", "worker 1", "refused")

    [raised] = audit_of(ledger, "login_refused")
    found = active_flags(ledger)["login_refused"]

    assert found == AuditEntry(found.at, "worker 1", "raise", "login_refused", "refused")
    assert abs(found.at - raised.at) < 60_000


@pytest.mark.parametrize(
    ("asked", "notes"),
    [
        ({}, ["again", "lowered", "raised", "renewed"]),
        ({"actor": "ada"}, ["again", "raised"]),
        ({"subject": "flag"}, ["lowered", "raised"]),
        ({"subject": "flag", "actor": "bob"}, ["lowered"]),
        ({"limit": 4}, ["again", "lowered", "raised", "renewed"]),
    ],
)
def test_the_audit_is_read_by_actor_and_subject(ledger: Ledger, asked: dict[str, object], notes: list[str]) -> None:
    fail_operation(ledger, "W1")
    record_renewal(ledger, "bob", "renewed")
    raise_flag(ledger, "flag", "ada", "raised")
    lower_flag(ledger, "flag", "bob", "lowered")
    replay(ledger, ["fees.process:W1"], "ada", "again")

    found, before = audit_page(ledger, **asked)  # type: ignore[arg-type]

    assert [entry.note for entry in found] == notes
    assert before is None, "there is no next page"
    first, before = audit_page(ledger, limit=1)
    second, _ = audit_page(ledger, limit=1, before=before)
    assert [entry.note for entry in (*first, *second)] == ["again", "lowered"]


def test_an_entry_of_the_audit_holds_what_changed(ledger: Ledger) -> None:
    record_operation(ledger, "W1")
    fail(ledger, claim_one(ledger), failure_reason="unresolved", outcome_unknown=True)
    replay(ledger, ["fees.process:W1"], "ada", "again")

    [entry] = audit_of(ledger, "fees.process:W1")

    assert entry == AuditEntry(entry.at, "ada", "replay", "fees.process:W1", "again", None)
