"""What a process does with what is due: claim, send, write down what became of it."""

import threading
from collections.abc import Callable, Iterator, Mapping

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError

from tests.flow.conftest import put
from tests.support import until
from worker.app import b2copy
from worker.b2copy import FeeState
from worker.errors import Unavailable
from worker.flow import circuit_breaker, lease_renewal
from worker.flow import pusher as module
from worker.flow.pusher import Act, Pusher
from worker.flow.retry_policy import RetryPolicy
from worker.ledger import Ledger, attempts_of, claim, search
from worker.operation import Claim, FailureReason, Operation, Outcome, State, WaitReason
from worker.sandbox.control_client import SandboxControl
from worker.settings import worker_settings
from worker.testbed.environment import Stage

Push = Callable[..., Pusher]


@pytest.fixture
def pusher(books: Ledger, policy: RetryPolicy) -> Iterator[Push]:
    made: list[Pusher] = []

    def make(act: Act, acts: Mapping[str, Act] | None = None) -> Pusher:
        made.append(Pusher(books, acts or {"fees.process": act}, worker_settings(), policy))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def process(claim: Claim) -> Outcome:
    """A fee run at the sandbox, as the task makes it."""
    status = b2copy().process_fees(claim.payload["account_login"], claim.payload["request_id"])
    said = {FeeState.SUCCESS: "done", FeeState.PENDING: "pending", FeeState.ERROR: "fee_error"}
    return Outcome(said[status.state], words=status.words)  # type: ignore[arg-type]


def states(books: Ledger) -> dict[str, str]:
    return {operation.payload["request_id"]: operation.state.value for operation in search(books, limit=1000)}


def look(books: Ledger, request_id: str) -> Operation:
    [found] = [one for one in search(books, limit=1000) if one.payload["request_id"] == request_id]
    return found


def background(pusher: Pusher, lane: str = "money") -> threading.Thread:
    thread = threading.Thread(target=pusher.drain, args=(lane,))
    thread.start()
    return thread


def test_a_drain_sends_all_that_is_due_once(books: Ledger, pusher: Push, sandbox: SandboxControl) -> None:
    names = [f"W{number}" for number in range(250)]
    put(books, *names)

    work_is_left = pusher(process).drain("money")

    assert not work_is_left
    assert states(books) == dict.fromkeys(names, "succeeded")
    assert [effect["times"] for effect in sandbox.effects()] == [1] * 250
    assert sandbox.counters()["calls"]["processext"] == 250
    assert sandbox.counters()["logins"] == 1


def test_an_attempt_leaves_evidence(books: Ledger, pusher: Push, sandbox: SandboxControl) -> None:
    sandbox.switches(logins={"7": {"ends": "ERROR", "words": "no money"}})
    put(books, "W1")
    pusher(process).drain("money")

    [attempt] = attempts_of(books, look(books, "W1").id)

    assert (attempt.outcome, attempt.message, attempt.http_status) == ("fee_error", "no money", 200)
    assert attempt.worker
    assert attempt.started_at > 0
    assert (look(books, "W1").state, look(books, "W1").failure_reason) == (State.FAILED, "fee_error")


def test_a_pending_run_waits_in_the_ledger_and_holds_nobody(
    books: Ledger, pusher: Push, sandbox: SandboxControl
) -> None:
    sandbox.switches(fees={"until_told": True})
    put(books, "W1")

    assert not pusher(process).drain("money")

    waiting = look(books, "W1")
    assert (waiting.state, waiting.wait_reason, waiting.owner) == (State.WAITING, WaitReason.PENDING_AT_B2COPY, None)


def test_a_bad_record_does_not_stop_the_next(books: Ledger, pusher: Push) -> None:
    def act(claim: Claim) -> Outcome:
        if claim.payload["request_id"] == "bad":
            raise ZeroDivisionError("ours")
        return Outcome("done")

    put(books, "W1", "bad", "W2")
    pusher(act).drain("money")

    assert states(books) == {"W1": "succeeded", "bad": "failed", "W2": "succeeded"}
    assert look(books, "bad").failure_reason is FailureReason.INTERNAL
    [attempt] = attempts_of(books, look(books, "bad").id)
    assert attempt.message == "ZeroDivisionError: ours"


