"""Workers in trouble: nothing is lost, nothing is done twice, work resumes by itself."""

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import text

from tasks import enqueue
from tests.ledger.actors import Clock
from tests.support import until
from tests.tasks.conftest import ALONE, ended
from worker.app import ledger, session
from worker.ledger import LEASE_S, find_many, search
from worker.ledger import Ledger as Books
from worker.messages.wake_up import wake
from worker.operation import FailureReason, State, WaitReason
from worker.sandbox.control_client import SandboxControl
from worker.testbed.environment import Stage, wait_for_worker
from worker.testbed.processes import Process

UPDATE = "/api/admin/clients/v2/client/clientservice/update"


@pytest.fixture
def books(in_stage: Stage) -> Books:
    return ledger()


def ask(count: int) -> list[str]:
    rows = [{"account_login": "7", "request_id": f"W{number}"} for number in range(count)]
    return [recorded.key for recorded in enqueue.many("fees.process", rows)]


def states(books: Books, keys: list[str]) -> list[State]:
    found = find_many(books, keys)
    assert len(found) == len(keys)
    return [operation.state for operation in found.values()]


def all_done(books: Books, keys: list[str]) -> Callable[[], bool]:
    return lambda: set(states(books, keys)) == {State.SUCCEEDED}


def once_each(sandbox: SandboxControl, count: int) -> bool:
    return [effect["times"] for effect in sandbox.effects("fees.process")] == [1] * count


def in_flight(sandbox: SandboxControl) -> int:
    return int(sandbox.counters()["calls"].get("processext", 0))


def start(stage: Stage, name: str = "worker", **settings: Any) -> Process:
    process = stage.worker(*ALONE, name=name, **settings)
    wait_for_worker(process)
    return process


def test_a_worker_told_to_end_finishes_or_hands_back_what_it_holds(
    books: Books, in_stage: Stage, sandbox: SandboxControl
) -> None:
    sandbox.switches(latency={"processext": 1.0})
    worker = in_stage.worker(*ALONE, restarts=False, B2COPY_CONCURRENCY="20")
    wait_for_worker(worker)
    keys = ask(50)
    until(lambda: in_flight(sandbox) >= 20)

    assert worker.stop(grace=10) == 0

    after = states(books, keys)
    assert after.count(State.SUCCEEDED) >= 20
    assert set(after) == {State.SUCCEEDED, State.QUEUED}  # none is left running, to lapse
    assert after.count(State.SUCCEEDED) == in_flight(sandbox)
    sandbox.switches(latency={})
    start(in_stage, "next")
    until(all_done(books, keys))
    assert once_each(sandbox, 50)


def test_a_killed_workers_calls_are_done_by_the_next_once(
    books: Books, in_stage: Stage, sandbox: SandboxControl
) -> None:
    sandbox.switches(latency={"processext": 0.5})
    worker = start(in_stage)
    keys = ask(20)
    until(lambda: in_flight(sandbox) > 0)

    worker.kill()
    Clock(books).passes(LEASE_S)

    until(all_done(books, keys))
    assert once_each(sandbox, 20)
    assert worker.started == 2


def test_two_workers_and_beat_share_one_login(books: Books, in_stage: Stage, sandbox: SandboxControl) -> None:
    workers = [in_stage.worker(*ALONE, name=name) for name in ("one", "two")]
    beat = in_stage.beat()
    for worker in workers:
        wait_for_worker(worker)
    keys = ask(300)

    until(all_done(books, keys))
    until(lambda: "Scheduler: Sending due task" in beat.said())
    until(lambda: any("b2copy.session.refresh" in worker.said() for worker in workers))

    counted = sandbox.counters()
    assert (counted["logins"], counted["refreshes"], counted["unauthorized"]) == (1, 0, 0)
    assert once_each(sandbox, 300)


def test_a_flushed_broker_loses_nothing(books: Books, in_stage: Stage, sandbox: SandboxControl) -> None:
    sandbox.switches(latency={"processext": 0.2})
    start(in_stage)
    keys = ask(60)
    until(lambda: in_flight(sandbox) > 0)

    in_stage.broker.flush()

    until(all_done(books, keys))
    assert once_each(sandbox, 60)


def test_enqueueing_needs_no_broker(books: Books, in_stage: Stage, sandbox: SandboxControl) -> None:
    in_stage.broker.kill()
    keys = ask(3)
    assert states(books, keys) == [State.QUEUED] * 3

    in_stage.broker.start()
    start(in_stage)

    until(all_done(books, keys))
    assert once_each(sandbox, 3)


def test_garbage_in_a_queue_ends_a_worker_and_its_supervisor_brings_it_back(
    books: Books, in_stage: Stage, sandbox: SandboxControl
) -> None:
    worker = start(in_stage)
    with in_stage.broker.client as client:
        client.lpush("b2copy.inbox", "{this is no envelope")
    until(lambda: worker.started == 2)

    keys = ask(3)

    until(all_done(books, keys))


def test_refused_credentials_fail_nothing_and_work_resumes_with_the_key(
    books: Books, in_stage: Stage, sandbox: SandboxControl
) -> None:
    sandbox.withdraw_key(in_stage.keys.key_id)
    start(in_stage)
    keys = ask(40)
    until(lambda: any(one.wait_reason is WaitReason.NO_SESSION for one in search(books)))

    assert set(states(books, keys)) <= {State.QUEUED, State.WAITING, State.RUNNING}
    assert len(sandbox.token_calls()) == 1
    assert in_flight(sandbox) == 0

    sandbox.register_key(in_stage.keys.key_id, in_stage.keys.public_key)
    session().renew("a person", force=True)  # else the fleet rests for a minute after a refused login

    until(all_done(books, keys), within=20)
    assert once_each(sandbox, 40)


def test_a_message_waits_for_a_ledger_that_is_away(books: Books, in_stage: Stage, sandbox: SandboxControl) -> None:
    worker = start(in_stage)
    with books.writing() as connection:
        connection.execute(text("ALTER TABLE b2copy_operations RENAME TO elsewhere"))
    with Celery("crm", broker=in_stage.broker.url, set_as_current=False) as crm:
        arguments = {"account_login": "7", "request_id": "W1"}
        crm.send_task("b2copy.fees.process", kwargs=arguments, queue="b2copy.inbox")
        lost = crm.send_task("b2copy.nonsense", queue="b2copy.inbox").id
    until(lambda: worker.said().count("goes back to the queue") >= 2)
    with books.writing() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO b2copy_operations"))

    assert ended("fees.process:W1").state is State.SUCCEEDED
    assert ended(f"message:{lost}").failure_reason is FailureReason.BAD_PAYLOAD
    assert worker.started == 1


def test_wake_ups_do_not_pile_up(books: Books, in_stage: Stage) -> None:
    for _ in range(20):
        assert wake("money", 3)

    with in_stage.broker.client as client:
        assert client.llen("b2copy.money") == 3


def test_a_kill_of_the_broker_costs_no_wake_up(
    books: Books, in_stage: Stage, sandbox: SandboxControl, caplog: pytest.LogCaptureFixture
) -> None:
    in_stage.broker.kill()

    assert not wake("money")
    assert "dispatch will repeat it" in caplog.text
