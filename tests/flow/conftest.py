"""A ledger of this test's own, and an engine that runs the test's own kind of operation."""

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text

from tasks.fees import FEES, Fees
from tests.operations import find_operation
from tests.support import until
from worker.b2copy import Route
from worker.flow.attempt import Destination
from worker.flow.pusher import Pusher
from worker.flow.retry_policy import RetryPolicy
from worker.instances import ledger as open_this_ledger
from worker.ledger import Ledger, search
from worker.operation import Claim, Done, OnUnknown, Outcome, State
from worker.operation_kind import Attempt, Kind
from worker.settings import worker_settings
from worker.testbed.local_system import Environment

AttemptFunction = Callable[[Attempt, Fees], Coroutine[Any, Any, Outcome]]
Answer = Callable[[str], Any]
"""What a destination does with a call about a request id: it returns a JSON value or raises an error."""

CALL = Route("processext", "", "POST", "/processext", lambda body, sent: body)
LOOK = Route("list", "", "GET", "/list", lambda body, sent: body, has_effect=False)


class LocalDestination:
    """A destination in this process, so that a test decides what each call meets and when it ends.

    Each call runs in a thread of its own, so that it may block as a slow server does.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._threads = ThreadPoolExecutor(100)
        self.calls: list[str] = []  # request ids
        self.on_unknown: list[OnUnknown] = []

    def wait_for_calls(self, count: int) -> None:
        until(lambda: len(self.calls) >= count)

    def login_of(self, route: Route[Any]) -> str | None:
        return route.login

    async def send(
        self, route: Route[Any], body: Mapping[str, Any], on_unknown: OnUnknown, before_send: Callable[[], None]
    ) -> Any:
        self.calls.append(body["request_id"])
        self.on_unknown.append(on_unknown)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._answer, body["request_id"])


async def call_once(attempt: Attempt, fees: Fees) -> Outcome:
    await attempt.call(CALL, {"request_id": fees.request_id})
    return Done()


def fees_kind(attempt: AttemptFunction = call_once, **fields: Any) -> Kind[Fees]:
    """Return the fee run's kind, with another way to make an attempt."""
    return dataclasses.replace(FEES, attempt=attempt, **fields)


@pytest.fixture
def ledger(active_environment: Environment) -> Ledger:
    return open_this_ledger()


@pytest.fixture
def policy() -> RetryPolicy:
    return RetryPolicy(max_attempts=3, spacing_s=lambda duration_s: 0.0)


Engine = Callable[..., Pusher]


@pytest.fixture
def engine(ledger: Ledger) -> Iterator[Engine]:
    """Make a pusher, as each worker process has one: `engine(destination, kind, **settings)`."""
    made: list[Pusher] = []

    def make(
        destination: Destination | None = None,
        *kinds: Kind[Any],
        open_destination: Callable[[], Destination] | None = None,
        **settings: Any,
    ) -> Pusher:
        known = {kind.name: kind for kind in kinds or (fees_kind(),)}
        reached = destination or LocalDestination(lambda request_id: {})
        destinations = {"b2copy": open_destination or (lambda: reached)}
        pusher = Pusher(ledger, known, destinations, worker_settings().model_copy(update=settings))
        made.append(pusher)
        return pusher

    yield make
    for pusher in made:
        pusher.stop()
    # The next test has the same Redis. A hold that is shared late would be one in that test.
    gates = [lane._gate for pusher in made for lane in pusher._lanes.values()]
    until(lambda: not any(gate._tasks for gate in gates))


def states(ledger: Ledger) -> dict[str, str]:
    """Return the state of each operation by its natural id."""
    return {one.key.partition(":")[2]: one.state.value for one in search(ledger, limit=1000)}


def in_background(pusher: Pusher, lane: str = "money") -> threading.Thread:
    """Drain a lane in a thread, as a Celery task does."""
    thread = threading.Thread(target=pusher.drain, args=(lane,), daemon=True)
    thread.start()
    return thread


def make_lease_lapse(ledger: Ledger) -> None:
    """Every lease lapses now, as if its holder had been killed ten seconds ago."""
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_operations SET due_at = 1 WHERE state = 'running'"))


def make_all_due(ledger: Ledger) -> None:
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_operations SET due_at = 1 WHERE state = 'waiting'"))


def drain_until_final(ledger: Ledger, pusher: Pusher, name: str = "W1", lane: str = "money") -> None:
    """Drain again and again without waiting for back-offs, until the operation has ended."""

    def is_final() -> bool:
        make_all_due(ledger)
        pusher.drain(lane)
        return find_operation(ledger, name).state in {State.SUCCEEDED, State.FAILED}

    until(is_final)


def a_claim(**fields: Any) -> Claim:
    """Return a claim of a fresh fee run, without a ledger."""
    fresh: dict[str, Any] = {
        "id": 1,
        "key": "fees.process:W1",
        "kind": "fees.process",
        "payload": {"account_login": "7", "request_id": "W1"},
        "destination": "b2copy",
        "entity": None,
        "lease_owner": "worker 1",
        "fence": 1,
        "counted_attempts": 0,
        "phase": "submit",
        "replays": 0,
        "sent": False,
        "outcome_unknown": False,
        "unknown_step": None,
        "on_unknown": OnUnknown.START_OR_GET,
        "progress": None,
        "trace_id": None,
        "deadline": None,
        "lease_until": 1e12,
        "previous_state": State.QUEUED,
        "wait_reason": None,
        "last_wait_s": 0.0,
        "last_answer": None,
        "last_answer_fence": None,
    }
    return Claim(**(fresh | fields))
