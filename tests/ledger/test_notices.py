"""Each end of an operation has a notice: recorded with it, numbered, and replaced by the notice of the next end."""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text, update

from tests.operations import (
    LedgerClock,
    attempt_record,
    claim_due,
    claim_one,
    fail,
    fail_operation,
    find_operation,
    hold_operation,
    make_wait,
    names_of,
    record_operation,
    record_operations,
    succeed,
    succeed_after_a_replay,
    succeed_operation,
)
from worker.ledger import (
    Ledger,
    attempts_of,
    audit_of,
    cancel,
    fail_message,
    find,
    open_ledger,
    purge,
    replay,
    search,
)
from worker.ledger.notices import (
    CANCEL_CHUNK,
    WANTED_FOR_S,
    cancel_unwanted_notices,
    notices_wanted_until,
    record_notices,
    want_notices,
)
from worker.ledger.operator_actions import resolve, stop_asking
from worker.ledger.overview import overview
from worker.ledger.schema import operations
from worker.ledger.statistics import statistics_of
from worker.operation import NOTICE_KIND, FailureReason, OnUnknown, Operation, State

W1 = "fees.process:W1"


@pytest.fixture
def noticing(ledger_url: str) -> Iterator[Ledger]:
    """A ledger whose CRM wants notices."""
    ledger = open_ledger(ledger_url)
    want_notices(ledger)
    yield ledger
    ledger.close()


def notices(ledger: Ledger) -> list[Operation]:
    """Return all notices, oldest first."""
    return sorted(search(ledger, kind=NOTICE_KIND), key=lambda one: one.id)


def body(notice: Operation) -> dict[str, Any]:
    return dict(json.loads(notice.payload["body"]))


def test_a_success_has_a_notice(noticing: Ledger) -> None:
    key = succeed_operation(noticing, trace_id="T")

    [notice] = notices(noticing)

    operation = find(noticing, key)
    assert operation is not None
    assert operation.ended_at is not None
    assert notice.key == f"crm.notify:{operation.id}.{operation.ended_at}"
    assert re.fullmatch(f"ntc_{operation.id}_[0-9a-f]{{16}}", notice.payload["id"])
    assert (notice.state, notice.lane, notice.destination) == (State.QUEUED, "notify", "crm")
    assert (notice.on_unknown, notice.trace_id) == (OnUnknown.REPEAT, "T")
    assert notice.deadline_at == notice.requested_at + 72 * 3_600_000
    notice_body = body(notice)
    assert notice_body["type"] == "operation.succeeded"
    ended_at = notice_body["data"].pop("ended_at")
    assert ended_at == notice_body["timestamp"]
    assert ended_at.endswith("Z")
    assert notice_body["data"].pop("requested_at") <= ended_at
    assert notice_body["data"] == {
        "key": W1,
        "kind": "fees.process",
        "state": "succeeded",
        "failure_reason": None,
        "server_message": None,
        "payload": {"account_login": "7", "request_id": "W1"},
        "attempts": 1,
        "sequence": operation.ended_at,
        "trace_id": "T",
    }


def test_the_notice_of_a_failure_has_its_reason_and_the_servers_text(noticing: Ledger) -> None:
    fail_operation(noticing, message="no such account")

    [notice] = notices(noticing)

    notice_body = body(notice)
    assert notice_body["type"] == "operation.failed"
    assert (notice_body["data"]["failure_reason"], notice_body["data"]["server_message"]) == (
        "rejected",
        "no such account",
    )


def test_the_notice_of_a_bad_message_says_what_is_wrong(noticing: Ledger) -> None:
    fail_message(noticing, "m-1", "b2copy.fees.process", "request_id is missing", by="crm", raw="[]")

    [notice] = notices(noticing)

    assert body(notice)["data"]["server_message"] == "request_id is missing"
    assert body(notice)["data"]["failure_reason"] == "bad_payload"


