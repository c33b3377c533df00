"""What a process does with what is due: claim, send, and write what became of it."""

import threading
import time
from contextlib import suppress
from typing import Any

import pytest
from pydantic import JsonValue
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from tasks.fees import FEES, Fees
from tests.flow.conftest import (
    CALL,
    Engine,
    LocalDestination,
    drain_until_final,
    fees_kind,
    in_background,
    make_all_due,
    make_lease_lapse,
    states,
)
from tests.operations import (
    claim_one,
    find_operation,
    hold_operation,
    make_wait,
    record_operation,
    record_operations,
)
from tests.support import until
from worker import ledger as ledger_module
from worker.errors import RateLimited, UnknownOutcome
from worker.flow import attempt_maker, lease_renewal
from worker.flow import lane as lane_module
from worker.flow import pusher as pusher_module
from worker.flow.gate import Gate
from worker.flow.lane import LONGEST_PAUSE_S
from worker.flow.senders import Senders
from worker.instances import b2copy
from worker.ledger import Ledger, attempts_of, count_due, search
from worker.ledger.restore import distrust_restored
from worker.operation import Done, Failed, FailureReason, OnUnknown, Outcome, State, Transition, WaitReason
from worker.operation_kind import Attempt, Payload
from worker.sandbox.control_client import SandboxControl
from worker.settings import worker_settings
from worker.watch import heartbeat, metrics

REFUSE_TO_SETTLE = (
    "CREATE TRIGGER wall BEFORE UPDATE ON b2copy_operations WHEN OLD.state = 'running' AND OLD.key LIKE '%W1'"
    " AND NEW.state <> 'running' BEGIN SELECT RAISE(ABORT, 'no'); END"
)


def execute(ledger: Ledger, statement: str) -> None:
    with ledger.writing() as connection:
        connection.execute(text(statement))


class TestAtTheSandbox:
    def test_a_drain_sends_everything_that_is_due_once(
        self, ledger: Ledger, engine: Engine, sandbox: SandboxControl
    ) -> None:
        names = [f"W{number}" for number in range(250)]
        record_operations(ledger, *names)

        work_is_left = engine(b2copy(), FEES).drain("money")

        assert not work_is_left
        assert states(ledger) == dict.fromkeys(names, "succeeded")
        assert [effect["times"] for effect in sandbox.effects()] == [1] * 250
        assert sandbox.counters()["calls"]["processext"] == 250
        assert sandbox.counters()["logins"] == 1

    def test_an_attempt_leaves_evidence(self, ledger: Ledger, engine: Engine, sandbox: SandboxControl) -> None:
        sandbox.switches(logins={"7": {"ends": "ERROR", "message": "no money"}})
        record_operation(ledger)
        engine(b2copy(), FEES).drain("money")

        [attempt] = attempts_of(ledger, find_operation(ledger).id)

        assert (attempt.outcome, attempt.message, attempt.http_status) == ("fee_error", "no money", 200)
        assert attempt.worker
        assert attempt.started_at > 0
        assert (find_operation(ledger).state, find_operation(ledger).failure_reason) == (State.FAILED, "fee_error")

    @pytest.mark.parametrize("first_is_lost", [False, True])
    def test_a_fee_run_that_meets_a_409_for_a_moment_ends_as_b2copy_says(
        self, ledger: Ledger, engine: Engine, sandbox: SandboxControl, first_is_lost: bool
    ) -> None:
        """As while another withdrawal of the account is begun."""
        lost = [{"what": "drop", "route": "processext", "effect": "done", "next": 1}] * first_is_lost
        sandbox.faults(*lost, {"what": "status", "route": "processext", "status": 409, "next": 2})
        record_operation(ledger)
        pusher = engine(b2copy(), FEES)
        drain_until_final(ledger, pusher)

        assert find_operation(ledger).state == State.SUCCEEDED
        outcomes = [one.outcome for one in attempts_of(ledger, find_operation(ledger).id)]
        assert outcomes == [*["no_answer"] * first_is_lost, "conflict", "done"]
        assert [effect["times"] for effect in sandbox.effects()] == [1]

    def test_a_pending_run_waits_in_the_ledger_and_holds_no_sender(
        self, ledger: Ledger, engine: Engine, sandbox: SandboxControl
    ) -> None:
        sandbox.switches(fees={"until_finished": True})
        record_operation(ledger)

        assert not engine(b2copy(), FEES).drain("money")

        waiting = find_operation(ledger)
        assert (waiting.state, waiting.wait_reason) == (State.WAITING, WaitReason.PENDING_AT_B2COPY)
        assert waiting.lease_owner is None


