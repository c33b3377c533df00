"""The gate to a destination: circuit, login, rate limit and hold, seen from the operations that pass it or wait."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import socket
import threading
import time
from functools import partial
from typing import Any

import pytest
from prometheus_client import REGISTRY

from tasks import enqueue
from tasks.fees import FEES, Fees
from tasks.generic_call import CALL as CALLS
from tests.conftest import Configure, Member
from tests.flow.conftest import (
    CALL,
    LOOK,
    Engine,
    LocalDestination,
    drain_until_final,
    fees_kind,
    in_background,
    make_all_due,
    states,
)
from tests.http.raw_server import Wire
from tests.odd_redis import ODD, redis_that_answers
from tests.operations import find_operation, record_operation, record_operations
from tests.support import until
from worker.b2copy import B2Copy
from worker.b2copy.client import SERVICE_ADMIN
from worker.errors import (
    AccessRejected,
    CircuitOpen,
    CredentialsRejected,
    LeaseTooShort,
    NoSeamlessUrl,
    OtherLoginUnavailable,
    PermitRefused,
    RateLimited,
    SessionUnavailable,
    SettingsError,
    StoreUnavailable,
    Unavailable,
    UnknownOutcome,
)
from worker.flow import circuit_breaker, fleet_limits, gate
from worker.flow.circuit_breaker import FAILURES_TO_OPEN
from worker.flow.gate import Gate
from worker.flow.meaning_table import meaning_of
from worker.flow.pusher import Pusher
from worker.http import Http, event_loop
from worker.instances import b2copy
from worker.ledger import Ledger, attempts_of, search
from worker.operation import Done, FailureReason, OnUnknown, Operation, Outcome, State, WaitReason
from worker.operation_kind import Attempt
from worker.sandbox.control_client import SandboxControl
from worker.settings import worker_settings
from worker.testbed.local_system import Environment
from worker.watch import metrics

PROBE_S = 0.2  # seconds between two probes in these tests


@pytest.fixture(autouse=True)
def _probe_often(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (circuit_breaker, fleet_limits, gate):
        monkeypatch.setattr(module, "PROBE_EVERY_S", PROBE_S)


def a_gate(**settings: Any) -> Gate:
    return Gate("b2copy", worker_settings().model_copy(update=settings), lambda destination, reasons: None)


def record(gate: Gate, learned: Outcome | Exception, login: str | None = SERVICE_ADMIN) -> None:
    """Let the gate learn something, and wait until it has shared that: the next test has the same Redis."""

    async def record_and_share() -> None:
        await gate.record(learned, meaning_of(learned), login)
        await asyncio.gather(*gate._tasks)

    event_loop().run(record_and_share())


async def record_nothing(gate: Gate, times_closed: int) -> None:
    gate.record_nothing(times_closed)
    await asyncio.gather(*gate._tasks)


def close_gate(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open its circuit, and return when a probe may be sent. Probes are sent once a minute then."""
    for _ in range(FAILURES_TO_OPEN):
        record(gate, Unavailable("x"))
    until(lambda: gate.until_open_s(urgent=True) == gate.until_open_s(urgent=False) == 0.0)
    for module in (circuit_breaker, fleet_limits):
        monkeypatch.setattr(module, "PROBE_EVERY_S", 60.0)


def closed_gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    closed = a_gate()
    close_gate(closed, monkeypatch)
    return closed


