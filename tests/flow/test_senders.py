"""Attempts run on one event loop: none blocks another, none is lost, and what blocks runs in a thread."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from queue import SimpleQueue
from typing import Any

import pytest

from tasks.fees import Fees
from tests.flow.conftest import (
    CALL,
    LOOK,
    Engine,
    LocalDestination,
    a_claim,
    call_once,
    drain_until_final,
    fees_kind,
    in_background,
    make_all_due,
    states,
)
from tests.operations import find_operation, record_operation, record_operations
from tests.support import until
from worker.b2copy import B2Copy
from worker.errors import RateLimited, SessionUnavailable, Unavailable
from worker.flow import circuit_breaker, fleet_limits, senders
from worker.flow.attempt_maker import Result, Return
from worker.flow.circuit_breaker import FAILURES_TO_OPEN
from worker.flow.fleet_limits import FleetLimits
from worker.flow.senders import Senders
from worker.http import Http, event_loop
from worker.http.event_loop_thread import BLOCKING_THREADS
from worker.ledger import Ledger
from worker.operation import Claim, Done, FailureReason, Outcome, Pending, State
from worker.operation_kind import Attempt
from worker.settings import worker_settings
from worker.testbed.local_system import Environment

LOOP = "b2copy-loop"


class _OwnError(BaseException):
    pass


@pytest.fixture
def loop_blocked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the event loop's thread did although it blocks: SQL statements and Redis commands."""
    import redis
    from sqlalchemy.engine import Connection

    blocked: list[str] = []

    def watch(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def watched(self: Any, *args: Any, **options: Any) -> Any:
            if threading.current_thread().name == LOOP:
                blocked.append(f"{name} {args[:1]}")
            return function(self, *args, **options)

        monkeypatch.setattr(owner, name, watched)

    watch(redis.Redis, "execute_command")
    watch(redis.Connection, "send_packed_command")
    watch(Connection, "execute")
    watch(Connection, "exec_driver_sql")
    return blocked


def test_an_attempt_that_waits_holds_up_no_other_one_of_its_lane(ledger: Ledger, engine: Engine) -> None:
    async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
        while fees.request_id == "slow" and states(ledger)["W199"] != "succeeded":
            await asyncio.sleep(0.02)
        return Done()

    record_operations(ledger, "slow", *(f"W{number}" for number in range(200)))
    drain = in_background(engine(None, fees_kind(attempt), concurrency=2))
    drain.join(20)

    assert set(states(ledger).values()) == {"succeeded"}


@pytest.mark.parametrize("count", [1, 2, 60])
def test_the_last_results_wait_for_no_others(
    ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(senders, "BATCH_WAIT_S", 60.0)
    record_operations(ledger, *(f"W{number}" for number in range(count)))

    drain = in_background(engine(concurrency=2))
    drain.join(20)

    assert not drain.is_alive()
    assert set(states(ledger).values()) == {"succeeded"}


def batches(count: int, *claims: int, slow: int | None = None) -> Iterator[list[int]]:
    """Send these claims at once to `count` senders. Yields the batches of their results, in the order of the lane."""

    async def make(claim: Claim, times_closed: int) -> Return:
        if claim.id == slow:
            await asyncio.sleep(0.5)
        return Return(claim)

    results: SimpleQueue[list[Any]] = SimpleQueue()
    Senders(count, make, results).send([a_claim(id=number) for number in claims], 0)
    while True:
        yield [result.claim.id for result in results.get(timeout=20)]


def test_results_are_handed_in_when_half_of_the_claims_are_left_so_that_the_lane_claims_more(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(senders, "BATCH_WAIT_S", 60.0)

    assert list(islice(batches(1, *range(10)), 6)) == [[0, 1, 2, 3, 4], [5], [6], [7], [8], [9]]


def test_a_result_waits_for_others_only_for_a_moment(active_environment: Environment) -> None:
    assert next(batches(1, *range(10), slow=1)) == [0]


def test_no_more_attempts_run_at_once_than_there_are_senders(ledger: Ledger, engine: Engine) -> None:
    running, most = set[str](), [0]

    async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
        running.add(fees.request_id)
        most.append(len(running))
        await asyncio.sleep(0.002)
        running.remove(fees.request_id)
        return Done()

    record_operations(ledger, *(f"W{number}" for number in range(300)))
    engine(None, fees_kind(attempt), concurrency=7).drain("money")

    assert set(states(ledger).values()) == {"succeeded"}
    assert max(most) == 7


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_at_most_half_of_the_senders_begin_in_one_pass_of_the_loop(count: int) -> None:
    claims = [a_claim(id=number) for number in range(4 * count)]
    results = SimpleQueue[list[Result]]()
    passes, begun = [0], Counter[int]()

    def note_pass() -> None:
        passes[0] += 1
        if sum(begun.values()) < len(claims):
            event_loop().call(note_pass)

    async def make(claim: Claim, times_closed: int) -> Return:
        begun[passes[0]] += 1
        await asyncio.sleep(0.01)  # all answers come together
        return Return(claim)

    event_loop().call(note_pass)
    Senders(count, make, results).send(claims, 0)
    found: list[Result] = []
    while len(found) < len(claims):
        found += results.get(timeout=10)
    assert sorted(result.claim.id for result in found) == [claim.id for claim in claims]
    assert max(begun.values()) == (count + 1) // 2


@pytest.mark.parametrize(
    "error", [SystemExit("x"), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), _OwnError()], ids=repr
)
def test_a_claim_is_not_lost_whatever_its_attempt_raises(ledger: Ledger, engine: Engine, error: BaseException) -> None:
    async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
        if fees.request_id.startswith("bad"):
            raise error
        return await call_once(attempt, fees)

    bad = [f"bad{number}" for number in range(worker_settings().concurrency + 1)]
    record_operations(ledger, *bad, "W1", "W2")
    drain = in_background(engine(None, fees_kind(attempt)))
    drain.join(20)

    assert states(ledger) == {**dict.fromkeys(bad, "failed"), "W1": "succeeded", "W2": "succeeded"}
    assert find_operation(ledger, "bad0").failure_reason == FailureReason.INTERNAL
    assert find_operation(ledger, "bad0").outcome_unknown  # nobody knows how far it came


def test_an_attempt_that_cancels_its_task_costs_no_other_one(ledger: Ledger, engine: Engine) -> None:
    async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
        if fees.request_id == "bad":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(60)
        return await call_once(attempt, fees)

    record_operations(ledger, "W1", "bad", "W2")
    drain = in_background(engine(None, fees_kind(attempt), concurrency=1))
    drain.join(20)

    assert states(ledger) == {"W1": "succeeded", "bad": "failed", "W2": "succeeded"}


def test_an_attempt_whose_own_task_ends_the_loop_thread_costs_no_other_one(ledger: Ledger, engine: Engine) -> None:
    async def end_the_thread() -> None:
        raise SystemExit("a task that ends its thread")

    async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
        if fees.request_id == "bad":
            await asyncio.create_task(end_the_thread())
        return await call_once(attempt, fees)

    record_operations(ledger, "W1", "bad", "W2")
    drain = in_background(engine(None, fees_kind(attempt)))
    drain.join(20)

    assert states(ledger) == {"W1": "succeeded", "bad": "failed", "W2": "succeeded"}


def test_a_claim_is_not_lost_when_its_attempt_is_cancelled_before_it_began(ledger: Ledger, engine: Engine) -> None:
    async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
        if fees.request_id == "bad":
            me = asyncio.current_task()
            for task in asyncio.all_tasks() - {me}:
                task.cancel()
        return Done()

    record_operations(ledger, "bad", *(f"W{number}" for number in range(9)))
    drain = in_background(engine(None, fees_kind(attempt)))
    drain.join(20)

    assert not drain.is_alive()
    assert set(states(ledger).values()) <= {"succeeded", "failed"}


class TestTheLoopThread:
    """It sends; it waits for nothing else."""

    def test_looks_at_no_hold(
        self, ledger: Ledger, engine: Engine, loop_blocked: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fleet_limits, "HOLD_CHECK_S", 0.0)  # every look is out of date at once
        looked_in: list[str] = []
        look = FleetLimits.read_hold

        def look_and_note(self: FleetLimits) -> None:
            looked_in.append(threading.current_thread().name)
            look(self)

        monkeypatch.setattr(FleetLimits, "read_hold", look_and_note)
        record_operations(ledger, *(f"W{number}" for number in range(20)))
        engine().drain("money")

        assert set(states(ledger).values()) == {"succeeded"}
        assert any(name.startswith("b2copy-redis") for name in looked_in)
        assert loop_blocked == []

    def test_takes_no_permit(self, ledger: Ledger, engine: Engine, loop_blocked: list[str]) -> None:
        async def look_then_call(attempt: Attempt, fees: Fees) -> Outcome:
            await attempt.call(LOOK, {"request_id": fees.request_id})
            await attempt.call(CALL, {"request_id": fees.request_id})
            return Done()

        record_operations(ledger, *(f"W{number}" for number in range(10)))
        engine(None, fees_kind(look_then_call), rate_limit="15/second").drain("money")

        assert set(states(ledger).values()) == {"succeeded"}
        assert loop_blocked == []

    def test_reads_no_earlier_attempts_and_counts_no_pending_operations(
        self, ledger: Ledger, engine: Engine, loop_blocked: list[str]
    ) -> None:
        async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
            await attempt.call(CALL, {"request_id": fees.request_id})
            return Done() if await attempt.earlier_attempts() else Pending()

        record_operation(ledger)
        drain_until_final(ledger, engine(None, fees_kind(attempt)))

        assert find_operation(ledger).state == State.SUCCEEDED
        assert loop_blocked == []

    def test_neither_opens_nor_closes_a_circuit_for_the_fleet(
        self, ledger: Ledger, engine: Engine, loop_blocked: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(circuit_breaker, "PROBE_EVERY_S", 0.1)
        monkeypatch.setattr(fleet_limits, "PROBE_EVERY_S", 0.1)
        errors: list[Exception] = [RateLimited("x", 429, "slow down", 0.1), *[Unavailable("x")] * FAILURES_TO_OPEN]

        def answer(request_id: str) -> Any:
            if errors:
                raise errors.pop()
            return {}

        record_operations(ledger, *(f"W{number}" for number in range(10)))
        running = engine(LocalDestination(answer), concurrency=1)

        def all_have_succeeded() -> bool:
            make_all_due(ledger)
            running.drain("money")
            return set(states(ledger).values()) == {"succeeded"}

        until(all_have_succeeded)
        assert loop_blocked == []


def test_many_attempts_that_wait_for_a_token_use_one_thread(
    ledger: Ledger, engine: Engine, active_environment: Environment
) -> None:
    asking, released = list[str](), threading.Event()

    class NoToken:
        def cached(self) -> None:
            return None

        def current(self) -> Any:
            asking.append(threading.current_thread().name)
            assert released.wait(20)
            raise SessionUnavailable("no token")

        def rejected(self, token: Any, *, is_doubtful: bool = False) -> Any:
            raise AssertionError("no token was used")

        def clock(self) -> int:
            return 0

    async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
        began.append(fees.request_id)
        return await call_once(attempt, fees)

    began: list[str] = []
    count = BLOCKING_THREADS * 5
    destination = B2Copy(Http({"service_admin": NoToken()}, worker_settings()))
    record_operations(ledger, *(f"W{number}" for number in range(count)))
    in_background(engine(destination, fees_kind(attempt), concurrency=count))
    until(lambda: len(began) == count and asking)
    event_loop().run(asyncio.sleep(0))  # whatever the last attempt has begun to ask was asked

    assert len(asking) == 1
    released.set()
    until(lambda: "running" not in states(ledger).values())
    assert "failed" not in states(ledger).values()