def test_long_and_nested_fields_of_a_payload_are_in_no_notice(noticing: Ledger) -> None:
    payload: dict[str, Any] = {
        "key": "K",
        "path": "/p",
        "payload": {"name": "Ada"},
        "note": "x" * 256,
        "repeatable": True,
    }
    payload["longest"] = "x" * 255
    record_operation(noticing, "K", kind="call", payload=payload)

    cancel(noticing, "call:K", "ada", "not wanted")

    [notice] = notices(noticing)
    assert body(notice)["type"] == "operation.cancelled"
    assert body(notice)["data"]["attempts"] == 0
    assert body(notice)["data"]["payload"] == {"key": "K", "path": "/p", "repeatable": True, "longest": "x" * 255}


def test_a_notice_tells_the_text_of_the_last_attempt_and_counts_every_answer(
    noticing: Ledger, clock: LedgerClock
) -> None:
    make_wait(noticing, hold_operation(noticing, "W2"), attempt=attempt_record("pending", message="of another one"))
    record_operation(noticing)
    for message in (None, "first", "second", "second"):
        make_wait(noticing, claim_one(noticing), attempt=attempt_record("pending", message=message), due_in_s=1)
        clock.advance(2)

    stop_asking(noticing, W1, "ada", "enough")

    [notice] = notices(noticing)
    assert (body(notice)["data"]["server_message"], body(notice)["data"]["attempts"]) == ("second", 4)


def test_the_notice_of_a_success_does_not_tell_an_earlier_error(noticing: Ledger) -> None:
    succeed_after_a_replay(noticing, "no such account")

    assert [body(notice)["data"]["server_message"] for notice in notices(noticing)] == ["no such account", None]


def test_a_worker_that_delivers_notices_wants_them_for_a_week(noticing: Ledger) -> None:
    week_s = (notices_wanted_until(noticing) or 0) / 1000 - time.time()

    assert 7 * 86_400 - 60 < week_s < 7 * 86_400 + 60


def test_operations_that_have_not_ended_have_no_notice(noticing: Ledger) -> None:
    make_wait(noticing, hold_operation(noticing))

    assert notices(noticing) == []


def test_notices_have_no_notice(noticing: Ledger) -> None:
    succeed_operation(noticing)
    succeed(noticing, claim_one(noticing, lane="notify"))

    assert [one.state for one in notices(noticing)] == [State.SUCCEEDED]


def test_nothing_is_recorded_if_the_crm_wants_no_notices(ledger: Ledger) -> None:
    succeed_operation(ledger)

    assert notices(ledger) == []


def test_each_end_has_a_higher_sequence(noticing: Ledger) -> None:
    fail_operation(noticing)
    succeed(noticing, claim_one(noticing, lane="notify"))
    replay(noticing, [W1], "ada", "again")
    fail(noticing, claim_one(noticing))
    succeed(noticing, claim_one(noticing, lane="notify"))
    resolve(noticing, W1, "ada", "asked", succeeded=True)

    bodies = [body(one)["data"] for one in notices(noticing)]

    assert [one["state"] for one in bodies] == ["failed", "failed", "succeeded"]
    assert bodies[0]["sequence"] < bodies[1]["sequence"] < bodies[2]["sequence"]
    assert len({one.payload["id"] for one in notices(noticing)}) == 3


def test_every_process_that_opens_the_ledger_records_notices(
    noticing: Ledger, open_again: Callable[[], Ledger]
) -> None:
    record_operation(noticing)

    cancel(open_again(), W1, "ada", "decided in the console")

    assert len(notices(noticing)) == 1


def test_no_notice_is_recorded_a_week_after_the_last_worker_that_delivered_some(
    noticing: Ledger, open_again: Callable[[], Ledger]
) -> None:
    with noticing.writing() as connection:
        connection.execute(text(f"UPDATE b2copy_ledger SET notices_until = notices_until - {WANTED_FOR_S * 1000:.0f}"))
    record_operation(noticing)

    cancel(open_again(), W1, "ada", "not wanted")

    assert notices(noticing) == []
    assert notices_wanted_until(noticing) is None