def test_a_lane_that_waits_out_a_long_hold_is_not_stalled(ledger: Ledger, engine: Engine) -> None:
    def hold(request_id: str) -> dict[str, Any]:
        raise RateLimited("processext", 429, "slow down", 3600)

    record_operation(ledger)
    pusher = engine(LocalDestination(hold))
    drain = in_background(pusher)
    until(lambda: find_operation(ledger).wait_reason == WaitReason.RATE_LIMITED)
    record_operation(ledger, "W2")  # due, and held
    pusher.drain("money")
    came_round = time.monotonic()

    def comes_round_for_three_pauses() -> bool:
        assert heartbeat.stalled_loops(2 * LONGEST_PAUSE_S) == []
        return time.monotonic() - came_round > 3 * LONGEST_PAUSE_S

    until(comes_round_for_three_pauses)
    assert drain.is_alive()
    assert find_operation(ledger, "W2").state == State.QUEUED


def test_an_operation_that_fails_on_our_side_does_not_stop_the_next(ledger: Ledger, engine: Engine) -> None:
    async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
        if fees.request_id == "bad":
            raise ZeroDivisionError("ours")
        return Done()

    record_operations(ledger, "W1", "bad", "W2")
    engine(None, fees_kind(attempt)).drain("money")

    assert states(ledger) == {"W1": "succeeded", "bad": "failed", "W2": "succeeded"}
    assert find_operation(ledger, "bad").failure_reason == FailureReason.INTERNAL
    [evidence] = attempts_of(ledger, find_operation(ledger, "bad").id)
    assert (evidence.outcome, evidence.message) == ("internal", "ZeroDivisionError: ours")


def test_a_kind_that_this_version_does_not_know_waits_for_a_newer_one(ledger: Ledger, engine: Engine) -> None:
    record_operation(ledger)
    engine(None, fees_kind(name="other")).drain("money")

    waiting = find_operation(ledger)
    assert (waiting.state, waiting.wait_reason, waiting.sent) == (State.WAITING, WaitReason.BACKOFF, False)

    make_all_due(ledger)
    engine().drain("money")
    assert find_operation(ledger).state == State.SUCCEEDED


def test_a_destination_that_this_version_does_not_know_waits_for_a_newer_one(ledger: Ledger, engine: Engine) -> None:
    record_operation(ledger, destination="elsewhere")
    engine().drain("money")

    waiting = find_operation(ledger)
    assert (waiting.state, waiting.wait_reason, waiting.sent) == (State.WAITING, WaitReason.BACKOFF, False)


class NewerFees(Fees):
    """The fee run of a version that knows one more field."""

    amount: str | None = None


WITH_AMOUNT = {"account_login": "7", "request_id": "W1", "amount": "5"}


def leave_unknown(ledger: Ledger, on_unknown: OnUnknown) -> None:
    """Record an operation of the newer version that a process has claimed before it was killed."""
    record_operation(ledger, payload=WITH_AMOUNT, on_unknown=on_unknown)
    claim_one(ledger, "a killed process")
    make_lease_lapse(ledger)