class Switched(LocalDestination):
    """A destination that raises `error` until it is set to None."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__(self._answer_or_raise)
        self.error = error

    def _answer_or_raise(self, request_id: str) -> Any:
        if self.error is not None:
            raise self.error
        return {}


def wait_for_claims(ledger: Ledger, *names: str) -> None:
    """Wait until the lane has claimed these, which the only sender, in this thread, cannot have begun."""
    until(lambda: {states(ledger)[name] for name in names} == {"running"})


class TestCircuit:
    def test_an_outage_costs_few_calls_and_everything_resumes_afterwards(self, ledger: Ledger, engine: Engine) -> None:
        destination = Switched(Unavailable("no answer"))
        names = [f"W{number}" for number in range(100)]
        record_operations(ledger, *names)
        drain = in_background(engine(destination))
        concurrency = worker_settings().concurrency
        until(lambda: len(destination.calls) >= FAILURES_TO_OPEN + 2)
        until(lambda: "waiting" in states(ledger).values())
        began = time.monotonic()
        until(lambda: find_operation(ledger, "W99").state == State.QUEUED and time.monotonic() - began > 1.0)

        probes = (time.monotonic() - began) / 0.2 + 4
        assert len(destination.calls) <= FAILURES_TO_OPEN + concurrency + probes
        assert not {"failed", "succeeded"} & set(states(ledger).values())

        destination.error = None
        until(lambda: set(states(ledger).values()) == {"succeeded"})
        drain.join(20)
        assert len(destination.calls) <= 100 + FAILURES_TO_OPEN + concurrency + probes + 4

    def test_a_claim_that_is_queued_when_the_circuit_opens_is_returned_unsent(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(circuit_breaker, "PROBE_EVERY_S", 60.0)
        calls_to_open = 1 + FAILURES_TO_OPEN

        def answer(request_id: str) -> Any:
            if len(destination.calls) == 1:
                return {}  # from now on more is claimed than the one sender can send
            if len(destination.calls) == calls_to_open:
                wait_for_claims(ledger, "W06", "W07")
            raise Unavailable("no answer")

        destination = LocalDestination(answer)
        record_operations(ledger, *(f"W{number:02}" for number in range(60)))
        in_background(engine(destination, concurrency=1))
        until(lambda: len(destination.calls) >= calls_to_open)

        until(lambda: "running" not in states(ledger).values())

        assert len(destination.calls) == calls_to_open
        untouched = [one for one in search(ledger, limit=1000) if one.state == State.QUEUED]
        assert len(untouched) == 60 - calls_to_open
        assert not any(one.sent for one in untouched)

    def test_no_probe_is_taken_while_nothing_is_due(
        self, ledger: Ledger, engine: Engine, active_environment: Environment
    ) -> None:
        pusher = engine(Switched(Unavailable("no answer")))
        record_operations(ledger, *(f"W{number}" for number in range(FAILURES_TO_OPEN)))
        pusher.drain("money")  # opens the circuit, and ends when nothing more is due

        with active_environment.broker.client as client:
            client.delete("b2copy:gate:b2copy:probe")
            pusher.drain("money")
            assert not client.exists("b2copy:gate:b2copy:probe")

    def test_closing_makes_due_what_waited_for_the_destination(
        self, ledger: Ledger, engine: Engine, caplog: pytest.LogCaptureFixture
    ) -> None:
        destination = Switched(Unavailable("no answer"))
        record_operations(ledger, *(f"W{number}" for number in range(FAILURES_TO_OPEN + 20)))
        drain = in_background(engine(destination))
        until(lambda: "waiting" in states(ledger).values())

        destination.error = None
        with caplog.at_level(logging.INFO):
            until(lambda: set(states(ledger).values()) == {"succeeded"})
        drain.join(10)

        assert "waiting operations are due now" in caplog.text

    def test_no_second_probe_is_made_while_one_is_under_way(self, ledger: Ledger, engine: Engine) -> None:
        may_answer = threading.Event()

        def answer(request_id: str) -> Any:
            if len(destination.calls) > FAILURES_TO_OPEN:
                assert may_answer.wait(20)
                return {}
            raise Unavailable("no answer")

        destination = LocalDestination(answer)
        record_operations(ledger, *(f"W{number}" for number in range(FAILURES_TO_OPEN + 5)))
        drain = in_background(engine(destination, concurrency=1))
        destination.wait_for_calls(FAILURES_TO_OPEN + 1)
        until(lambda: list(states(ledger).values()).count("running") == 1)
        time.sleep(0.5)  # two intervals of 0.2 s

        assert len(destination.calls) == FAILURES_TO_OPEN + 1
        assert list(states(ledger).values()).count("running") == 1
        may_answer.set()
        until(lambda: set(states(ledger).values()) == {"succeeded"})
        drain.join(20)

    def test_operations_of_several_calls_alone_close_the_circuit(self, ledger: Ledger, engine: Engine) -> None:
        async def look_then_call(attempt: Attempt, fees: Fees) -> Outcome:
            await attempt.call(LOOK, {"request_id": fees.request_id})
            await attempt.call(CALL, {"request_id": fees.request_id})
            return Done()

        destination = Switched(Unavailable("no answer"))
        record_operations(ledger, *(f"W{number}" for number in range(FAILURES_TO_OPEN)))
        pusher = engine(destination, fees_kind(look_then_call))
        drain = in_background(pusher)
        until(lambda: set(states(ledger).values()) == {"waiting"})
        drain.join(20)
        gate = pusher._lanes["money"]._gate
        assert not gate.is_open

        destination.error = None
        make_all_due(ledger)
        drain = in_background(pusher)

        until(lambda: gate.is_open)
        drain.join(20)
        drain_until_final(ledger, pusher, "W0")


class TestProbe:
    """A circuit probe that has shown nothing about the destination."""

    def test_is_followed_by_another_one_soon(
        self, active_environment: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed = closed_gate(monkeypatch)
        assert closed.take(1, urgent=True) == 1
        wait_s = closed.until_open_s(urgent=True)

        event_loop().run(record_nothing(closed, closed.times_closed - 1))  # claimed before the circuit opened
        assert wait_s - 20 < closed.until_open_s(urgent=True) <= wait_s

        event_loop().run(record_nothing(closed, closed.times_closed))
        assert closed.until_open_s(urgent=True) <= circuit_breaker.NEXT_PROBE_S
        assert until(lambda: closed.take(1, urgent=True)) == 1

    @pytest.mark.parametrize("way", ["no call", "not sent", "a newer version's"])
    def test_does_not_hold_up_an_operation_behind_many_that_cannot_be_sent(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch, way: str
    ) -> None:
        async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
            if way == "no call" and fees.request_id != "good":
                raise NoSeamlessUrl("the secret is refused")
            await attempt.call(CALL, {"request_id": fees.request_id})
            return Done()

        def answer(request_id: str) -> Any:
            if request_id != "good":
                raise OtherLoginUnavailable("not set")
            return {}

        pusher = engine(LocalDestination(answer), fees_kind(attempt))
        close_gate(pusher._lanes["money"]._gate, monkeypatch)
        kind = "newer" if way == "a newer version's" else "fees.process"
        record_operations(ledger, *(f"W{number}" for number in range(20)), kind=kind)
        record_operation(ledger, "good")
        drain = in_background(pusher)

        until(lambda: find_operation(ledger, "good").state == State.SUCCEEDED)
        assert "queued" not in states(ledger).values()
        pusher.stop()
        drain.join(20)

    def test_is_the_money_lanes_first_although_all_other_lanes_of_the_fleet_ask_too(
        self, active_environment: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (circuit_breaker, fleet_limits):
            monkeypatch.setattr(module, "PROBE_EVERY_S", 1.0)
        fleet, winners = [a_gate() for _ in range(4)], list[bool]()
        for closed in fleet:
            for _ in range(FAILURES_TO_OPEN):
                record(closed, Unavailable("x"))

        def probe(closed: Gate, urgent: bool) -> None:
            if closed.available(1, urgent) and closed.take(1, urgent):
                winners.append(urgent)

        def have_probed() -> bool:
            for closed in fleet:
                probe(closed, urgent=False)
            probe(fleet[0], urgent=True)
            return len(winners) >= 6

        until(have_probed)
        assert winners.count(True) >= 2  # it is every second one on a machine that stops for no tenth of a second

    @pytest.mark.parametrize("error", [PermitRefused("x"), LeaseTooShort("x")], ids=lambda error: type(error).__name__)
    def test_is_none_if_an_earlier_request_of_the_attempt_was_answered(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        async def look_then_call(attempt: Attempt, fees: Fees) -> Outcome:
            await attempt.call(LOOK, {"request_id": fees.request_id})
            await attempt.call(CALL, {"request_id": fees.request_id})
            return Done()

        def answer(request_id: str) -> Any:
            if len(destination.calls) >= 2:
                raise error
            return {}

        destination, began = LocalDestination(answer), time.monotonic()
        pusher = engine(destination, fees_kind(look_then_call))
        gate = pusher._lanes["money"]._gate
        close_gate(gate, monkeypatch)
        record_operation(ledger)
        drain = in_background(pusher)

        until(lambda: gate.is_open)
        assert not gate.served_since(began, SERVICE_ADMIN, "fees.process")  # it fails no other operation
        pusher.stop()
        drain.join(20)

    def test_is_still_needed_after_an_answer_from_before_the_outage(
        self, active_environment: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An attempt had its first answer and waited for its second permit when the destination went away."""
        closed = a_gate()
        close_gate(closed, monkeypatch)

        async def record_late(times_closed: int) -> None:
            error = CircuitOpen("x")
            await closed.record(error, meaning_of(error), SERVICE_ADMIN, times_closed=times_closed, was_answered=True)
            await asyncio.gather(*closed._tasks)

        event_loop().run(record_late(closed.times_closed - 1))
        assert not closed.is_open
        event_loop().run(record_late(closed.times_closed))  # the probe's first call was answered
        assert closed.is_open

    def test_has_had_its_turn_if_it_reached_the_destination(
        self, active_environment: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A 403 to another login says nothing about the circuit, and was a request all the same."""
        closed = a_gate()
        close_gate(closed, monkeypatch)
        assert closed.take(1, urgent=False) == 1

        async def record_refusal() -> None:
            error = AccessRejected("x", 403)
            await closed.record(error, meaning_of(error), "back_office", times_closed=closed.times_closed)
            await asyncio.gather(*closed._tasks)

        event_loop().run(record_refusal())
        assert closed.until_open_s(urgent=False) > 1.0

    def test_that_got_no_permit_is_followed_by_another_one_soon(
        self, active_environment: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = a_gate()
        for _ in range(FAILURES_TO_OPEN):
            record(other, Unavailable("x"))
        closed = a_gate()
        close_gate(closed, monkeypatch)
        until(lambda: not other.until_open_s(urgent=True))
        monkeypatch.setattr(closed.fleet_limits, "take", lambda count, urgent: 0)  # the last one went to somebody else

        assert closed.take(1, urgent=True) == 0
        assert closed.until_open_s(urgent=True) <= circuit_breaker.NEXT_PROBE_S
        assert other.take(1, urgent=True) == 1

    def test_is_not_the_money_lanes_each_time_if_its_operations_make_no_request(self) -> None:
        breaker = circuit_breaker.CircuitBreaker(lambda: 0.0, failures_to_open=1)
        breaker.record_failure()
        until(lambda: breaker.take(1, urgent=True))
        breaker.allow_next_probe()

        assert breaker.until_probe_s(urgent=False) < breaker.until_probe_s(urgent=True)


def fail_beside_others(ledger: Ledger, pusher: Pusher, name: str) -> tuple[Operation, int]:
    """Make attempts at an operation until it has failed, and return how many. Between them another one is served."""
    rounds = 0
    while find_operation(ledger, name).state != State.FAILED:
        make_all_due(ledger)
        pusher.drain("money")
        rounds += 1
        assert rounds <= 6
        record_operation(ledger, f"W{rounds}")
        pusher.drain("money")
    return find_operation(ledger, name), rounds


class TestAccess:
    def test_a_403_to_everybody_fails_nothing_opens_the_circuit_and_names_our_address(
        self, ledger: Ledger, engine: Engine, caplog: pytest.LogCaptureFixture
    ) -> None:
        destination = Switched(AccessRejected("processext", 403, "not allowed from here"))
        names = [f"W{number}" for number in range(30)]
        record_operations(ledger, *names)
        pusher = engine(destination, max_attempts=2)
        drain = in_background(pusher)
        until(lambda: "waiting" in states(ledger).values())
        for _ in range(6):  # more often than max_attempts
            wanted = len(destination.calls) + 1
            make_all_due(ledger)
            destination.wait_for_calls(wanted)

        waiting = [one for one in search(ledger, limit=100) if one.state == State.WAITING]
        assert not {"failed", "succeeded"} & set(states(ledger).values())
        assert {one.wait_reason for one in waiting} == {WaitReason.NO_ACCESS}
        assert {one.counted_attempts for one in search(ledger, limit=100)} == {0}
        assert "refuses our access" in caplog.text
        assert worker_settings().device_ip in caplog.text

        destination.error = None
        until(lambda: set(states(ledger).values()) == {"succeeded"})
        drain.join(10)

    def test_a_403_to_one_operation_fails_it_while_others_are_served(self, ledger: Ledger, engine: Engine) -> None:
        def answer(request_id: str) -> Any:
            if request_id == "forbidden":
                raise AccessRejected("processext", 403, "not this account")
            return {}

        pusher = engine(LocalDestination(answer), max_attempts=3)
        record_operation(ledger, "forbidden")

        failed, attempts = fail_beside_others(ledger, pusher, "forbidden")

        assert failed.failure_reason == FailureReason.REJECTED
        assert failed.counted_attempts == 3
        assert attempts == 4  # the first 403 may be everybody's
        assert set(states(ledger).values()) == {"failed", "succeeded"}


class TestProxy:
    """A proxy that has no route to B2COPY for some seconds, as while an ingress is changed."""

    @pytest.mark.parametrize("shape", ["text", "message"])
    def test_a_proxys_404_to_everybody_fails_nothing_and_opens_the_circuit(
        self, ledger: Ledger, engine: Engine, sandbox: SandboxControl, caplog: pytest.LogCaptureFixture, shape: str
    ) -> None:
        sandbox.switches(error_shape=shape)
        sandbox.faults({"what": "status", "route": "processext", "status": 404, "message": "404 page not found"})
        record_operations(ledger, *(f"W{number}" for number in range(20)))
        pusher = engine(b2copy(), FEES, max_attempts=2)
        drain = in_background(pusher)
        gate = pusher._lanes["money"]._gate
        until(lambda: not gate.is_open)

        def calls() -> int:
            return int(sandbox.counters()["calls"]["processext"])

        for _ in range(3):  # more often than max_attempts
            before = calls()
            make_all_due(ledger)
            until(lambda: calls() > before)  # noqa: B023

        found = search(ledger, limit=100)
        assert not {"failed", "succeeded"} & set(states(ledger).values())
        assert {one.counted_attempts for one in found} == {0}
        waits = {one.wait_reason for one in found if one.state == State.WAITING}
        assert WaitReason.BACKOFF in waits
        assert waits <= {WaitReason.BACKOFF, WaitReason.CIRCUIT_OPEN}
        assert "is unavailable (processext: a proxy refused it, not B2COPY (HTTP 404): 404 page not found)" in (
            caplog.text
        )

        sandbox.faults()
        until(lambda: set(states(ledger).values()) == {"succeeded"})
        drain.join(10)
        assert [effect["times"] for effect in sandbox.effects()] == [1] * 20

    @pytest.mark.parametrize("shape", ["html", "message"])
    def test_one_login_that_always_meets_a_proxys_404_ends_as_rejected_while_others_are_served(
        self, ledger: Ledger, engine: Engine, sandbox: SandboxControl, shape: str
    ) -> None:
        sandbox.switches(error_shape=shape)
        sandbox.faults({"what": "status", "route": "processext", "status": 404, "match": "poison"})
        pusher = engine(b2copy(), FEES, max_attempts=3)
        record_operation(ledger, "poison")

        failed, _ = fail_beside_others(ledger, pusher, "poison")

        assert (failed.failure_reason, failed.counted_attempts) == (FailureReason.REJECTED, 3)
        assert not failed.outcome_unknown
        assert set(states(ledger).values()) == {"failed", "succeeded"}

    def test_a_proxy_without_a_route_for_one_kind_fails_nothing_while_other_kinds_are_served(
        self, ledger: Ledger, engine: Engine, sandbox: SandboxControl
    ) -> None:
        sandbox.switches(error_shape="text")
        sandbox.faults({"what": "status", "route": "processext", "status": 404, "message": "404 page not found"})
        pusher = engine(b2copy(), FEES, CALLS, max_attempts=2)
        record_operations(ledger, "W1", "W2")
        for number in range(4):  # more often than max_attempts
            path = "/api/admin/clients/v2/client/clientservice/update"
            enqueue.call(path, {"client_id": number}, key=f"C{number}", repeatable=True)
            make_all_due(ledger)
            pusher.drain("money")
            pusher.drain("default")

        found = search(ledger, limit=100)
        assert {(one.kind, str(one.state)) for one in found} == {("fees.process", "waiting"), ("call", "succeeded")}
        assert {one.counted_attempts for one in found if one.kind == "fees.process"} == {0}


class TestLogin:
    @pytest.mark.parametrize(
        "error",
        [CredentialsRejected("x", 401), SessionUnavailable("x"), StoreUnavailable("x"), SettingsError("no key file")],
        ids=lambda error: type(error).__name__,
    )
    def test_without_a_token_only_probes_are_claimed_and_all_resume_with_one(
        self, ledger: Ledger, engine: Engine, error: Exception
    ) -> None:
        destination = Switched(error)
        record_operations(ledger, *(f"W{number}" for number in range(60)))
        drain = in_background(engine(destination))
        until(lambda: "waiting" in states(ledger).values())
        until(lambda: len(destination.calls) >= worker_settings().concurrency)

        assert not {"failed", "succeeded"} & set(states(ledger).values())
        waiting = [one for one in search(ledger, limit=100) if one.state == State.WAITING]
        assert {one.wait_reason for one in waiting} == {WaitReason.NO_SESSION}
        assert not any(one.sent for one in waiting)

        destination.error = None
        until(lambda: set(states(ledger).values()) == {"succeeded"})
        drain.join(10)

    @pytest.mark.parametrize(("login", "is_open"), [("service_admin", True), ("back_office", False), (None, False)])
    def test_only_an_answer_to_the_service_admin_closes_the_login(
        self, ledger: Ledger, engine: Engine, login: str | None, is_open: bool
    ) -> None:
        async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
            await attempt.call(dataclasses.replace(CALL, login=login), {"request_id": fees.request_id})
            return Done()

        pusher = engine(None, fees_kind(attempt))
        gate = pusher._lanes["money"]._gate
        record(gate, SessionUnavailable("the service admin cannot log in"))
        record_operation(ledger)
        pusher.drain("money")
        until(lambda: find_operation(ledger).state == State.SUCCEEDED)

        assert gate.is_open == is_open

    @pytest.mark.parametrize(("others", "counted"), [("back_office", 1), (SERVICE_ADMIN, 0), (None, 0)])
    def test_a_403_counts_only_while_others_of_its_login_are_served(
        self, ledger: Ledger, engine: Engine, others: str | None, counted: int
    ) -> None:
        async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
            login = "back_office" if fees.request_id == "W1" else others
            await attempt.call(dataclasses.replace(CALL, login=login), {"request_id": fees.request_id})
            return Done()

        def answer(request_id: str) -> Any:
            if request_id == "W1":
                until(lambda: states(ledger).get("W2", "succeeded") == "succeeded")
                raise AccessRejected("processext", 403)
            return {}

        pusher = engine(LocalDestination(answer), fees_kind(attempt))
        record_operation(ledger, "W1")
        pusher.drain("money")
        record_operation(ledger, "W2")
        make_all_due(ledger)
        pusher.drain("money")

        assert until(lambda: find_operation(ledger, "W1").wait_reason) == WaitReason.NO_ACCESS
        assert find_operation(ledger, "W1").counted_attempts == counted

    def test_no_result_waits_until_other_operations_are_due(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        may_continue = threading.Event()
        monkeypatch.setattr(Pusher, "_make_due", lambda *_: may_continue.wait(20))
        destination = Switched(SessionUnavailable("x"))
        record_operation(ledger)
        pusher = engine(destination)
        pusher.drain("money")
        destination.error = None

        make_all_due(ledger)
        drain = in_background(pusher)
        until(lambda: find_operation(ledger).state == State.SUCCEEDED)

        may_continue.set()
        drain.join(20)

    def test_a_destination_that_cannot_be_made_makes_operations_wait(self, ledger: Ledger, engine: Engine) -> None:
        def unusable() -> Any:
            raise SettingsError("B2COPY_CA_FILE cannot be read")

        record_operation(ledger)
        engine(open_destination=unusable).drain("money")

        waiting = find_operation(ledger)
        assert (waiting.state, waiting.wait_reason) == (State.WAITING, WaitReason.NO_SESSION)
        assert (waiting.sent, waiting.outcome_unknown) == (False, False)

    def test_a_refused_access_closes_the_login(self, active_environment: Environment) -> None:
        gate = a_gate()
        record(gate, SessionUnavailable("x"))
        assert not gate.is_open

        record(gate, AccessRejected("x", 403))

        assert gate.is_open

    def test_a_refused_access_of_another_login_stops_nothing(self, active_environment: Environment) -> None:
        gate = a_gate()

        for _ in range(FAILURES_TO_OPEN):
            record(gate, AccessRejected("x", 403), "back_office")

        assert gate.is_open
        for _ in range(FAILURES_TO_OPEN):
            record(gate, Unavailable("x"), "back_office")
        assert not gate.is_open

    def test_an_operation_is_compared_with_those_of_its_login(self, active_environment: Environment) -> None:
        gate, began = a_gate(), time.monotonic()
        logins = (SERVICE_ADMIN, "back_office", None)
        record(gate, Done())
        assert [gate.served_since(began, login) for login in logins] == [True, False, False]

        record(gate, Done(), None)  # without a token, for instance a registration
        assert [gate.served_since(began, login) for login in logins] == [True, False, True]
        record(gate, Done(), "back_office")
        assert gate.served_since(began, "back_office")

    def test_one_lost_token_does_not_stop_a_process_that_is_served(self, active_environment: Environment) -> None:
        gate = a_gate()
        record(gate, StoreUnavailable("x"))
        assert gate.available(10, urgent=True) == 0

        record(gate, Done())

        assert gate.available(10, urgent=True) == 10


class TestTokenProbe:
    """While the login is open, the gate itself asks the session for a token. Operations may need none, or all wait."""

    def test_a_token_closes_the_login_although_no_request_carries_it(self, active_environment: Environment) -> None:
        asked, due, has_token = list[bool](), list[Any](), threading.Event()

        async def ask() -> None:
            asked.append(has_token.is_set())
            if not asked[-1]:
                raise SessionUnavailable("no token")

        gate_ = Gate("b2copy", worker_settings(), lambda *what: due.append(what), ask_for_token=ask)
        for _ in range(2):  # the second time after it was closed
            has_token.clear()
            asked.clear()
            began = time.monotonic()
            record(gate_, SessionUnavailable("x"))
            until(lambda: len(asked) >= 3)
            record(gate_, Done(), None)  # for instance a registration
            assert time.monotonic() - began >= 2.5 * PROBE_S
            assert (gate_.is_open, due) == (False, [])

            has_token.set()
            until(lambda: gate_.is_open)
            assert until(lambda: due) == [("b2copy", (WaitReason.NO_SESSION,))]
            due.clear()
            asked_before = len(asked)
            time.sleep(3 * PROBE_S)  # the time in which it would ask again
            assert len(asked) == asked_before

    def test_one_probe_is_under_way_at_a_time(self, active_environment: Environment) -> None:
        asked, may_answer = list[int](), threading.Event()

        async def ask() -> None:
            asked.append(1)
            await asyncio.to_thread(may_answer.wait, 20)

        gate_ = Gate("b2copy", worker_settings(), lambda *_: None, ask_for_token=ask)
        record(gate_, SessionUnavailable("x"))
        until(lambda: asked)
        for _ in range(5):
            record(gate_, SessionUnavailable("x"))
        time.sleep(3 * PROBE_S)  # the time in which it would ask again

        assert len(asked) == 1
        may_answer.set()
        until(lambda: gate_.is_open)

    def test_a_fault_of_ours_ends_no_probing(
        self, active_environment: Environment, caplog: pytest.LogCaptureFixture
    ) -> None:
        faults: list[Exception] = [SettingsError("no key file"), TypeError("ours")]

        async def ask() -> None:
            if faults:
                raise faults.pop()

        gate_ = Gate("b2copy", worker_settings(), lambda *_: None, ask_for_token=ask)
        record(gate_, SessionUnavailable("x"))

        until(lambda: gate_.is_open)
        assert "TypeError: ours" in caplog.text
        assert "no key file" not in caplog.text


class TestHold:
    def test_a_429_holds_what_this_process_has_claimed_already(self, ledger: Ledger, engine: Engine) -> None:
        sent_at: list[float] = []

        def answer(request_id: str) -> Any:
            if len(sent_at) == 1:
                wait_for_claims(ledger, "W2", "W3")
            sent_at.append(time.monotonic())
            if len(sent_at) == 2:
                raise RateLimited("processext", 429, "slow down", 0.8)
            return {}

        record_operations(ledger, *(f"W{number}" for number in range(30)))
        drain = in_background(engine(LocalDestination(answer), concurrency=1))
        until(lambda: list(states(ledger).values()).count("succeeded") >= 29)
        drain.join(10)

        assert sent_at[2] - sent_at[1] >= 0.75

    def test_a_429_holds_every_process_of_the_fleet(self, ledger: Ledger, engine: Engine) -> None:
        refused_at: list[float] = []
        sent_at: list[float] = []

        def limited(request_id: str) -> Any:
            refused_at.append(time.monotonic())
            raise RateLimited("processext", 429, "slow down", 1.0)

        def other(request_id: str) -> Any:
            sent_at.append(time.monotonic())
            return {}

        record_operation(ledger, "W1")
        in_background(engine(LocalDestination(limited)))
        until(lambda: find_operation(ledger, "W1").state == State.WAITING)
        record_operation(ledger, "W2", lane="bulk")

        destination = LocalDestination(other)
        drain = in_background(engine(destination), "bulk")
        until(lambda: find_operation(ledger, "W2").state == State.SUCCEEDED)
        drain.join(10)

        assert destination.calls == ["W2"]
        # From before the hold began until after it ended, so that a slow machine makes it longer and never shorter.
        assert sent_at[0] - refused_at[0] >= 0.95

    def test_a_429_that_names_no_time_holds_for_a_second_and_is_counted(self, active_environment: Environment) -> None:
        holding, holds = a_gate(), metrics.HOLDS.labels("b2copy")
        before = holds._value.get()

        record(holding, RateLimited("x", 429))

        assert 0 < holding.fleet_limits.hold_left_s() <= 1.0
        assert holds._value.get() == before + 1
        with pytest.raises(PermitRefused) as caught:
            holding.check(holding.times_closed)
        assert 0 < (caught.value.retry_after or 0) <= 1.0

    @pytest.mark.parametrize(("retry_after", "hold_s"), [(b"Retry-After: 300\r\n", 300.0), (b"", 1.0)])
    def test_a_429_to_a_request_that_was_sent_again_holds_and_its_outcome_stays_unknown(
        self, wire: Wire, member: Member, configure: Configure, retry_after: bytes, hold_s: float
    ) -> None:
        def answer(connection: socket.socket, request: bytes) -> bool:
            count = wire.requests.count(request)
            if count == 2:
                return True  # the connection is closed, which was kept alive
            head = b"200 OK\r\n" if count == 1 else b"429 Too Many Requests\r\n" + retry_after
            connection.sendall(b"HTTP/1.1 " + head + b"Content-Length: 0\r\n\r\n")
            return False

        wire.answer, settings = answer, configure(host=wire.url)
        client, holding = B2Copy(Http({SERVICE_ADMIN: member(settings)}, settings)), a_gate()
        sending = partial(client.send, CALL, {"id": 7}, OnUnknown.REPEAT)
        event_loop().run(sending())

        with pytest.raises(UnknownOutcome) as caught:
            event_loop().run(sending())
        record(holding, caught.value)

        assert hold_s - 5 < holding.fleet_limits.hold_left_s() <= hold_s
        assert holding.fleet_limits.hold_left_s() > 0
        assert meaning_of(caught.value).outcome == "unknown"

    def test_a_429_holds_before_it_is_logged(self, active_environment: Environment) -> None:
        """A log may block, for instance on a full pipe."""
        holding, held_s = a_gate(), list[float]()

        class NoteHold(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                held_s.append(holding.fleet_limits.hold_left_s())

        handler = NoteHold()
        gate.log.addHandler(handler)
        record(holding, RateLimited("x", 429, "slow down", 60.0))
        gate.log.removeHandler(handler)

        assert held_s
        assert min(held_s) > 0


class TestRateLimit:
    def test_a_lane_asks_for_permits_again_although_calls_are_in_flight(self, ledger: Ledger, engine: Engine) -> None:
        done: list[str] = []

        def answer(request_id: str) -> Any:
            if request_id == "W0":
                until(lambda: len(done) == 19, within=15)  # in flight until all others are done
            else:
                done.append(request_id)
            return {}

        record_operations(ledger, *(f"W{number}" for number in range(20)))
        drain = in_background(engine(LocalDestination(answer), rate_limit="10/second"))
        drain.join(20)

        assert set(states(ledger).values()) == {"succeeded"}

    def test_no_more_is_claimed_ahead_than_the_limit_lets_pass_meanwhile(self, ledger: Ledger, engine: Engine) -> None:
        may_answer = threading.Event()

        def answer(request_id: str) -> Any:
            assert request_id != "W20" or may_answer.wait(20)
            return {}

        record_operations(ledger, *(f"W{number:02}" for number in range(90)))
        drain = in_background(engine(LocalDestination(answer), rate_limit="100/minute", concurrency=1))
        until(lambda: find_operation(ledger, "W20").state == State.RUNNING)
        until(lambda: find_operation(ledger, "W19").state == State.SUCCEEDED)
        time.sleep(0.3)  # the time in which more would be claimed

        assert list(states(ledger).values()).count("running") == 1
        may_answer.set()
        drain.join(20)

    def test_attempts_of_two_calls_end_under_a_limit_that_is_used_up(self, ledger: Ledger, engine: Engine) -> None:
        async def look_then_call(attempt: Attempt, fees: Fees) -> Outcome:
            await attempt.call(LOOK, {"request_id": fees.request_id})
            await attempt.call(CALL, {"request_id": fees.request_id})
            return Done()

        destination = LocalDestination(lambda request_id: {})
        record_operations(ledger, *(f"W{number}" for number in range(15)))
        drain = in_background(engine(destination, fees_kind(look_then_call), rate_limit="10/second"))
        drain.join(20)

        assert set(states(ledger).values()) == {"succeeded"}
        assert len(destination.calls) == 30  # no attempt was begun twice

    def test_a_later_call_waits_while_redis_gives_odd_answers(
        self, ledger: Ledger, engine: Engine, active_environment: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gate, "PERMIT_PATIENCE_S", 1.5)
        broker, odd = active_environment.broker, contextlib.ExitStack()

        async def look_then_call(attempt: Attempt, fees: Fees) -> Outcome:
            await attempt.call(LOOK, {"request_id": fees.request_id})
            await attempt.call(CALL, {"request_id": fees.request_id})
            return Done()

        def answer(request_id: str) -> Any:
            if len(destination.calls) == 1:
                broker.kill()
                odd.enter_context(redis_that_answers(ODD["a word"], broker.port))
            return {}

        destination = LocalDestination(answer)
        record_operation(ledger, lane="bulk")
        with odd:
            drain = in_background(engine(destination, fees_kind(look_then_call), rate_limit="10/second"), "bulk")
            until(lambda: find_operation(ledger).state not in {State.QUEUED, State.RUNNING})
            waiting = find_operation(ledger)

        assert (waiting.state, waiting.wait_reason) == (State.WAITING, WaitReason.RATE_LIMITED)
        broker.start()
        make_all_due(ledger)
        until(lambda: find_operation(ledger).state == State.SUCCEEDED)
        drain.join(20)

    def test_a_later_call_gives_up_after_its_patience(
        self, active_environment: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gate, "PERMIT_PATIENCE_S", 0.3)
        full = a_gate(rate_limit="1/minute")
        assert full.take(1, urgent=True) == 1

        began = time.monotonic()
        with pytest.raises(PermitRefused):
            event_loop().run(full.pass_one(urgent=True, times_closed=0))

        assert time.monotonic() - began < 10  # a permit would come after a minute

    def test_a_later_call_gives_up_at_once_if_no_permit_can_come_in_time(self, active_environment: Environment) -> None:
        held = a_gate()
        held.fleet_limits.hold(60.0)

        with pytest.raises(PermitRefused) as caught:
            event_loop().run(held.pass_one(urgent=False, times_closed=0))

        assert (caught.value.retry_after or 0) > gate.PERMIT_PATIENCE_S

    @pytest.mark.parametrize("urgent", [True, False])
    def test_a_later_call_waits_for_its_permit(self, active_environment: Environment, urgent: bool) -> None:
        limited = a_gate(rate_limit="5/second")
        while limited.take(1, urgent):
            pass

        event_loop().run(limited.pass_one(urgent, times_closed=0))

    @pytest.mark.parametrize("urgent", [True, False])
    def test_a_later_call_gets_the_next_permit_although_more_operations_are_due(
        self, active_environment: Environment, urgent: bool
    ) -> None:
        limited = a_gate(rate_limit="1/second")
        assert limited.take(1, urgent) == 1
        waiting = [event_loop().submit(limited.pass_one(urgent, times_closed=0)) for _ in range(2)]

        while not all(one.done() for one in waiting):  # a lane asks all the time
            assert limited.available(10, urgent) == 0
            assert limited.take(1, urgent) == 0

        for one in waiting:
            one.result()
        until(lambda: limited.take(1, urgent) == 1)

    def test_later_calls_give_up_in_time_and_leave_the_other_threads_alone_if_redis_is_frozen(
        self, active_environment: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gate, "PERMIT_PATIENCE_S", 1.0)
        frozen = a_gate(rate_limit="1000/second")
        assert frozen.take(1, urgent=True) == 1
        os.kill(active_environment.broker.pid, signal.SIGSTOP)
        began = time.monotonic()
        waiting = [event_loop().submit(frozen.pass_one(urgent=True, times_closed=0)) for _ in range(50)]
        event_loop().submit(asyncio.to_thread(time.monotonic)).result(0.9)  # a look-up of another attempt

        for one in waiting:
            with pytest.raises(PermitRefused):
                one.result(10)

        assert time.monotonic() - began < 6  # one after the other they would take 50 s
        os.kill(active_environment.broker.pid, signal.SIGCONT)

    def test_a_later_call_does_not_pass_an_open_circuit(self, active_environment: Environment) -> None:
        closed_gate = a_gate()
        for _ in range(FAILURES_TO_OPEN):
            record(closed_gate, Unavailable("x"))

        with pytest.raises(CircuitOpen):
            event_loop().run(closed_gate.pass_one(urgent=True, times_closed=0))

    def test_it_opens_and_closes_for_the_metrics_and_for_whoever_waits(
        self, active_environment: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(circuit_breaker, "PROBE_EVERY_S", 60.0)
        due: list[tuple[str, tuple[WaitReason, ...]]] = []
        gate_ = Gate("b2copy", worker_settings(), lambda name, reasons: due.append((name, tuple(reasons))))
        circuit_open, began = metrics.CIRCUIT_OPEN.labels("b2copy"), time.monotonic()
        record(gate_, Unavailable("x"))
        assert (circuit_open._value.get(), gate_.is_open, gate_.times_closed) == (0, True, 0)
        for _ in range(FAILURES_TO_OPEN - 1):
            record(gate_, Unavailable("x"))

        assert (circuit_open._value.get(), gate_.is_open, gate_.times_closed) == (1, False, 1)
        assert 0 < gate_.until_open_s(urgent=True) <= 60
        assert not gate_.served_since(began, SERVICE_ADMIN)
        gate_.check(times_closed=1)  # a probe, claimed since
        with pytest.raises(CircuitOpen) as caught:
            gate_.check(times_closed=0)
        assert 0 < (caught.value.retry_after or 0) <= 60
        assert str(caught.value) == "nothing was sent to b2copy: its last requests failed (open circuit)"

        record(gate_, Done())
        assert (circuit_open._value.get(), gate_.is_open, gate_.until_open_s(urgent=True)) == (0, True, 0.0)
        assert gate_.served_since(began, SERVICE_ADMIN)
        assert not gate_.served_since(time.monotonic(), SERVICE_ADMIN)
        assert until(lambda: due) == [("b2copy", gate.WAITS_FOR_CIRCUIT)]
        assert until(lambda: not gate_._tasks)
        gate_.check(times_closed=0)

    def test_a_login_and_a_circuit_close_the_gate_each(self, active_environment: Environment) -> None:
        due: list[tuple[WaitReason, ...]] = []
        gate_ = Gate("b2copy", worker_settings(), lambda destination, reasons: due.append(tuple(reasons)))
        record(gate_, SessionUnavailable("x"))
        for _ in range(FAILURES_TO_OPEN):
            record(gate_, Unavailable("x"))
        assert (gate_.is_open, gate_.times_closed) == (False, 2)

        event_loop().run(gate_.record(Done(), meaning_of(Done()), "back_office"))
        assert until(lambda: due) == [gate.WAITS_FOR_CIRCUIT]
        assert not gate_.is_open
        record(gate_, Done())
        assert until(lambda: due[1:]) == [(WaitReason.NO_SESSION,)]
        assert gate_.is_open

    def test_what_fails_while_it_is_shared_keeps_nothing_else_from_being_shared(
        self, active_environment: Environment, caplog: pytest.LogCaptureFixture
    ) -> None:
        due: list[WaitReason] = []

        def fail_once(destination: str, reasons: Any) -> None:
            due.extend(reasons)
            if WaitReason.NO_SESSION in due and len(due) == 1:
                raise RuntimeError("the ledger's driver")

        gate_ = Gate("b2copy", worker_settings(), fail_once)
        record(gate_, SessionUnavailable("x"))
        for _ in range(FAILURES_TO_OPEN):
            record(gate_, Unavailable("x"))
        record(gate_, Done())

        assert until(lambda: due[1:]) == list(gate.WAITS_FOR_CIRCUIT)
        assert "could not share what it learned" in caplog.text

    @pytest.mark.parametrize(("destination", "ends"), [("b2copy", True), ("crm", False)])
    def test_an_open_circuit_is_shown_for_a_while_after_its_last_failure(
        self, active_environment: Environment, monkeypatch: pytest.MonkeyPatch, destination: str, ends: bool
    ) -> None:
        """Afterwards nobody knows. A notice that failed is sent again after hours, so that is a longer while."""
        monkeypatch.setattr(gate, "SHOWN_OPEN_S", 0.6)
        gate_ = Gate(destination, worker_settings(), lambda *_: None, circuit="a test's")

        def shown() -> float | None:
            return REGISTRY.get_sample_value("b2copy_circuit_open", {"destination": "a test's"})

        for _ in range(FAILURES_TO_OPEN):
            record(gate_, Unavailable("x"), None)
        for _ in range(4):  # longer than the while
            assert shown() == 1
            time.sleep(0.2)
            record(gate_, Unavailable("x"), None)
        failed_at = time.monotonic()
        if ends:
            until(lambda: shown() == 0)
            assert time.monotonic() - failed_at > 0.4
            record(gate_, Unavailable("x"), None)
        else:
            time.sleep(0.8)  # the while of the other destination
        assert (shown(), gate_.is_open) == (1, False)

        record(gate_, Done(), None)
        assert (shown(), gate_.is_open) == (0, True)
        for _ in range(FAILURES_TO_OPEN):
            record(gate_, Unavailable("x"), None)
        record(gate_, Unavailable("x", 503, None, 60.0), None)
        time.sleep(0.8)  # B2COPY said that it is unavailable for longer than the while
        assert shown() == 1
        record(gate_, Done(), None)

    def test_a_gate_is_open_for_the_metrics_from_the_start(self, active_environment: Environment) -> None:
        Gate("b2copy", worker_settings(), lambda destination, reasons: None, circuit="a test's")

        assert REGISTRY.get_sample_value("b2copy_circuit_open", {"destination": "a test's"}) == 0.0

    @pytest.mark.parametrize(
        ("failure", "says"), [(Unavailable("processext", 503), "HTTP 503"), (KeyError("a token"), "KeyError")]
    )
    def test_the_log_says_why_it_opened_and_quotes_no_fault_of_ours(
        self, active_environment: Environment, caplog: pytest.LogCaptureFixture, failure: Exception, says: str
    ) -> None:
        a_gate()._log_opened(failure)

        assert says in caplog.text
        assert "a token" not in caplog.text


class TestPassFirst:
    """What no lane has claimed: a read."""

    def test_passes_an_open_gate_with_a_permit(self, active_environment: Environment) -> None:
        full = a_gate(rate_limit="1/minute")

        assert event_loop().run(full.pass_first(urgent=True)) == 0
        assert full.take(1, urgent=True) == 0

    def test_passes_a_closed_one_as_the_only_probe(
        self, active_environment: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(circuit_breaker, "PROBE_EVERY_S", 1.0)
        closed = a_gate()
        for _ in range(FAILURES_TO_OPEN):
            record(closed, Unavailable("x"))
        with pytest.raises(CircuitOpen) as caught:
            event_loop().run(closed.pass_first(urgent=True))
        assert 0 < (caught.value.retry_after or 0) <= 1.0
        until(lambda: closed.until_open_s(urgent=True) == 0.0)

        assert event_loop().run(closed.pass_first(urgent=True)) == 1
        with pytest.raises(CircuitOpen):
            event_loop().run(closed.pass_first(urgent=True))


class TestOwnGate:
    """What passes the gate of its route, after a lane has claimed it."""

    def test_sends_one_probe_at_a_time_however_long_it_takes(self, active_environment: Environment) -> None:
        closed = a_gate().own_gate("b2copy.a-test")
        for _ in range(FAILURES_TO_OPEN):
            record(closed, Unavailable("x"))

        async def pass_twice() -> None:
            async with closed.passing(urgent=False):
                await asyncio.sleep(3 * PROBE_S)  # the destination hangs
                async with closed.passing(urgent=False):
                    pass

        until(lambda: closed.until_open_s(urgent=False) == 0.0)
        with pytest.raises(CircuitOpen):
            event_loop().run(pass_twice())

        async def pass_once() -> None:
            async with closed.passing(urgent=False):
                pass

        event_loop().run(pass_once())
        with pytest.raises(CircuitOpen) as caught:  # the next probe is not due yet
            event_loop().run(pass_once())
        assert 0 < (caught.value.retry_after or 0) <= PROBE_S

    def test_has_a_hold_of_its_own_and_refuses_at_once_what_it_holds(self, active_environment: Environment) -> None:
        one, gate_ = a_gate(rate_limit="0"), a_gate(rate_limit="0")
        own = one.own_gate("b2copy.a-test")
        assert one.own_gate("b2copy.a-test") is own
        record(own, RateLimited("x", 429, None, 30.0))

        async def pass_once(passed: Gate) -> None:
            async with passed.passing(urgent=False):
                pass

        for held in (own, gate_.own_gate("b2copy.a-test")):  # of this process, and of another one
            with pytest.raises(PermitRefused) as caught:
                event_loop().run(pass_once(held))
            assert 28.0 < (caught.value.retry_after or 0) <= 30.0
        assert one.take(1, urgent=False) == 1
        event_loop().run(pass_once(one.own_gate("b2copy.another")))

    def test_a_probe_that_was_not_sent_is_followed_by_another_one_soon(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
            await attempt.call(dataclasses.replace(CALL, own_gate="b2copy.a-test"), {"request_id": fees.request_id})
            return Done()

        pusher = engine(Switched(LeaseTooShort("x")), fees_kind(attempt))
        own = pusher._lanes["money"]._gate.own_gate("b2copy.a-test")
        close_gate(own, monkeypatch)
        record_operation(ledger)
        pusher.drain("money")

        assert own.until_open_s(urgent=True) <= circuit_breaker.NEXT_PROBE_S
        until(lambda: not own._tasks)

    def test_makes_due_what_waits_for_the_destination(self, active_environment: Environment) -> None:
        due: list[str] = []
        own = Gate("crm", worker_settings(), lambda name, reasons: due.append(name)).own_gate("crm.a-test")
        for _ in range(FAILURES_TO_OPEN):
            record(own, Unavailable("x"), None)
        record(own, Done(), None)

        until(lambda: due == ["crm"])


def test_a_closed_gate_makes_no_lane_claim_in_a_loop(
    ledger: Ledger, engine: Engine, active_environment: Environment
) -> None:
    destination = LocalDestination(lambda request_id: {})
    record_operations(ledger, *(f"W{number}" for number in range(50)))
    pusher = engine(destination, rate_limit="5/minute")
    in_background(pusher)
    until(lambda: len(destination.calls) == 5)
    time.sleep(1.0)  # the time in which a loop would show

    assert len(destination.calls) == 5
    fences = [one for one in search(ledger, limit=100) if one.state == State.QUEUED]
    with ledger.reading() as connection:
        most = connection.exec_driver_sql("SELECT max(fence) FROM b2copy_operations").scalar_one()
    assert len(fences) == 45
    assert most <= 2


def test_an_operation_that_was_held_back_leaves_no_evidence_of_a_call(ledger: Ledger, engine: Engine) -> None:
    record_operation(ledger, "W1")
    engine(Switched(RateLimited("processext", 429, "slow down", 0.5))).drain("money")
    record_operation(ledger, "W2")
    drain_until_final(ledger, engine(), "W2")

    assert [one.outcome for one in attempts_of(ledger, find_operation(ledger, "W2").id)] == ["done"]
