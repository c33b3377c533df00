"""An attempt of several calls: its steps, its progress, what it leaves unknown, and what a lost process leaves."""

import asyncio
import dataclasses
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from tasks import enqueue
from tasks.fees import Fees
from tasks.generic_call import CALL as CALLS
from tests.flow.conftest import (
    CALL,
    LOOK,
    Engine,
    LocalDestination,
    drain_until_final,
    fees_kind,
    in_background,
    make_all_due,
    make_lease_lapse,
)
from tests.operations import claim_one, find_operation, record_operation
from tests.support import until
from worker.b2copy import Route
from worker.b2copy.client import SERVICE_ADMIN
from worker.errors import BadPayload, Rejected, Unavailable, UnknownOutcome
from worker.flow import attempt_maker, lease_renewal
from worker.flow import gate as gate_module
from worker.flow.circuit_breaker import FAILURES_TO_OPEN
from worker.flow.lease_renewal import LeaseRenewal
from worker.flow.meaning_table import meaning_of
from worker.http import event_loop
from worker.instances import b2copy
from worker.ledger import Ledger, attempts_of, search
from worker.operation import PROGRESS_LIMIT, Done, FailureReason, Later, OnUnknown, Outcome, State, WaitReason
from worker.operation_kind import Attempt
from worker.sandbox.control_client import SandboxControl
from worker.watch import observe

CREATE = Route("create", "", "POST", "/create", lambda body, sent: body)


async def create_then_process(attempt: Attempt, fees: Fees) -> Outcome:
    """Two calls with an effect; the first one's answer is stored as progress."""
    if attempt.progress is None:
        attempt.progress = {"created": await attempt.call(CREATE, {"request_id": fees.request_id + "/create"})}
    await attempt.call(CALL, {"request_id": fees.request_id})
    return Done(attempt.progress)


async def create_then_look(attempt: Attempt, fees: Fees) -> Outcome:
    await attempt.call(CREATE, {"request_id": fees.request_id})
    await attempt.call(LOOK, {"request_id": fees.request_id})
    return Done()


def failing(request_id: str, error: Exception) -> Callable[[str], Any]:
    """Return an answer that raises `error` for the first call about this id."""
    errors = [error]

    def answer(asked: str) -> Any:
        if asked == request_id and errors:
            raise errors.pop()
        return {"id": 7}

    return answer


def test_the_steps_of_an_attempt_are_stored_with_their_names_and_outcomes(ledger: Ledger, engine: Engine) -> None:
    record_operation(ledger)
    engine(LocalDestination(failing("W1", Unavailable("x", 503))), fees_kind(create_then_process)).drain("money")

    [attempt] = attempts_of(ledger, find_operation(ledger).id)
    assert [(step.name, step.http_status, step.outcome) for step in attempt.steps] == [
        ("create", 200, "answered"),
        ("processext", 503, "not_processed"),
    ]
    assert (attempt.outcome, attempt.http_status) == ("not_processed", 503)


def test_the_evidence_says_when_and_how_long(ledger: Ledger, engine: Engine) -> None:
    def answer(request_id: str) -> Any:
        time.sleep(0.06)
        return {"id": 7}

    record_operation(ledger)
    before_ms = time.time() * 1000
    engine(LocalDestination(answer), fees_kind(create_then_look)).drain("money")

    [attempt] = attempts_of(ledger, find_operation(ledger).id)
    assert before_ms - 1000 <= attempt.started_at <= time.time() * 1000 + 1000
    assert 120 <= attempt.duration_ms <= time.time() * 1000 - before_ms
    assert [60 <= step.duration_ms <= attempt.duration_ms for step in attempt.steps] == [True, True]


@pytest.mark.parametrize("over_http", [True, False])
def test_only_an_answer_over_http_has_a_status(ledger: Ledger, engine: Engine, over_http: bool) -> None:
    async def call(attempt: Attempt, fees: Fees) -> Outcome:
        await attempt.call(dataclasses.replace(CALL, over_http=over_http), {"request_id": fees.request_id})
        return Done()

    record_operation(ledger)
    engine(None, fees_kind(call)).drain("money")

    [attempt] = attempts_of(ledger, find_operation(ledger).id)
    assert attempt.http_status == (200 if over_http else None)


