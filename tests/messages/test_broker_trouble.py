"""A Redis that is gone, read-only, out of memory, or lacks commands: work waits and goes on, and nobody is refused."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tasks import enqueue
from tests.messages.conftest import FEES, send, stored
from tests.support import until
from tests.tasks.conftest import ended, running_fleet
from worker.celery_settings import CONCURRENCY
from worker.ledger.migrations import migrate
from worker.operation import State
from worker.queues import UNACKED, UNACKED_INDEX, UNACKED_MUTEX
from worker.testbed import broker as testbed_broker
from worker.testbed.broker import Broker
from worker.testbed.local_system import Environment, Sandbox, wait_for_worker
from worker.testbed.processes import Process

DOCTOR = (sys.executable, "-m", "worker.cli", "doctor")


@pytest.fixture(scope="module")
def fleet(one_broker: Broker, one_sandbox: Sandbox, migrated_file: Path) -> Iterator[Environment]:
    """One worker lives through all of this module's trouble; it talks to other workers, as in production."""
    with running_fleet(one_broker, one_sandbox, migrated_file) as environment:
        yield environment


@pytest.fixture
def process(fleet: Environment) -> Process:
    return fleet.processes[0]


@pytest.fixture
def crm(fleet: Environment) -> Iterator[Any]:
    with Celery("crm", broker=fleet.broker.url, set_as_current=False) as app:
        yield app


def refuse_memory(client: Any) -> Callable[[], None]:
    client.config_set("maxmemory", "1")
    return lambda: client.config_set("maxmemory", "0")


def become_replica(client: Any) -> Callable[[], None]:
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    return lambda: client.execute_command("REPLICAOF", "NO", "ONE")


def demand_replicas(client: Any) -> Callable[[], None]:
    client.config_set("min-replicas-to-write", "3")
    return lambda: client.config_set("min-replicas-to-write", "0")


@pytest.mark.parametrize("refuse_writes", [refuse_memory, become_replica, demand_replicas])
def test_a_redis_that_refuses_writes_is_waited_for(
    fleet: Environment, process: Process, refuse_writes: Callable[[Any], Callable[[], None]]
) -> None:
    before, during = (f"{refuse_writes.__name__}-{when}" for when in ("before", "during"))
    lines = len(process.current_log().splitlines())
    enqueue.fees(account_login="7", request_id=before)
    ended(f"fees.process:{before}")
    with fleet.broker.client as client:
        accept_writes = refuse_writes(client)
        try:
            assert enqueue.fees(account_login="7", request_id=during).created
            time.sleep(2)  # so that the worker meets the refusal several times
        finally:
            accept_writes()

    assert ended(f"fees.process:{during}").state == State.SUCCEEDED
    assert process.started == 1
    assert len(process.current_log().splitlines()) - lines < 100


def test_a_message_taken_from_a_redis_without_memory_is_recorded(
    fleet: Environment, process: Process, crm: Any
) -> None:
    send(crm, FEES, "7", "connected")  # a worker that connects again needs a Redis with memory
    ended("fees.process:connected")
    process.send(signal.SIGSTOP)
    try:
        send(crm, FEES, "7", "taken")
        with fleet.broker.client as client:
            client.config_set("maxmemory", "1")
            process.send(signal.SIGCONT)
            try:
                until(lambda: not client.llen("b2copy.inbox"))
                assert until(lambda: enqueue.status("fees.process:taken")) is not None
            finally:
                client.config_set("maxmemory", "0")
    finally:
        process.send(signal.SIGCONT)

    assert ended("fees.process:taken").state == State.SUCCEEDED