def test_a_kind_that_this_version_does_not_know_is_our_fault(books: Ledger, pusher: Push) -> None:
    put(books, "W1")
    pusher(process, acts={"other": process}).drain("money")

    assert look(books, "W1").failure_reason is FailureReason.INTERNAL


def test_what_may_not_be_repeated_is_not_sent_again_when_its_outcome_is_unknown(books: Ledger, pusher: Push) -> None:
    sent: list[Claim] = []
    put(books, "W1", on_unknown=OnUnknown.STOP)
    claim(books, "money", "somebody killed", 1)
    with books.writing() as connection:  # its lease has lapsed
        connection.execute(text("UPDATE b2copy_operations SET due_at = 1"))

    pusher(lambda claim: sent.append(claim) or Outcome("done")).drain("money")

    assert (look(books, "W1").state, look(books, "W1").failure_reason) == (State.FAILED, FailureReason.UNRESOLVED)
    assert sent == []


def test_what_may_be_repeated_is_sent_again_when_its_outcome_is_unknown(books: Ledger, pusher: Push) -> None:
    put(books, "W1")
    claim(books, "money", "somebody killed", 1)
    with books.writing() as connection:
        connection.execute(text("UPDATE b2copy_operations SET due_at = 1"))

    pusher(lambda claim: Outcome("done")).drain("money")

    assert look(books, "W1").state is State.SUCCEEDED


def test_a_backfill_does_not_stand_before_a_withdrawal(books: Ledger, pusher: Push) -> None:
    gate = threading.Event()

    def act(claim: Claim) -> Outcome:
        if claim.lane == "bulk":
            assert gate.wait(20)
        return Outcome("done")

    put(books, *(f"B{number}" for number in range(200)), lane="bulk")
    engine = pusher(act)
    backfill = background(engine, "bulk")
    until(lambda: "running" in states(books).values())

    put(books, "W1")
    engine.drain("money")

    assert look(books, "W1").state is State.SUCCEEDED
    assert "succeeded" not in {state for name, state in states(books).items() if name != "W1"}
    gate.set()
    backfill.join(20)
    assert set(states(books).values()) == {"succeeded"}


def test_stopping_finishes_what_is_sent_and_hands_back_the_rest(books: Ledger, pusher: Push) -> None:
    gate = threading.Event()
    sent: list[str] = []

    def act(claim: Claim) -> Outcome:
        sent.append(claim.payload["request_id"])
        assert gate.wait(20)
        return Outcome("done")

    put(books, *(f"W{number}" for number in range(60)))
    engine = pusher(act)
    drain = background(engine)
    concurrency = worker_settings().concurrency
    until(lambda: len(sent) == concurrency)

    engine.stop()
    until(lambda: list(states(books).values()).count("running") <= concurrency)
    gate.set()
    drain.join(20)

    assert len(sent) == concurrency
    after = states(books)
    assert {name for name, state in after.items() if state == "succeeded"} == set(sent)
    assert {state for name, state in after.items() if name not in sent} == {"queued"}
    assert all(not look(books, name).sent for name in after if name not in sent)


def test_while_b2copy_is_away_it_is_asked_once_in_a_while_and_all_resume_when_it_is_back(
    books: Ledger, pusher: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "PROBE_EVERY", 0.3)
    away = threading.Event()
    away.set()
    asked: list[str] = []

    def act(claim: Claim) -> Outcome:
        asked.append(claim.key)
        if away.is_set():
            raise Unavailable("no answer")
        return Outcome("done")

    names = [f"W{number}" for number in range(100)]
    put(books, *names)
    engine = pusher(act)
    drain = background(engine)
    concurrency = worker_settings().concurrency
    until(lambda: len(asked) >= circuit_breaker.FAILURES_TO_OPEN + 2)
    opened_after = len(asked)
    until(lambda: len(asked) >= opened_after + 2)

    assert (
        len(asked) <= circuit_breaker.FAILURES_TO_OPEN + 2 * concurrency + 4
    )  # what was in flight when it opened, and probes
    assert not {"failed", "succeeded"} & set(states(books).values())

    away.clear()
    until(lambda: set(states(books).values()) == {"succeeded"})
    drain.join(20)
    assert len(asked) <= len(names) + circuit_breaker.FAILURES_TO_OPEN + 2 * concurrency + 8