def test_an_operation_with_a_field_that_this_version_does_not_know_waits_for_a_newer_one(
    ledger: Ledger, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    record_operation(ledger, payload=WITH_AMOUNT)
    destination = LocalDestination(lambda request_id: {})
    engine(destination).drain("money")

    waiting = find_operation(ledger)
    assert (waiting.state, waiting.wait_reason, waiting.sent) == (State.WAITING, WaitReason.BACKOFF, False)
    assert (waiting.payload, destination.calls) == (WITH_AMOUNT, [])
    [attempt] = attempts_of(ledger, waiting.id)
    assert attempt.message == "this version knows no field 'amount' of fees.process"
    assert attempt.message in caplog.text

    make_all_due(ledger)
    engine(destination, fees_kind(payload=NewerFees)).drain("money")
    assert (find_operation(ledger).state, destination.calls) == (State.SUCCEEDED, ["W1"])


@pytest.mark.parametrize("kind", [fees_kind(), fees_kind(name="other")], ids=["field", "kind"])
def test_what_waits_for_a_newer_version_says_so_in_one_row_of_evidence(
    ledger: Ledger, engine: Engine, kind: Any
) -> None:
    record_operation(ledger, payload=WITH_AMOUNT)
    for _ in range(3):
        engine(None, kind).drain("money")
        make_all_due(ledger)

    [attempt] = attempts_of(ledger, find_operation(ledger).id)
    assert (attempt.times, attempt.outcome, attempt.counted) == (3, "later", False)
    assert "this version knows no" in str(attempt.message)


def test_an_unknown_outcome_stays_unknown_while_an_operation_waits_for_a_newer_version(
    ledger: Ledger, engine: Engine
) -> None:
    leave_unknown(ledger, OnUnknown.START_OR_GET)
    engine().drain("money")

    waiting = find_operation(ledger)
    assert (waiting.state, waiting.outcome_unknown, waiting.sent) == (State.WAITING, True, True)
    # Evidence of this claim would keep a late answer of the process from deciding the operation.
    assert [one.outcome for one in attempts_of(ledger, waiting.id)] == ["lease_lapsed"]


def test_an_operation_with_an_unknown_field_that_must_not_be_repeated_is_unresolved(
    ledger: Ledger, engine: Engine
) -> None:
    leave_unknown(ledger, OnUnknown.STOP)
    engine().drain("money")

    assert find_operation(ledger).failure_reason == FailureReason.UNRESOLVED


def test_unknown_fields_are_found_in_nested_models_and_not_in_what_may_hold_anything() -> None:
    class Inner(Payload):
        name: str

    class Outer(Payload):
        inner: Inner
        anything: dict[str, JsonValue]

    kind = fees_kind(payload=Outer)
    fields = {"inner": {"name": "x", "more": 1}, "anything": {"of": {"any": 1}}, "new": None}

    assert kind.unknown_fields(fields) == ["inner.more", "new"]
    assert kind.unknown_fields({"anything": {"of": {"any": 1}}}) == []  # a missing field is not one of these


def test_an_operation_of_an_unknown_kind_expires_at_its_deadline(ledger: Ledger, engine: Engine) -> None:
    record_operation(ledger, time_allowed_s=60.0)
    execute(ledger, "UPDATE b2copy_operations SET deadline_at = 1")
    engine(None, fees_kind(name="other")).drain("money")

    assert find_operation(ledger).failure_reason == FailureReason.EXPIRED


@pytest.mark.parametrize("begun", ["outcome_unknown = true", "phase = 'poll'", """progress = '{"client_id": 7}'"""])
def test_an_operation_of_an_unknown_kind_that_may_have_begun_is_unresolved_at_its_deadline(
    ledger: Ledger, engine: Engine, begun: str
) -> None:
    record_operation(ledger, time_allowed_s=60.0)
    execute(ledger, f"UPDATE b2copy_operations SET deadline_at = 1, {begun}")
    engine(None, fees_kind(name="other")).drain("money")

    assert find_operation(ledger).failure_reason == FailureReason.UNRESOLVED


@pytest.mark.parametrize(
    ("on_unknown", "expected"),
    [
        (OnUnknown.STOP, "failed"),
        (OnUnknown.REPEAT, "succeeded"),
        (OnUnknown.START_OR_GET, "succeeded"),
        (OnUnknown.READ_BACK, "succeeded"),
    ],
)
def test_what_a_killed_process_left_is_sent_again_only_if_the_operation_permits_it(
    ledger: Ledger, engine: Engine, on_unknown: OnUnknown, expected: str
) -> None:
    record_operation(ledger, on_unknown=on_unknown)
    claim_one(ledger, "a killed process")
    make_lease_lapse(ledger)
    destination = LocalDestination(lambda request_id: {})

    engine(destination).drain("money")

    assert find_operation(ledger).state == expected
    assert destination.calls == ([] if expected == "failed" else ["W1"])
    if expected == "failed":
        assert find_operation(ledger).failure_reason == FailureReason.UNRESOLVED


def test_a_backfill_does_not_stand_in_front_of_a_withdrawal(ledger: Ledger, engine: Engine) -> None:
    may_answer = threading.Event()

    def answer(request_id: str) -> Any:
        assert not request_id.startswith("B") or may_answer.wait(20)
        return {}

    record_operations(ledger, *(f"B{number}" for number in range(200)), lane="bulk")
    pusher = engine(LocalDestination(answer))
    backfill = in_background(pusher, "bulk")
    until(lambda: "running" in states(ledger).values())

    record_operation(ledger, "W1")
    pusher.drain("money")

    assert find_operation(ledger, "W1").state == State.SUCCEEDED
    assert "succeeded" not in {state for name, state in states(ledger).items() if name != "W1"}
    may_answer.set()
    backfill.join(20)
    assert set(states(ledger).values()) == {"succeeded"}


def test_stopping_finishes_what_was_sent_and_returns_the_rest(
    ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_answer, recalls, recall = threading.Event(), list[int](), Senders.recall

    def count_and_recall(self: Senders) -> None:
        recalls.append(1)
        recall(self)

    monkeypatch.setattr(Senders, "recall", count_and_recall)

    def answer(request_id: str) -> Any:
        # The first calls end at once, so that more is claimed ahead than is sent.
        assert request_id in destination.calls[:concurrency] or may_answer.wait(20)
        return {}

    destination = LocalDestination(answer)
    concurrency = worker_settings().concurrency
    record_operations(ledger, *(f"W{number}" for number in range(100)))
    pusher = engine(destination)
    drain = in_background(pusher)
    until(lambda: len(destination.calls) == 2 * concurrency)
    until(lambda: list(states(ledger).values()).count("running") > concurrency)

    pusher.stop()
    until(lambda: list(states(ledger).values()).count("running") <= concurrency)
    time.sleep(0.3)  # the time in which a loop would show
    assert len(recalls) <= 3
    may_answer.set()
    drain.join(20)

    assert len(destination.calls) == 2 * concurrency
    after = states(ledger)
    assert {name for name, state in after.items() if state == "succeeded"} == set(destination.calls)
    assert {state for name, state in after.items() if name not in destination.calls} == {"queued"}
    assert all(not one.sent for one in search(ledger, limit=100) if one.state == State.QUEUED)


class TestTheLedgerInTrouble:
    def test_a_result_waits_for_a_ledger_that_is_unavailable(
        self, ledger: Ledger, engine: Engine, caplog: pytest.LogCaptureFixture
    ) -> None:
        def answer(request_id: str) -> Any:
            execute(ledger, "ALTER TABLE b2copy_operations RENAME TO elsewhere")
            return {}

        record_operation(ledger)
        drain = in_background(engine(LocalDestination(answer)))
        until(lambda: "results wait" in caplog.text)
        execute(ledger, "ALTER TABLE elsewhere RENAME TO b2copy_operations")
        drain.join(20)

        assert find_operation(ledger).state == State.SUCCEEDED

    def test_calls_in_flight_through_an_outage_are_not_taken_for_unknown(
        self, ledger: Ledger, engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lease_renewal, "RENEW_EVERY_S", 1.0)
        monkeypatch.setattr(lane_module, "DATABASE_PAUSE_S", 0.02)
        both, may_answer = threading.Barrier(3), threading.Event()

        def answer(request_id: str) -> Any:
            both.wait(20)
            assert request_id != "W2" or may_answer.wait(20)
            return {}

        record_operations(ledger, "W1", "W2", on_unknown=OnUnknown.STOP)
        drain = in_background(engine(LocalDestination(answer)))
        until(lambda: states(ledger) == {"W1": "running", "W2": "running"})
        execute(ledger, "ALTER TABLE b2copy_operations RENAME TO elsewhere")
        both.wait(20)
        until(lambda: caplog.text.count("leases not renewed") >= 3)
        execute(ledger, "UPDATE elsewhere SET due_at = 1")  # both leases have lapsed when it is available again
        execute(ledger, "ALTER TABLE elsewhere RENAME TO b2copy_operations")
        until(lambda: find_operation(ledger, "W1").state == State.SUCCEEDED)
        may_answer.set()
        drain.join(20)

        assert states(ledger) == {"W1": "succeeded", "W2": "succeeded"}

    def test_a_result_that_the_database_refuses_stays_a_result_and_holds_up_no_other(
        self, ledger: Ledger, engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lane_module, "REFUSED_PAUSE_S", 0.1)
        caplog.set_level("INFO")
        counted = metrics.ATTEMPTS.labels("fees.process", "done")._value.get()
        execute(ledger, REFUSE_TO_SETTLE)
        record_operations(ledger, "W0", "W1", "W2")
        destination = LocalDestination(lambda request_id: {})
        drain = in_background(engine(destination))
        until(lambda: caplog.text.count("the result of fees.process:W1 cannot be written") >= 2)
        assert states(ledger) == {"W0": "succeeded", "W1": "running", "W2": "succeeded"}
        record_operation(ledger, "W3")
        until(lambda: find_operation(ledger, "W3").state == State.SUCCEEDED)

        execute(ledger, "DROP TRIGGER wall")
        drain.join(20)

        assert find_operation(ledger, "W1").state == State.SUCCEEDED
        assert destination.calls.count("W1") == 1
        assert "lane money: 4 attempts in" in caplog.text
        assert metrics.ATTEMPTS.labels("fees.process", "done")._value.get() == counted + 4

    def test_a_result_whose_values_are_impossible_ends_as_internal(
        self, ledger: Ledger, engine: Engine, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
            await attempt.call(CALL, {"request_id": fees.request_id})
            return Done({"when": object()} if fees.request_id == "W1" else None)

        record_operations(ledger, "W0", "W1", "W2")
        engine(None, fees_kind(attempt)).drain("money")

        assert states(ledger) == {"W0": "succeeded", "W1": "failed", "W2": "succeeded"}
        failed = find_operation(ledger, "W1")
        assert (failed.failure_reason, failed.outcome_unknown) == (FailureReason.INTERNAL, True)

    def test_such_an_operation_names_the_step_whose_outcome_is_unknown(self, ledger: Ledger, engine: Engine) -> None:
        async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
            with suppress(UnknownOutcome):
                await attempt.call(CALL, {"request_id": fees.request_id})
            return Failed("fee_error", message=object())  # type: ignore[arg-type]

        def lose(request_id: str) -> Any:
            raise UnknownOutcome("the answer is lost")

        record_operation(ledger)
        engine(LocalDestination(lose), fees_kind(attempt)).drain("money")

        failed = find_operation(ledger)
        assert (failed.failure_reason, failed.unknown_step) == (FailureReason.INTERNAL, "processext")

    def test_an_attempt_that_cannot_read_the_ledger_is_made_again_and_not_in_a_loop(
        self, ledger: Ledger, engine: Engine
    ) -> None:
        tried: list[str] = []

        async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
            tried.append(fees.request_id)
            if len(tried) == 1:
                raise OperationalError("SELECT", {}, Exception("gone"))
            return Done()

        record_operation(ledger)
        pusher = engine(None, fees_kind(attempt))
        pusher.drain("money")
        waiting = find_operation(ledger)
        assert (waiting.state, waiting.sent, len(tried)) == (State.WAITING, False, 1)

        make_all_due(ledger)
        pusher.drain("money")
        assert find_operation(ledger).state == State.SUCCEEDED

    def test_a_check_that_fails_before_anything_was_sent_fails_no_operation(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failures, may_send = [RuntimeError("can't start new thread")], Gate.may_send

        async def fail_once(self: Gate, times_closed: int) -> bool:
            if failures:
                raise failures.pop()
            return await may_send(self, times_closed)

        monkeypatch.setattr(Gate, "may_send", fail_once)
        monkeypatch.setattr(attempt_maker, "CHECK_PAUSE_S", 0.01)
        record_operation(ledger)
        engine().drain("money")

        assert find_operation(ledger).state == State.SUCCEEDED

    def test_a_gate_that_fails_costs_no_result(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*_: Any) -> None:
            raise TypeError("a Redis option that nobody knows")

        monkeypatch.setattr(Gate, "record", fail)
        record_operation(ledger)
        engine().drain("money")

        assert find_operation(ledger).state == State.SUCCEEDED
        assert "the gate could not note what the attempt says about the destination" in caplog.text


class TestADrainThatFails:
    def test_leaves_its_results_to_the_next_one(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failures, settle_and_claim = [SystemExit("a time limit")], ledger_module.settle_and_claim

        def fail_with_results(ledger: Ledger, transitions: list[Transition], *rest: Any) -> Any:
            if transitions and failures:
                raise failures[-1]
            return settle_and_claim(ledger, transitions, *rest)

        monkeypatch.setattr(lane_module, "settle_and_claim", fail_with_results)
        destination = LocalDestination(lambda request_id: {})
        record_operation(ledger)
        pusher = engine(destination)
        with pytest.raises(SystemExit):
            pusher.drain("money")
        failures.clear()

        pusher.drain("money")

        assert (find_operation(ledger).state, destination.calls) == (State.SUCCEEDED, ["W1"])

    def test_leaves_its_claims_to_the_next_one(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failures, take = [SystemExit()], Gate.take  # any other error does not end a drain that has claims

        def fail_once(self: Gate, claimed: int, urgent: bool) -> int:
            if failures:
                raise failures.pop()
            return take(self, claimed, urgent)

        monkeypatch.setattr(Gate, "take", fail_once)
        record_operations(ledger, "W1", "W2")
        pusher = engine()
        with pytest.raises(SystemExit):
            pusher.drain("money")

        drain = in_background(pusher)
        until(lambda: set(states(ledger).values()) == {"succeeded"})
        drain.join(20)


def test_a_lane_whose_destination_is_not_known_here_is_left_to_others(ledger: Ledger, engine: Engine) -> None:
    record_operation(ledger, lane="notify")

    assert engine().drain("notify") is False

    assert find_operation(ledger).state == State.QUEUED


def test_a_pusher_that_is_closed_renews_no_lease_and_claims_nothing(ledger: Ledger, engine: Engine) -> None:
    others = set(threading.enumerate())
    pusher = engine()
    [renewing] = [one for one in threading.enumerate() if one not in others and one.name == "b2copy-leases"]

    pusher.close()

    renewing.join(2.0)
    assert not renewing.is_alive()
    record_operation(ledger)
    assert pusher.drain("money") is False
    assert find_operation(ledger).state == State.QUEUED


def threads_of_pushers() -> set[threading.Thread]:
    """The threads that will make something due."""
    return {one for one in threading.enumerate() if one.name == "b2copy-make-due"}


def test_a_ledger_that_is_unavailable_when_the_gate_opens_is_asked_again(
    ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pusher_module, "LAST_FAILURES_S", 0.1)
    monkeypatch.setattr(pusher_module, "MAKE_DUE_PAUSE_S", 0.05)
    make_wait(ledger, hold_operation(ledger), due_in_s=7200.0)
    others = threads_of_pushers()
    execute(ledger, "ALTER TABLE b2copy_operations RENAME TO elsewhere")

    engine(call_deadline=0.5)._make_due("b2copy", [WaitReason.BACKOFF])
    until(lambda: caplog.text.count("b2copy is available again, but the ledger is not") > 1)
    execute(ledger, "ALTER TABLE elsewhere RENAME TO b2copy_operations")

    until(lambda: count_due(ledger)["money"] == 1)
    until(lambda: threads_of_pushers() <= others)


def test_what_failed_after_the_gate_had_opened_is_made_due_too(
    ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request hung, perhaps in another process, while a probe closed the circuit."""
    monkeypatch.setattr(pusher_module, "LAST_FAILURES_S", 0.1)
    hung, others = hold_operation(ledger), threads_of_pushers()
    engine(call_deadline=0.5)._make_due("b2copy", [WaitReason.BACKOFF])

    make_wait(ledger, hung, due_in_s=7200.0)

    until(lambda: count_due(ledger)["money"] == 1)
    until(lambda: threads_of_pushers() <= others)


def test_a_pusher_that_is_stopped_makes_nothing_due_later(ledger: Ledger, engine: Engine) -> None:
    execute(ledger, "ALTER TABLE b2copy_operations RENAME TO elsewhere")
    stopped, others = engine(), threads_of_pushers()
    stopped._make_due("b2copy", [WaitReason.BACKOFF])
    [repeating] = threads_of_pushers() - others

    stopped.stop()

    repeating.join(1.0)
    assert not repeating.is_alive()


def test_the_time_of_an_attempt_is_learned(ledger: Ledger, engine: Engine) -> None:
    """How many operations are claimed ahead depends on it."""
    record_operations(ledger, *(f"W{number}" for number in range(100)))
    pusher = engine()
    attempts = pusher._lanes["money"]._attempts
    before_s = attempts.attempt_s

    pusher.drain("money")

    assert 0 < attempts.attempt_s < before_s


def test_the_time_of_an_attempt_is_a_moving_average(ledger: Ledger, engine: Engine) -> None:
    record_operation(ledger)
    pusher = engine(LocalDestination(lambda request_id: time.sleep(0.3)))
    attempts = pusher._lanes["money"]._attempts
    before_s = attempts.attempt_s

    pusher.drain("money")

    [evidence] = attempts_of(ledger, find_operation(ledger).id)
    expected_s = 0.9 * before_s + 0.1 * evidence.duration_ms / 1000
    assert attempts.attempt_s == pytest.approx(expected_s, abs=0.001)


def test_a_running_drain_finds_what_was_recorded_meanwhile(ledger: Ledger, engine: Engine) -> None:
    may_answer = threading.Event()

    def answer(request_id: str) -> Any:
        assert request_id != "slow" or may_answer.wait(20)
        return {}

    record_operation(ledger, "slow")
    pusher = engine(LocalDestination(answer))
    drain = in_background(pusher)
    until(lambda: find_operation(ledger, "slow").state == State.RUNNING)

    record_operation(ledger, "W1")
    assert not pusher.drain("money")  # a second drain only makes the first query again

    until(lambda: find_operation(ledger, "W1").state == State.SUCCEEDED)
    may_answer.set()
    drain.join(20)


def test_what_may_have_been_done_since_a_backup_ends_without_being_sent(ledger: Ledger, engine: Engine) -> None:
    record_operation(ledger, on_unknown=OnUnknown.STOP)
    distrust_restored(ledger, {}, "ann", "restored from the backup of 02:00")
    destination = LocalDestination(lambda request_id: {})

    engine(destination, fees_kind(on_unknown=OnUnknown.STOP)).drain("money")

    found = find_operation(ledger)
    assert (found.failure_reason, found.outcome_unknown, found.sent) == (FailureReason.UNRESOLVED, True, False)
    assert destination.calls == []