def test_a_step_that_another_process_has_taken_over_is_not_begun(ledger: Ledger, engine: Engine) -> None:
    async def begin_late(attempt: Attempt, fees: Fees) -> Outcome:
        with ledger.writing() as connection:
            connection.execute(text("UPDATE b2copy_operations SET fence = fence + 1"))
        await attempt.begin(CREATE)
        await attempt.call(CREATE, {"request_id": fees.request_id})
        return Done()

    destination = LocalDestination(lambda request_id: {})
    record_operation(ledger)
    engine(destination, fees_kind(begin_late)).drain("money")

    assert destination.calls == []
    assert find_operation(ledger).unknown_step is None


@pytest.mark.parametrize(("longer", "reason"), [(0, None), (1, FailureReason.INTERNAL)])
def test_progress_has_a_limit(ledger: Ledger, engine: Engine, longer: int, reason: str | None) -> None:
    async def store(attempt: Attempt, fees: Fees) -> Outcome:
        attempt.progress = {"text": "x" * (PROGRESS_LIMIT - len(json.dumps({"text": ""})) + longer)}
        return Later(60.0)

    record_operation(ledger)
    engine(None, fees_kind(store)).drain("money")

    assert find_operation(ledger).failure_reason == reason


def test_an_attempt_of_one_call_stores_no_steps(ledger: Ledger, engine: Engine) -> None:
    record_operation(ledger)
    engine().drain("money")

    [attempt] = attempts_of(ledger, find_operation(ledger).id)
    assert (attempt.steps, attempt.http_status) == ((), 200)


def test_the_next_attempt_continues_from_the_progress_of_the_last(ledger: Ledger, engine: Engine) -> None:
    destination = LocalDestination(failing("W1", Unavailable("x", 503)))
    record_operation(ledger)
    pusher = engine(destination, fees_kind(create_then_process))
    pusher.drain("money")
    assert find_operation(ledger).progress == {"created": {"id": 7}}

    drain_until_final(ledger, pusher)

    assert destination.calls == ["W1/create", "W1", "W1"]
    assert find_operation(ledger).result == {"created": {"id": 7}}


def test_the_step_whose_outcome_is_unknown_is_named(ledger: Ledger, engine: Engine) -> None:
    record_operation(ledger, on_unknown=OnUnknown.STOP)
    kind = fees_kind(create_then_process)
    engine(LocalDestination(failing("W1", UnknownOutcome("lost"))), kind).drain("money")

    failed = find_operation(ledger)
    assert (failed.failure_reason, failed.outcome_unknown, failed.unknown_step) == (
        FailureReason.UNRESOLVED,
        True,
        "processext",
    )
    assert failed.progress == {"created": {"id": 7}}


def test_a_lost_answer_to_a_call_without_an_effect_leaves_nothing_unknown(ledger: Ledger, engine: Engine) -> None:
    async def look(attempt: Attempt, fees: Fees) -> Outcome:
        return Done(await attempt.call(LOOK, {"request_id": fees.request_id}))

    destination = LocalDestination(failing("W1", UnknownOutcome("lost")))
    record_operation(ledger, on_unknown=OnUnknown.STOP)
    pusher = engine(destination, fees_kind(look))
    pusher.drain("money")
    waiting = find_operation(ledger)
    assert (waiting.state, waiting.outcome_unknown) == (State.WAITING, False)

    drain_until_final(ledger, pusher)

    assert find_operation(ledger).state == State.SUCCEEDED
    assert destination.on_unknown == [OnUnknown.REPEAT] * 2  # a connection found closed may be replaced


def test_looking_does_not_forget_that_an_earlier_call_was_lost(ledger: Ledger, engine: Engine) -> None:
    async def catch_and_look(attempt: Attempt, fees: Fees) -> Outcome:
        try:
            await attempt.call(CREATE, {"request_id": fees.request_id})
        except UnknownOutcome:
            await attempt.call(LOOK, {"request_id": "look"})
        return Later(60.0)

    record_operation(ledger, on_unknown=OnUnknown.READ_BACK)
    engine(LocalDestination(failing("W1", UnknownOutcome("lost"))), fees_kind(catch_and_look)).drain("money")

    waiting = find_operation(ledger)
    assert (waiting.wait_reason, waiting.outcome_unknown, waiting.unknown_step) == (
        WaitReason.NEXT_STEP,
        True,
        "create",
    )