def test_a_result_waits_for_a_ledger_that_is_away(
    books: Ledger, pusher: Push, caplog: pytest.LogCaptureFixture
) -> None:
    def act(claim: Claim) -> Outcome:
        with books.writing() as connection:
            connection.execute(text("ALTER TABLE b2copy_operations RENAME TO elsewhere"))
        return Outcome("done")

    put(books, "W1")
    drain = background(pusher(act))
    until(lambda: "results wait" in caplog.text)
    with books.writing() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO b2copy_operations"))
    drain.join(20)

    assert look(books, "W1").state is State.SUCCEEDED


def test_calls_in_flight_through_an_outage_of_the_ledger_are_not_taken_for_unknown(
    books: Ledger, pusher: Push, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_renewal, "RENEW_EVERY", 1.0)
    monkeypatch.setattr(module, "DATABASE_PAUSE", 0.02)
    both, answered = threading.Barrier(3), threading.Event()

    def act(claim: Claim) -> Outcome:
        both.wait(20)
        if claim.payload["request_id"] == "W2":
            assert answered.wait(20)
        return Outcome("done")

    put(books, "W1", "W2", on_unknown=OnUnknown.STOP)
    drain = background(pusher(act))
    until(lambda: states(books) == {"W1": "running", "W2": "running"})
    with books.writing() as connection:
        connection.execute(text("ALTER TABLE b2copy_operations RENAME TO elsewhere"))
    both.wait(20)
    until(lambda: caplog.text.count("leases not renewed") >= 3)
    with books.writing() as connection:  # back, when both leases have lapsed
        connection.execute(text("UPDATE elsewhere SET due_at = 1"))
        connection.execute(text("ALTER TABLE elsewhere RENAME TO b2copy_operations"))
    until(lambda: look(books, "W1").state is State.SUCCEEDED)
    answered.set()
    drain.join(20)

    assert states(books) == {"W1": "succeeded", "W2": "succeeded"}


def test_what_a_failed_drain_had_learned_is_written_by_the_next(
    books: Ledger, pusher: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = pusher(lambda claim: Outcome("done"))
    put(books, "W1")
    with books.writing() as connection:  # nothing can be settled, and it is no outage
        connection.execute(
            text(
                "CREATE TRIGGER wall BEFORE UPDATE ON b2copy_operations WHEN OLD.state = 'running'"
                " BEGIN SELECT RAISE(ABORT, 'no'); END"
            )
        )
    with pytest.raises(IntegrityError):
        engine.drain("money")
    with books.writing() as connection:
        connection.execute(text("DROP TRIGGER wall"))

    engine.drain("money")

    assert look(books, "W1").state is State.SUCCEEDED


def test_an_operation_waits_if_its_kind_cannot_read_the_ledger(books: Ledger, pusher: Push) -> None:
    away = [True]

    def act(claim: Claim) -> Outcome:
        if away and away.pop():
            raise OperationalError("SELECT", {}, Exception("gone"))
        return Outcome("done")

    put(books, "W1")
    pusher(act).drain("money")

    assert look(books, "W1").state is State.SUCCEEDED
    assert [attempt.outcome for attempt in attempts_of(books, look(books, "W1").id)] == ["done"]


def test_a_drain_that_is_running_sees_what_came_meanwhile(books: Ledger, pusher: Push, in_stage: Stage) -> None:
    gate = threading.Event()

    def act(claim: Claim) -> Outcome:
        if claim.payload["request_id"] == "slow":
            assert gate.wait(20)
        return Outcome("done")

    put(books, "slow")
    engine = pusher(act)
    drain = background(engine)
    until(lambda: look(books, "slow").state is State.RUNNING)

    put(books, "W1")
    assert not engine.drain("money")  # a second drain only pokes the first

    until(lambda: look(books, "W1").state is State.SUCCEEDED)
    gate.set()
    drain.join(20)