@pytest.mark.parametrize("state", [State.QUEUED, State.WAITING, State.RUNNING])
def test_a_notice_is_cancelled_a_week_after_the_last_worker_that_delivered_some(
    noticing: Ledger, clock: LedgerClock, state: State
) -> None:
    succeed_operation(noticing)
    held = None if state == State.QUEUED else claim_one(noticing, lane="notify")
    if held and state == State.WAITING:
        make_wait(noticing, held, due_in_s=30 * 86_400)
    clock.advance(WANTED_FOR_S - 60)
    cancel_unwanted_notices(noticing, 1.0)
    assert [one.state for one in notices(noticing)] == [state]

    clock.advance(86_400)
    cancel_unwanted_notices(noticing, 1.0)

    [notice] = notices(noticing)
    assert notice.state == State.CANCELLED
    assert [(entry.action, entry.actor) for entry in audit_of(noticing, notice.key)] == [("cancel", "b2copy-sync")]
    assert statistics_of(overview(noticing)).late_s["notify"] == 0


def test_a_notice_that_a_worker_holds_is_not_cancelled(noticing: Ledger, clock: LedgerClock) -> None:
    succeed_operation(noticing)
    clock.advance(WANTED_FOR_S)
    held = claim_one(noticing, lane="notify")

    cancel_unwanted_notices(noticing, 1.0)

    assert succeed(noticing, held) == []
    assert [one.state for one in notices(noticing)] == [State.SUCCEEDED]


def test_notices_alone_are_cancelled_however_many_there_are(noticing: Ledger, clock: LedgerClock) -> None:
    names = [f"W{number}" for number in range(2 * CANCEL_CHUNK + 1)]
    record_operations(noticing, *names)
    succeed(noticing, *claim_due(noticing, limit=len(names)))
    record_operations(noticing, "open", "other")
    record_operations(noticing, "foreign", lane="notify")
    clock.advance(WANTED_FOR_S)

    cancel_unwanted_notices(noticing, 0.0)
    left = len(search(noticing, kind=NOTICE_KIND, state=State.QUEUED, limit=len(names)))
    cancel_unwanted_notices(noticing, 60.0)

    assert left == CANCEL_CHUNK + 1
    assert len(search(noticing, kind=NOTICE_KIND, state=State.CANCELLED, limit=2 * len(names))) == len(names)
    assert {find_operation(noticing, name).state for name in ("open", "other", "foreign")} == {State.QUEUED}