def test_a_gate_that_closes_between_two_calls_makes_the_operation_continue_later(
    ledger: Ledger, engine: Engine
) -> None:
    record_operation(ledger)
    gates: list[Any] = []

    def answer(request_id: str) -> Any:
        for _ in range(FAILURES_TO_OPEN if request_id == "W1/create" else 0):
            error = Unavailable("another operation's call")
            event_loop().run(gates[0].record(error, meaning_of(error), SERVICE_ADMIN))
        return {"id": 7}

    destination = LocalDestination(answer)
    pusher = engine(destination, fees_kind(create_then_process))
    gates.append(pusher._lanes["money"]._gate)
    in_background(pusher)
    until(lambda: find_operation(ledger).state == State.WAITING)

    waiting = find_operation(ledger)
    assert (waiting.wait_reason, waiting.outcome_unknown) == (WaitReason.CIRCUIT_OPEN, False)
    assert waiting.sent  # the first call was: nobody may cancel it
    assert waiting.progress == {"created": {"id": 7}}
    [attempt] = attempts_of(ledger, waiting.id)
    assert [step.name for step in attempt.steps] == ["create"]
    drain_until_final(ledger, pusher)
    assert destination.calls == ["W1/create", "W1"]


def test_a_lease_that_is_too_short_between_two_calls_makes_the_operation_continue_later(
    ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = LocalDestination(lambda request_id: {"id": 7})
    record_operation(ledger)
    is_valid = LeaseRenewal.is_valid
    monkeypatch.setattr(
        LeaseRenewal, "is_valid", lambda self, claim: not destination.calls and is_valid(self, claim)
    )  # as if the process had been suspended during the first call
    pusher = engine(destination, fees_kind(create_then_process))
    pusher.drain("money")

    waiting = find_operation(ledger)
    assert (waiting.state, waiting.wait_reason, waiting.sent) == (State.WAITING, WaitReason.BACKOFF, True)
    assert [one.outcome for one in attempts_of(ledger, waiting.id)] == ["lease_too_short"]
    monkeypatch.undo()


@pytest.mark.parametrize("closes", ["lease", "hold", "circuit"])
def test_no_first_call_is_made_if_the_gate_closed_while_the_attempt_prepared_it(
    ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch, closes: str
) -> None:
    async def prepare_and_call(attempt: Attempt, fees: Fees) -> Outcome:
        await attempt.earlier_attempts()
        gate = pusher._lanes["money"]._gate
        is_prepared.append(True)
        if closes == "hold":
            gate.fleet_limits.hold(60.0)
        for _ in range(FAILURES_TO_OPEN if closes == "circuit" else 0):
            error = Unavailable("another operation's call")
            await gate.record(error, meaning_of(error), SERVICE_ADMIN)
        await attempt.call(CALL, {"request_id": fees.request_id})
        return Done()

    is_prepared, is_valid = list[bool](), LeaseRenewal.is_valid
    if closes == "lease":  # as if the process had been suspended
        monkeypatch.setattr(LeaseRenewal, "is_valid", lambda self, claim: not is_prepared and is_valid(self, claim))
    destination = LocalDestination(lambda request_id: {})
    record_operation(ledger)
    pusher = engine(destination, fees_kind(prepare_and_call))
    in_background(pusher)
    until(lambda: find_operation(ledger).state == State.WAITING)

    assert (destination.calls, find_operation(ledger).sent) == ([], False)


@pytest.mark.parametrize("hangs_in", ["call", "kind"])
def test_an_attempt_that_does_not_end_leaves_the_outcome_unknown(
    ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch, hangs_in: str
) -> None:
    async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
        await attempt.call(CALL, {"request_id": fees.request_id})
        await asyncio.sleep(60)
        return Done()

    monkeypatch.setattr(attempt_maker, "PERMIT_PATIENCE_S", 0.06)
    may_answer = threading.Event()
    destination = LocalDestination(lambda request_id: hangs_in == "kind" or may_answer.wait(20))
    record_operation(ledger, on_unknown=OnUnknown.STOP)
    drain = in_background(engine(destination, fees_kind(attempt), call_deadline=0.12))
    drain.join(10)
    may_answer.set()

    failed = find_operation(ledger)
    assert (failed.failure_reason, failed.unknown_step) == (FailureReason.UNRESOLVED, "processext")
    [evidence] = attempts_of(ledger, failed.id)
    assert evidence.message == "the attempt took longer than 1 s"  # eight calls of 0.12 + 0.06 s


def test_a_time_out_of_the_kinds_own_is_our_own_fault(ledger: Ledger, engine: Engine) -> None:
    async def time_out(attempt: Attempt, fees: Fees) -> Outcome:
        raise TimeoutError("of its own")

    record_operation(ledger)
    engine(None, fees_kind(time_out)).drain("money")

    assert find_operation(ledger).failure_reason == FailureReason.INTERNAL


def test_every_attempt_ends_before_its_claim_counts_as_forgotten() -> None:
    longest_call_s = 60.0 + gate_module.PERMIT_PATIENCE_S  # the most that B2COPY_CALL_DEADLINE may be

    assert attempt_maker.CALLS_MAX * longest_call_s < lease_renewal.HELD_MAX_S


def test_progress_that_is_too_large_is_our_own_fault_and_is_not_stored(ledger: Ledger, engine: Engine) -> None:
    async def store_too_much(attempt: Attempt, fees: Fees) -> Outcome:
        attempt.progress = {"text": "x" * PROGRESS_LIMIT}
        return Later(1.0)

    record_operation(ledger)
    engine(None, fees_kind(store_too_much)).drain("money")

    assert find_operation(ledger).failure_reason == FailureReason.INTERNAL
    assert find_operation(ledger).progress is None
    [evidence] = attempts_of(ledger, find_operation(ledger).id)
    assert evidence.message == f"ValueError: progress is longer than {PROGRESS_LIMIT} characters of JSON"


def test_an_attempt_that_fails_on_our_side_after_an_effect_leaves_the_outcome_unknown(
    ledger: Ledger, engine: Engine
) -> None:
    async def call_and_fail(attempt: Attempt, fees: Fees) -> Outcome:
        answer = await attempt.call(CALL, {"request_id": fees.request_id})
        await attempt.call(LOOK, {"request_id": fees.request_id})
        return Done(answer["a field that is missing"])

    record_operation(ledger)
    engine(None, fees_kind(call_and_fail)).drain("money")

    failed = find_operation(ledger)
    assert failed.failure_reason == FailureReason.INTERNAL
    assert (failed.outcome_unknown, failed.unknown_step) == (True, "processext")


def test_a_request_that_cannot_be_counted_is_an_answer_all_the_same(
    ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("the metrics' folder is full")

    monkeypatch.setattr(observe, "_requests", fail)  # what has counted before is not looked up again
    record_operation(ledger)
    engine().drain("money")

    assert find_operation(ledger).state == State.SUCCEEDED
    assert "observe_request failed" in caplog.text


def test_an_attempt_that_fails_before_its_first_call_has_sent_nothing(ledger: Ledger, engine: Engine) -> None:
    async def refuse(attempt: Attempt, fees: Fees) -> Outcome:
        raise BadPayload("account_login: unknown here")

    record_operation(ledger)
    engine(None, fees_kind(refuse)).drain("money")

    assert (find_operation(ledger).failure_reason, find_operation(ledger).sent) == (FailureReason.BAD_PAYLOAD, False)


class TestOnUnknownAsAFunction:
    """A kind whose `create` can be read back, and whose `processext` cannot."""

    @staticmethod
    def on_unknown(step: str | None) -> OnUnknown:
        return OnUnknown.STOP if step == "processext" else OnUnknown.READ_BACK

    async def attempt(self, attempt: Attempt, fees: Fees) -> Outcome:
        looked = attempt.claim.outcome_unknown and await attempt.call(LOOK, {"request_id": "look"})
        if not looked:
            await attempt.call(CREATE, {"request_id": fees.request_id + "/create"})
        await attempt.call(CALL, {"request_id": fees.request_id})
        return Done()

    def kind(self) -> Any:
        return fees_kind(self.attempt, on_unknown=self.on_unknown)

    def test_ends_an_operation_whose_step_must_not_be_repeated_and_names_it(
        self, ledger: Ledger, engine: Engine
    ) -> None:
        record_operation(ledger)
        destination = LocalDestination(failing("W1", UnknownOutcome("lost")))
        engine(destination, self.kind()).drain("money")

        failed = find_operation(ledger)
        assert (failed.failure_reason, failed.unknown_step) == (FailureReason.UNRESOLVED, "processext")
        assert destination.calls == ["W1/create", "W1"]

    def test_lets_an_operation_look_first_whose_step_can_be_read_back(self, ledger: Ledger, engine: Engine) -> None:
        record_operation(ledger)
        destination = LocalDestination(failing("W1/create", UnknownOutcome("lost")))
        pusher = engine(destination, self.kind())
        pusher.drain("money")
        assert find_operation(ledger).unknown_step == "create"

        drain_until_final(ledger, pusher)

        assert find_operation(ledger).state == State.SUCCEEDED
        assert destination.calls == ["W1/create", "look", "W1"]

    def test_is_asked_about_a_claim_that_a_killed_process_left(self, ledger: Ledger, engine: Engine) -> None:
        record_operation(ledger)
        claim_one(ledger, "a killed process")
        make_lease_lapse(ledger)
        destination = LocalDestination(lambda request_id: {"id": 7})
        drain_until_final(ledger, engine(destination, self.kind()))

        assert destination.calls == ["look", "W1"]  # nobody knows which step it was: it looks

    def test_ends_what_a_killed_process_left_if_it_must_not_be_repeated(self, ledger: Ledger, engine: Engine) -> None:
        record_operation(ledger)
        claim_one(ledger, "a killed process")
        make_lease_lapse(ledger)
        destination = LocalDestination(lambda request_id: {})
        engine(destination, fees_kind(self.attempt, on_unknown=lambda claim: OnUnknown.STOP)).drain("money")

        assert find_operation(ledger).failure_reason == FailureReason.UNRESOLVED
        assert destination.calls == []


def test_a_refusal_of_what_may_have_been_done_before_is_unresolved(ledger: Ledger, engine: Engine) -> None:
    record_operation(ledger, on_unknown=OnUnknown.REPEAT)
    claim_one(ledger, "a killed process")
    make_lease_lapse(ledger)
    engine(LocalDestination(failing("W1", Rejected("exists", 409)))).drain("money")

    assert find_operation(ledger).failure_reason == FailureReason.UNRESOLVED


def test_a_later_call_waits_no_longer_than_a_lease_lasts() -> None:
    from worker.flow.lease_renewal import MARGIN_S
    from worker.ledger import LEASE_S

    assert gate_module.PERMIT_PATIENCE_S < LEASE_S - MARGIN_S


def test_an_accepted_call_waits_for_a_worker_that_allows_its_path(
    ledger: Ledger, engine: Engine, sandbox: SandboxControl
) -> None:
    """As while the setting is changed: a worker may still have a shorter list than the host that requested the call."""
    path = "/api/admin/clients/v2/client/clientservice/update"
    old, new = (engine(b2copy(), CALLS, call_paths=paths) for paths in (["/api/admin/fees/*"], ["/api/admin/*"]))
    enqueue.call(path, {"client_id": 1}, key="C1")

    old.drain("default")
    [waiting] = search(ledger)
    [attempt] = attempts_of(ledger, waiting.id)
    make_all_due(ledger)
    new.drain("default")

    assert (waiting.state, waiting.wait_reason) == (State.WAITING, WaitReason.NEXT_STEP)
    assert "B2COPY_CALL_PATHS" in str(attempt.message)
    assert [str(one.state) for one in search(ledger)] == ["succeeded"]