@contextmanager
def locked_ledger(fleet: Environment) -> Iterator[None]:
    """Let nobody write into the ledger, so that messages which the worker took stay unacknowledged."""
    with closing(sqlite3.connect(fleet.database_url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def fill_slots(fleet: Environment, crm: Any) -> list[str]:
    """Send as many bad messages as the worker has slots, and wait until it has taken all of them. Returns their ids."""
    ids = [send(crm, "b2copy.nonsense") for _ in range(CONCURRENCY)]
    with fleet.broker.client as client:
        until(lambda: client.hlen(UNACKED) == CONCURRENCY)
    return ids


def test_acknowledgements_that_a_frozen_redis_misses_cost_no_slots(
    fleet: Environment, process: Process, crm: Any
) -> None:
    before = len(process.current_log())
    with locked_ledger(fleet):
        ids = fill_slots(fleet, crm)
        os.kill(fleet.broker.pid, signal.SIGSTOP)
    try:
        until(lambda: "Couldn't ack" in process.current_log()[before:], within=60)
    finally:
        os.kill(fleet.broker.pid, signal.SIGCONT)
    with fleet.broker.client as client:
        until(lambda: not client.llen("b2copy.inbox") and not client.hlen(UNACKED), within=30)

    assert [stored(message_id).payload["task"] for message_id in ids] == ["b2copy.nonsense"] * CONCURRENCY
    with locked_ledger(fleet):
        fill_slots(fleet, crm)
    with fleet.broker.client as client:
        until(lambda: not client.hlen(UNACKED))
    assert process.started == 1


def test_an_outage_of_redis_leaves_few_lines(fleet: Environment, process: Process) -> None:
    before = len(process.current_log().splitlines())
    fleet.broker.kill()
    recorded = [enqueue.fees(account_login="7", request_id=f"R{number}") for number in range(3)]
    time.sleep(4)
    fleet.broker.start()

    for operation in recorded:
        assert ended(operation.key, within=20).state == State.SUCCEEDED
    assert process.started == 1, process.tail(80)
    assert len(process.current_log().splitlines()) - before < 120


def test_a_value_of_another_type_under_a_key_of_the_broker_is_removed(fleet: Environment, process: Process) -> None:
    keys = [f"b2copy.{lane}" for lane in ("money", "default", "inbox", "housekeeping")]
    keys += [UNACKED, UNACKED_INDEX, UNACKED_MUTEX, "_kombu.binding.b2copy.money"]
    with fleet.broker.client as client:
        for key in keys:
            client.delete(key)
            client.set(key, "x") if key != UNACKED_MUTEX else client.lpush(key, "x")
        enqueue.fees(account_login="7", request_id="typed")
        enqueue.open_account(login="700500", product_currency_id=1, client_id=5)

        assert ended("fees.process:typed").state == State.SUCCEEDED
        assert ended("accounts.create:1/700500").state == State.SUCCEEDED
        until(lambda: client.type(UNACKED_MUTEX) != "list")
    assert process.started == 1


def test_a_lock_that_never_expires_is_removed(fleet: Environment) -> None:
    with fleet.broker.client as client:
        client.delete(UNACKED_MUTEX)
        client.set(UNACKED_MUTEX, "somebody")

        until(lambda: client.get(UNACKED_MUTEX) != "somebody")


def test_the_lock_of_a_worker_that_was_killed_ends_soon(fleet: Environment) -> None:
    with fleet.broker.client as client, client.monitor() as commands:
        for command in commands.listen():
            if command["command"].startswith(f"SET {UNACKED_MUTEX}"):
                break

    assert 0 < int(command["command"].split()[-1]) <= 5_000


def test_a_redis_without_client_and_config_is_served(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    forbidden = 'rename-command CLIENT ""\nrename-command CONFIG ""\n'
    monkeypatch.setattr(testbed_broker, "_CONFIGURATION", testbed_broker._CONFIGURATION + forbidden)
    broker = testbed_broker.Broker(tmp_path / "managed").start()
    try:
        monkeypatch.setenv("B2COPY_REDIS_URL", broker.url)
        active_environment.settings["B2COPY_REDIS_URL"] = broker.url
        process = active_environment.worker()
        wait_for_worker(process)
        enqueue.fees(account_login="7", request_id="managed")

        assert ended("fees.process:managed").state == State.SUCCEEDED
        doctor = subprocess.run(
            DOCTOR, env=active_environment.variables, capture_output=True, text=True, timeout=60, check=False
        )
        assert doctor.returncode == 0, doctor.stderr
    finally:
        for process in active_environment.processes:
            process.stop()
        broker.stop()


ENQUEUE = """
from tasks import enqueue
for number in range(3):
    print(enqueue.fees(account_login="7", request_id=f"R{number}").created)
"""


NO_CELERY = """
import sys

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "kombu":
            raise AttributeError("a package that kombu needs has another version")

sys.meta_path.insert(0, Broken())
"""


def test_a_celery_that_cannot_be_imported_does_not_reach_a_caller_whose_operation_is_recorded(
    environment: Environment,
) -> None:
    """It is imported when the first wake-up is sent, and the operation is recorded by then."""
    migrate(environment.database_url)
    ran = subprocess.run(
        [sys.executable, "-c", NO_CELERY + ENQUEUE],
        env=environment.variables, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert ran.stdout.split() == ["True"] * 3, ran.stderr
    assert ran.stderr.count("no wake-up was sent, dispatch will repeat it: AttributeError: a package") == 1
    assert "Traceback" not in ran.stderr


class Nonsense:
    """A server that answers every request with what no Redis says."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"<html>\r\n" * 20)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def test_nothing_that_a_wake_up_raises_reaches_a_caller_whose_operation_is_recorded(environment: Environment) -> None:
    migrate(environment.database_url)
    nonsense = Nonsense()
    variables = environment.variables | {"B2COPY_REDIS_URL": nonsense.url}
    ran = subprocess.run(
        [sys.executable, "-c", ENQUEUE], env=variables, capture_output=True, text=True, timeout=60, check=False
    )
    nonsense.close()

    assert ran.stdout.split() == ["True"] * 3, ran.stderr
    assert ran.stderr.count("no wake-up was sent") == 1
    assert "Traceback" not in ran.stderr