def test_a_process_that_runs_already_records_notices_as_soon_as_it_looks_again(
    ledger: Ledger, open_again: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    succeed_operation(ledger, "before")
    want_notices(open_again())
    monkeypatch.setattr("worker.ledger.notices.LOOK_AGAIN_S", 0.0)

    succeed_operation(ledger, "after")

    assert [body(one)["data"]["key"] for one in notices(ledger)] == ["fees.process:after"]


def test_the_sequence_grows_although_the_clock_goes_back(noticing: Ledger) -> None:
    fail_operation(noticing)
    ahead = text("UPDATE b2copy_operations SET notice_sequence = notice_sequence + 7200000 RETURNING notice_sequence")
    with noticing.writing() as connection:  # the clock was two hours ahead then
        before = max(connection.execute(ahead).scalars())

    resolve(noticing, W1, "ada", "asked", succeeded=True)

    assert body(notices(noticing)[-1])["data"]["sequence"] == before + 1


def test_the_sequence_grows_although_two_ends_are_of_one_instant(noticing: Ledger) -> None:
    fail_operation(noticing)
    [first] = notices(noticing)

    with noticing.writing() as connection:
        operation = find_operation(noticing, "W1")
        record_notices(connection, [operation.id], operation.ended_at or 0)

    assert body(notices(noticing)[1])["data"]["sequence"] == body(first)["data"]["sequence"] + 1


def test_the_sequence_grows_although_the_operation_was_purged_and_requested_again(
    noticing: Ledger, clock: LedgerClock
) -> None:
    fail_operation(noticing)
    resolve(noticing, W1, "ada", "asked", succeeded=False)
    before = [body(one)["data"]["sequence"] for one in notices(noticing)]
    clock.advance(1)
    assert purge(noticing, 0.5) == 2

    succeed_operation(noticing)

    assert body(notices(noticing)[-1])["data"]["sequence"] > max(before)


def test_a_notice_is_recorded_although_somebody_has_taken_its_key(
    noticing: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record_operation(noticing, "taken", kind=NOTICE_KIND, lane="bulk")
    monkeypatch.setattr("worker.ledger.notices._key", lambda *_: f"{NOTICE_KIND}:taken")

    succeed_operation(noticing)

    assert "crm.notify:taken" in caplog.text
    assert body(notices(noticing)[-1])["data"]["key"] == W1


@pytest.mark.parametrize("state", [State.QUEUED, State.WAITING, State.RUNNING])
def test_a_newer_notice_supersedes_one_that_was_not_delivered(noticing: Ledger, state: State) -> None:
    fail_operation(noticing)
    held = None if state == State.QUEUED else claim_one(noticing, lane="notify")
    if held and state == State.WAITING:
        make_wait(noticing, held)

    resolve(noticing, W1, "ada", "asked", succeeded=True)

    older, newer = notices(noticing)
    assert (older.state, newer.state) == (State.CANCELLED, State.QUEUED)
    assert [entry.action for entry in audit_of(noticing, older.key)] == ["supersede"]
    if held and state == State.RUNNING:  # what its holder learns is evidence, and does not send it again
        assert make_wait(noticing, held, attempt=attempt_record("server_error")) == [held]
        assert [one.state for one in notices(noticing)] == [State.CANCELLED, State.QUEUED]
        assert [one.late for one in attempts_of(noticing, older.id)] == [True]


def test_a_notice_that_was_delivered_stays_so(noticing: Ledger) -> None:
    fail_operation(noticing)
    succeed(noticing, claim_one(noticing, lane="notify"))

    resolve(noticing, W1, "ada", "asked", succeeded=True)

    assert [one.state for one in notices(noticing)] == [State.SUCCEEDED, State.QUEUED]


def test_a_hundred_ends_have_a_notice_each(noticing: Ledger) -> None:
    record_operations(noticing, *(f"W{number}" for number in range(100)))

    succeed(noticing, *claim_due(noticing))

    keys = {body(one)["data"]["key"] for one in notices(noticing)}
    assert keys == {f"fees.process:W{number}" for number in range(100)}


def test_a_transaction_that_fails_tells_nothing(noticing: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    held = hold_operation(noticing)
    monkeypatch.setattr("worker.ledger.on_operation_end.record_notices", lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        succeed(noticing, held)

    operation = find(noticing, W1)
    assert operation is not None
    assert operation.state == State.RUNNING


@pytest.mark.parametrize("payload", ["{", "[1, 2]", "7", '"text"', "[" * 100_000])
def test_an_operation_whose_payload_somebody_else_wrote_has_a_notice_too(noticing: Ledger, payload: str) -> None:
    held = hold_operation(noticing)
    with noticing.writing() as connection:
        connection.execute(update(operations).values(payload=payload))

    fail(noticing, held, failure_reason=FailureReason.BAD_PAYLOAD)

    [notice] = notices(noticing)
    assert (body(notice)["type"], body(notice)["data"]["payload"]) == ("operation.failed", {})


@pytest.mark.parametrize(
    "written",
    [
        {"requested_at": 9 * 10**18},
        {"trace_id": "x" * 300},
        {"payload": json.dumps({f"field {number}": 1 for number in range(10_000)})},
    ],
    ids=lambda written: next(iter(written)),
)
def test_an_operation_that_no_notice_can_tell_ends_without_one_and_stops_no_others(
    noticing: Ledger, caplog: pytest.LogCaptureFixture, written: dict[str, Any]
) -> None:
    foreign, other = hold_operation(noticing, "W1"), hold_operation(noticing, "W2")
    with noticing.writing() as connection:
        connection.execute(update(operations).where(operations.c.id == foreign.id).values(**written))

    assert succeed(noticing, foreign, other) == []

    [notice] = notices(noticing)
    assert body(notice)["data"]["key"] == other.key
    assert f"no notice about {W1}" in caplog.text


def test_a_row_that_can_neither_be_read_nor_told_stops_no_claim(noticing: Ledger) -> None:
    record_operations(noticing, "W1")
    with noticing.writing() as connection:
        connection.execute(update(operations).values(payload="{", requested_at=9 * 10**18))
    record_operations(noticing, "W2")

    assert names_of(claim_due(noticing)) == ["W2"]
    assert find_operation(noticing, "W1").failure_reason == FailureReason.BAD_PAYLOAD
