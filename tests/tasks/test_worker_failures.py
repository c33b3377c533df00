"""Workers that meet faults: nothing is lost, nothing is done twice, work resumes by itself."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import text

from tasks import enqueue
from tests.conftest import running_sandbox
from tests.operations import LedgerClock
from tests.support import until
from tests.tasks.conftest import ALONE, ended
from worker.app import app
from worker.instances import ledger as open_this_ledger
from worker.instances import session
from worker.ledger import LEASE_S, Ledger, find_many, search
from worker.messages import wake_up
from worker.messages.wake_up import wake
from worker.operation import FailureReason, State, WaitReason
from worker.sandbox.control_client import SandboxControl
from worker.testbed.local_system import Environment, Sandbox, wait_for_worker
from worker.testbed.processes import Process

UPDATE = "/api/admin/clients/v2/client/clientservice/update"


@pytest.fixture(scope="module")
def one_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A B2COPY of its own: a late request of another test must not be counted here."""
    with running_sandbox(tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield sandbox


@pytest.fixture
def ledger(active_environment: Environment) -> Ledger:
    return open_this_ledger()


def request_fee_runs(count: int) -> list[str]:
    rows = [{"account_login": "7", "request_id": f"W{number}"} for number in range(count)]
    return [recorded.key for recorded in enqueue.many("fees.process", rows)]


def states(ledger: Ledger, keys: list[str]) -> list[State]:
    found = find_many(ledger, keys)
    assert len(found) == len(keys)
    return [operation.state for operation in found.values()]


def all_done(ledger: Ledger, keys: list[str]) -> Callable[[], bool]:
    return lambda: set(states(ledger, keys)) == {State.SUCCEEDED}


def once_each(sandbox: SandboxControl, count: int) -> bool:
    return [effect["times"] for effect in sandbox.effects("fees.process")] == [1] * count


def in_flight(sandbox: SandboxControl) -> int:
    return int(sandbox.counters()["calls"].get("processext", 0))


def start(environment: Environment, name: str = "worker", **settings: Any) -> Process:
    process = environment.worker(*ALONE, name=name, **settings)
    wait_for_worker(process)
    return process


def test_a_worker_that_is_terminated_finishes_or_returns_what_it_holds(
    ledger: Ledger, active_environment: Environment, sandbox: SandboxControl
) -> None:
    sandbox.switches(latency={"processext": 1.0})
    worker = active_environment.worker(*ALONE, restarts=False, B2COPY_CONCURRENCY="20")
    wait_for_worker(worker)
    keys = request_fee_runs(50)
    until(lambda: in_flight(sandbox) >= 20)

    assert worker.stop(grace=10) == 0

    after = states(ledger, keys)
    assert after.count(State.SUCCEEDED) >= 20
    assert set(after) == {State.SUCCEEDED, State.QUEUED}  # none is left running, to lapse
    assert after.count(State.SUCCEEDED) == in_flight(sandbox)
    sandbox.switches(latency={})
    start(active_environment, "next")
    until(all_done(ledger, keys))
    assert once_each(sandbox, 50)


def test_a_killed_workers_calls_are_done_by_the_next_once(
    ledger: Ledger, active_environment: Environment, sandbox: SandboxControl
) -> None:
    sandbox.switches(latency={"processext": 0.5})
    worker = start(active_environment)
    keys = request_fee_runs(20)
    until(lambda: in_flight(sandbox) > 0)

    worker.kill()
    LedgerClock(ledger).advance(LEASE_S)

    until(all_done(ledger, keys))
    assert once_each(sandbox, 20)
    assert worker.started == 2


def test_two_workers_and_beat_share_one_login(
    ledger: Ledger, active_environment: Environment, sandbox: SandboxControl
) -> None:
    workers = [active_environment.worker(*ALONE, name=name) for name in ("one", "two")]
    beat = active_environment.beat()
    for worker in workers:
        wait_for_worker(worker)
    keys = request_fee_runs(300)

    until(all_done(ledger, keys))
    until(lambda: "Scheduler: Sending due task" in beat.current_log())
    until(lambda: any("b2copy.session.refresh" in worker.current_log() for worker in workers))

    counted = sandbox.counters()
    assert (counted["logins"], counted["refreshes"], counted["unauthorized"]) == (1, 0, 0)
    assert once_each(sandbox, 300)


def test_a_flushed_broker_loses_nothing(
    ledger: Ledger, active_environment: Environment, sandbox: SandboxControl
) -> None:
    sandbox.switches(latency={"processext": 0.2})
    start(active_environment)
    keys = request_fee_runs(60)
    until(lambda: in_flight(sandbox) > 0)

    active_environment.broker.flush()

    until(all_done(ledger, keys))
    assert once_each(sandbox, 60)


def test_enqueueing_needs_no_broker(ledger: Ledger, active_environment: Environment, sandbox: SandboxControl) -> None:
    active_environment.broker.kill()
    keys = request_fee_runs(3)
    assert states(ledger, keys) == [State.QUEUED] * 3

    active_environment.broker.start()
    start(active_environment)

    until(all_done(ledger, keys))
    assert once_each(sandbox, 3)


def test_refused_credentials_fail_nothing_and_work_resumes_with_the_key(
    ledger: Ledger, active_environment: Environment, sandbox: SandboxControl
) -> None:
    sandbox.withdraw_key(active_environment.keys.key_id)
    start(active_environment)
    keys = request_fee_runs(40)
    until(lambda: any(one.wait_reason == WaitReason.NO_SESSION for one in search(ledger)))

    assert set(states(ledger, keys)) <= {State.QUEUED, State.WAITING, State.RUNNING}
    assert len(sandbox.token_calls()) == 1
    assert in_flight(sandbox) == 0

    sandbox.register_key(active_environment.keys.key_id, active_environment.keys.public_key)
    session().renew("a person", force=True)  # else the fleet rests for a minute after a refused login

    until(all_done(ledger, keys), within=20)
    assert once_each(sandbox, 40)


def test_a_message_waits_for_a_ledger_that_is_unavailable(
    ledger: Ledger, active_environment: Environment, sandbox: SandboxControl
) -> None:
    worker = start(active_environment)
    with ledger.writing() as connection:
        connection.execute(text("ALTER TABLE b2copy_operations RENAME TO elsewhere"))
    with Celery("crm", broker=active_environment.broker.url, set_as_current=False) as crm:
        arguments = {"account_login": "7", "request_id": "W1"}
        crm.send_task("b2copy.fees.process", kwargs=arguments, queue="b2copy.inbox")
        lost = crm.send_task("b2copy.nonsense", queue="b2copy.inbox").id
    until(lambda: "messages go back to the queue" in worker.current_log())
    with ledger.writing() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO b2copy_operations"))

    assert ended("fees.process:W1").state == State.SUCCEEDED
    assert ended(f"message:{lost}").failure_reason == FailureReason.BAD_PAYLOAD
    assert worker.started == 1


def test_wake_ups_do_not_pile_up(ledger: Ledger, active_environment: Environment) -> None:
    for _ in range(20):
        assert wake("money", 3)

    with active_environment.broker.client as client:
        assert client.llen("b2copy.money") == 3


@pytest.mark.parametrize("error", [TypeError("a Redis option that nobody knows"), OSError("no route"), ValueError("x")])
def test_nothing_that_a_wake_up_raises_reaches_a_caller_whose_operation_is_recorded(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(wake_up, "_sent_at", {})
    monkeypatch.setattr(app, "producer_or_acquire", fail)

    recorded = enqueue.fees(account_login="7", request_id="W1")

    assert recorded.created
    assert states(ledger, [recorded.key]) == [State.QUEUED]


def test_a_429_to_one_worker_holds_the_other(
    ledger: Ledger, active_environment: Environment, sandbox: SandboxControl
) -> None:
    sandbox.faults({"what": "status", "status": 429, "retry_after": "2", "route": "processext", "next": 1})
    for name in ("one", "two"):
        wait_for_worker(active_environment.worker(*ALONE, name=name, B2COPY_CONCURRENCY="1"))
    keys = request_fee_runs(300)
    until(lambda: any(one.wait_reason == WaitReason.RATE_LIMITED for one in search(ledger, limit=1000)))
    time.sleep(0.2)  # another process notices a hold within 50 ms, and ends the call that it makes
    held = in_flight(sandbox)
    time.sleep(1.2)

    assert in_flight(sandbox) == held
    assert held < 300
    until(all_done(ledger, keys), within=20)
    assert once_each(sandbox, 300)
