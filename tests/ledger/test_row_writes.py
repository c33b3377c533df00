"""What each action writes into an operation's row: these columns, and no others."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, text, update

from tests.operations import (
    attempt_record,
    claim_due,
    claim_one,
    key_of,
    record_operation,
)
from worker.ledger import (
    Ledger,
    cancel,
    make_due,
    poll_now,
    renew_leases,
    replay,
    return_unsent,
    settle,
)
from worker.ledger.batches import cancel_batch, pause_batch, resume_batch, sweep
from worker.ledger.begun_steps import begin_step
from worker.ledger.notices import cancel_unwanted_notices
from worker.ledger.operator_actions import correct, resolve, stop_asking
from worker.ledger.schema import HELD_MS, now_ms, operations
from worker.operation import NOTICE_KIND, Claim, FailureReason, OnUnknown, State, Transition, WaitReason

Row = dict[str, Any]
KEY = key_of("W1")
ALLOWED_S = 3000.0

HISTORY: Row = {
    "phase": "poll", "fence": 4, "counted_attempts": 5, "polls": 3, "replays": 2, "sent": True, "outcome_unknown": True,
    "unknown_step": "charge", "progress": '{"p": 1}', "result": '{"r": 1}', "last_wait_ms": 77, "last_answer": "digest",
    "last_answer_fence": 3, "external_wait_ms": 10, "state_since": 1, "deadline_at": 4_000_000_000_000, "position": 7,
}  # fmt: skip
"""An operation of which every column holds something."""

QUEUED: Row = {"state": "queued", "due_at": 1, "sent": False, "outcome_unknown": False}
WAITING: Row = {"state": "waiting", "wait_reason": "pending_at_b2copy", "due_at": 1}
LAPSED: Row = {"state": "running", "lease_owner": "worker 0", "due_at": 1, "outcome_unknown": False, "sent": False}
RETURNED: Row = {
    "state": "waiting", "wait_reason": "backoff", "sent": False, "last_answer": None, "last_answer_fence": None
}  # fmt: skip
FAILED: Row = {"state": "failed", "failure_reason": "fee_error", "due_at": None, "ended_at": 1}


def set_row(ledger: Ledger, values: Row) -> None:
    with ledger.writing() as connection:
        connection.execute(update(operations).where(operations.c.key == KEY).values(values))


def read_row(ledger: Ledger) -> tuple[Row, int]:
    with ledger.reading() as connection:
        row = connection.execute(select(operations, now_ms().label("now")).where(operations.c.key == KEY)).one()
    values = row._asdict()
    return values, values.pop("now")


def written(ledger: Ledger, act: Callable[[Ledger], object]) -> Row:
    """Return the columns that `act` changes. Instants are told in seconds from now, rounded to a hundred."""
    before, _ = read_row(ledger)
    act(ledger)
    after, now = read_row(ledger)

    def told(value: Any) -> Any:
        if not isinstance(value, int) or value < 1_000_000_000_000:
            return value
        seconds = round((value - now) / 100_000) * 100
        return f"now + {seconds}" if seconds else "now"

    return {name: told(value) for name, value in after.items() if value != before[name]}


def begin(ledger: Ledger, values: Row, **fields: Any) -> None:
    record_operation(ledger, "W1", time_allowed_s=ALLOWED_S, **fields)
    set_row(ledger, HISTORY | values)


def hold(ledger: Ledger) -> Claim:
    """Claim a waiting operation that has a history, and make the instant of the claim an old one."""
    begin(ledger, WAITING)
    claimed = claim_one(ledger)
    set_row(ledger, {"state_since": 1, "due_at": 1, "external_wait_ms": 10})
    return claimed


CLAIMED: Row = {
    "state": "running", "wait_reason": None, "lease_owner": "worker 1", "fence": 5, "due_at": "now",
    "state_since": "now",
}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        (QUEUED, {"sent": True}),
        (QUEUED | {"sent": True, "outcome_unknown": True}, {}),
        (WAITING, {"external_wait_ms": "now"}),
        (WAITING | {"wait_reason": "backoff"}, {}),
        (LAPSED, {"sent": True, "outcome_unknown": True}),
    ],
    ids=["queued", "sent before", "pending", "waiting", "lapsed"],
)
def test_a_claim(ledger: Ledger, values: Row, changes: Row) -> None:
    begin(ledger, values)
    before, _ = read_row(ledger)
    expected = {name: value for name, value in (CLAIMED | changes).items() if value != before[name]}

    assert written(ledger, claim_due) == expected


def test_parking_what_was_waiting(ledger: Ledger) -> None:
    begin(ledger, WAITING, parent="fees.process:none")

    assert written(ledger, claim_due) == {
        "wait_reason": "behind_parent", "due_at": "now", "last_wait_ms": 1000
    }  # fmt: skip


def test_parking_what_was_queued(ledger: Ledger) -> None:
    begin(ledger, QUEUED, parent="fees.process:none")

    assert written(ledger, claim_due) == {
        "state": "waiting", "wait_reason": "behind_parent", "due_at": "now", "state_since": "now", "last_wait_ms": 1000
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"outcome_unknown": False, "phase": "submit", "progress": None}, "expired"),
        ({"outcome_unknown": True, "phase": "submit", "progress": None}, "unresolved"),
        ({"outcome_unknown": False, "phase": "poll", "progress": None}, "unresolved"),
        ({"outcome_unknown": False, "phase": "submit"}, "unresolved"),
    ],
)
def test_expiry(ledger: Ledger, values: Row, reason: str) -> None:
    begin(ledger, WAITING | {"deadline_at": 1} | values, parent="fees.process:none")

    assert written(ledger, claim_due) == {
        "state": "failed", "wait_reason": None, "failure_reason": reason, "due_at": None, "state_since": "now",
        "ended_at": "now",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        (WAITING | {"outcome_unknown": False}, {"wait_reason": None}),
        (LAPSED, {"lease_owner": None, "outcome_unknown": True}),
    ],
    ids=["waiting", "lapsed"],
)
def test_refusing_a_row_that_cannot_be_read(ledger: Ledger, values: Row, changes: Row) -> None:
    begin(ledger, values | {"payload": "{" + "x" * 2000})

    changed = written(ledger, claim_due)

    assert '"payload": "{' + "x" * 999 + '"' in changed.pop("result")
    assert changed == {
        "state": "failed", "failure_reason": "bad_payload", "payload": "{}", "due_at": None,
        "state_since": "now", "ended_at": "now",
    } | changes  # fmt: skip


def test_renewing_a_lease(ledger: Ledger) -> None:
    claimed = hold(ledger)

    assert written(ledger, lambda one: renew_leases(one, "worker 1", [claimed])) == {"due_at": "now"}


def test_beginning_a_step(ledger: Ledger) -> None:
    claimed = hold(ledger)

    assert written(ledger, lambda one: begin_step(one, claimed, "pay", None)) == {"unknown_step": "pay"}
    assert written(ledger, lambda one: begin_step(one, claimed, "end", {"q": 2})) == {
        "unknown_step": "end", "progress": '{"q": 2}'
    }  # fmt: skip
    assert written(ledger, lambda one: begin_step(one, claimed, "ask", None)) == {"unknown_step": "ask"}
    assert written(ledger, lambda one: begin_step(one, claimed, "end", {})) == {"unknown_step": "end", "progress": None}


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        (QUEUED, {"state": "queued", "sent": False, "outcome_unknown": False}),
        (WAITING, {"state": "waiting", "wait_reason": "pending_at_b2copy"}),
        (LAPSED, RETURNED),
    ],
    ids=["queued", "waiting", "lapsed"],
)
def test_returning_a_claim_unsent(ledger: Ledger, values: Row, changes: Row) -> None:
    begin(ledger, values)
    claimed = claim_one(ledger)
    set_row(ledger, {"state_since": 1, "due_at": 4_000_000_000_000, "sent": True, "outcome_unknown": True})

    assert written(ledger, lambda one: return_unsent(one, [claimed])) == {
        "lease_owner": None, "due_at": "now", "state_since": "now"
    } | changes  # fmt: skip


WAITS: Row = {"state": State.WAITING, "wait_reason": WaitReason.BACKOFF, "due_in_s": 500.0}
SETTLED: Row = {"lease_owner": None, "state_since": "now"}


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        (WAITS, {
            "state": "waiting", "wait_reason": "backoff", "due_at": "now + 500", "last_wait_ms": 500_000,
            "result": None, "last_answer": None, "last_answer_fence": None,
        }),
        (WAITS | {"wait_reason": WaitReason.PENDING_AT_B2COPY, "outcome_known": True, "progress": {"q": 2}}, {
            "state": "waiting", "wait_reason": "pending_at_b2copy", "due_at": "now + 500", "last_wait_ms": 500_000,
            "result": None, "last_answer": None, "last_answer_fence": None, "polls": 4, "outcome_unknown": False,
            "unknown_step": None, "progress": '{"q": 2}',
        }),
        ({"state": State.SUCCEEDED, "result": {"fee": "1"}, "outcome_known": True}, {
            "state": "succeeded", "due_at": None, "last_wait_ms": 0, "result": '{"fee": "1"}', "last_answer": None,
            "last_answer_fence": None, "outcome_unknown": False, "unknown_step": None, "progress": None,
            "ended_at": "now",
        }),
        ({"state": State.FAILED, "failure_reason": FailureReason.UNRESOLVED, "outcome_unknown": True,
          "unknown_step": "pay"}, {
            "state": "failed", "failure_reason": "unresolved", "due_at": None, "last_wait_ms": 0, "result": None,
            "last_answer": None, "last_answer_fence": None, "unknown_step": "pay", "ended_at": "now",
        }),
    ],
    ids=["waits", "pending", "succeeds", "fails"],
)  # fmt: skip
@pytest.mark.parametrize("counted", [False, True], ids=["not counted", "counted"])
def test_settling(ledger: Ledger, fields: Row, changes: Row, counted: bool) -> None:
    claimed = hold(ledger)
    attempt = attempt_record("done", counted=True) if counted else None

    changed = written(ledger, lambda one: settle(one, [Transition(claimed, attempt=attempt, **fields)]))

    if counted and fields["state"] == State.WAITING:
        assert len(changed.pop("last_answer")) > 8
        assert changed.pop("last_answer_fence") == 5
        changes = {name: value for name, value in changes.items() if not name.startswith("last_answer")}
    if fields.get("wait_reason") == WaitReason.PENDING_AT_B2COPY:  # the count starts again
        assert changed.pop("counted_attempts") == int(counted)
        assert changed == SETTLED | changes
    else:
        assert changed == SETTLED | changes | ({"counted_attempts": 6} if counted else {})


def test_settling_stores_that_something_was_sent(ledger: Ledger) -> None:
    begin(ledger, QUEUED | {"phase": "submit"})
    claimed = claim_one(ledger)

    settle(ledger, [Transition(claimed, **WAITS, sent=False)])

    found, _ = read_row(ledger)
    assert (found["sent"], found["phase"]) == (False, "submit")


AGAIN: Row = {
    "state": "queued", "failure_reason": None, "phase": "submit", "due_at": "now", "state_since": "now",
    "ended_at": None, "counted_attempts": 0, "polls": 0, "replays": 3, "last_wait_ms": 0,
    "deadline_at": "now + 3000", "result": None, "last_answer": None, "last_answer_fence": None,
}  # fmt: skip


@pytest.mark.parametrize("entity", ["e", None])
def test_a_replay(ledger: Ledger, entity: str | None) -> None:
    begin(ledger, FAILED, entity=entity)
    known = {"outcome_unknown": False, "unknown_step": None}
    position = {"position": 8} if entity else {"position": None}
    set_row(ledger, {"position": 7})
    with ledger.writing() as connection:
        sequence = "UPDATE sqlite_sequence SET seq = 7 WHERE name = 'b2copy_operations'"
        if connection.dialect.name == "postgresql":
            sequence = "SELECT setval(pg_get_serial_sequence('b2copy_operations', 'id'), 7)"
        connection.execute(text(sequence))

    again = written(ledger, lambda one: replay(one, [KEY], "ada", "again"))
    set_row(ledger, HISTORY | FAILED)
    not_done = written(ledger, lambda one: replay(one, [KEY], "ada", "again", not_done=True))

    assert again == AGAIN | position
    assert not_done == AGAIN | known | ({"position": 9} if entity else {"position": None})


def test_a_correction(ledger: Ledger) -> None:
    begin(ledger, FAILED | {"failure_reason": "rejected", "outcome_unknown": False, "unknown_step": None})
    payload = {"account_login": "8", "request_id": "W1"}

    assert written(ledger, lambda one: correct(one, KEY, payload, "ada", "wrong account")) == AGAIN | {
        "payload": '{"account_login":"8","request_id":"W1"}', "progress": None, "position": None,
    }  # fmt: skip


def test_a_resolve(ledger: Ledger) -> None:
    begin(ledger, FAILED)
    known = {"result": None, "outcome_unknown": False, "unknown_step": None, "state_since": "now", "ended_at": "now"}

    failed = written(ledger, lambda one: resolve(one, KEY, "ada", "not done", succeeded=False))
    set_row(ledger, HISTORY | FAILED)
    succeeded = written(ledger, lambda one: resolve(one, KEY, "ada", "done", succeeded=True, result={"fee": "1"}))

    assert failed == known | {"failure_reason": "rejected"}
    assert succeeded == known | {
        "state": "succeeded", "failure_reason": None, "result": '{"fee": "1"}', "progress": None
    }  # fmt: skip


def test_a_cancel(ledger: Ledger) -> None:
    begin(ledger, WAITING | {"sent": False})

    assert written(ledger, lambda one: cancel(one, KEY, "ada", "no")) == {
        "state": "cancelled", "wait_reason": None, "due_at": None, "state_since": "now", "ended_at": "now"
    }  # fmt: skip


def test_stopping_to_ask(ledger: Ledger) -> None:
    begin(ledger, WAITING | {"outcome_unknown": False})

    assert written(ledger, lambda one: stop_asking(one, KEY, "ada", "enough")) == {
        "state": "failed", "wait_reason": None, "failure_reason": "unresolved", "outcome_unknown": True,
        "due_at": None, "state_since": "now", "ended_at": "now",
    }  # fmt: skip


@pytest.mark.parametrize("how", ["poll now", "make due"])
def test_making_due(ledger: Ledger, how: str) -> None:
    begin(ledger, WAITING | {"due_at": 4_000_000_000_000})

    def act(one: Ledger) -> object:
        return poll_now(one, KEY, "ada") if how == "poll now" else make_due(one, "b2copy", WaitReason.PENDING_AT_B2COPY)

    assert written(ledger, act) == {"due_at": "now"}


@pytest.mark.parametrize("is_failed", [True, False], ids=["unresolved already", "about to be"])
def test_a_late_answer(ledger: Ledger, is_failed: bool) -> None:
    begin(ledger, WAITING, on_unknown=OnUnknown.STOP)
    late = claim_one(ledger)
    set_row(ledger, {"due_at": 1})
    next_holder = claim_one(ledger, "worker 2")
    if is_failed:
        settle(ledger, [Transition(next_holder, State.FAILED, failure_reason="unresolved", outcome_unknown=True)])
        set_row(ledger, {"ended_at": 1, "result": '{"r": 1}'})
    set_row(ledger, {"state_since": 1, "progress": '{"p": 1}'})
    with ledger.writing() as connection:  # the evidence of the lapsed claim is no request
        connection.execute(text("DELETE FROM b2copy_attempts"))

    changed = written(
        ledger, lambda one: settle(one, [Transition(late, State.SUCCEEDED, result={"fee": "1"}, outcome_known=True)])
    )

    assert changed == {
        "state": "succeeded", "outcome_unknown": False, "unknown_step": None, "progress": None,
        "result": '{"fee": "1"}', "state_since": "now", "ended_at": "now",
    } | ({"failure_reason": None} if is_failed else {"lease_owner": None, "due_at": None})  # fmt: skip


@pytest.mark.parametrize(
    ("values", "changes"),
    [(QUEUED, {}), (WAITING, {"wait_reason": None}), (LAPSED, {"lease_owner": None})],
    ids=["queued", "waiting", "lapsed"],
)
def test_cancelling_a_notice_that_nobody_delivers(ledger: Ledger, values: Row, changes: Row) -> None:
    begin(ledger, values)
    set_row(ledger, {"kind": NOTICE_KIND, "lane": "notify"})

    assert written(ledger, lambda one: cancel_unwanted_notices(one, 1.0)) == {
        "state": "cancelled", "due_at": None, "state_since": "now", "ended_at": "now"
    } | changes  # fmt: skip


@pytest.mark.parametrize("state", ["queued", "waiting"])
def test_the_decision_about_its_batch(ledger: Ledger, state: str) -> None:
    row = (QUEUED if state == "queued" else WAITING) | {"sent": False, "deadline_at": 1, "outcome_unknown": False}
    begin(ledger, row, batch="book")

    def obey(decide: Callable[..., object]) -> Callable[[Ledger], bool]:
        def act(one: Ledger) -> bool:
            decide(one, "book", "ada", "why")
            return sweep(one, 20.0)

        return act

    years = HELD_MS // 100_000 * 100
    assert written(ledger, obey(pause_batch)) == {"due_at": f"now + {years}"}
    resumed = written(ledger, obey(resume_batch))
    assert resumed.keys() == {"due_at", "last_wait_ms", "external_wait_ms", "deadline_at", "time_allowed_ms"}
    assert (resumed["due_at"], resumed["last_wait_ms"]) == ("now", 0)
    assert written(ledger, obey(cancel_batch)) == {
        "state": "cancelled", "due_at": None, "state_since": "now", "ended_at": "now"
    } | ({"wait_reason": None} if state == "waiting" else {})  # fmt: skip
