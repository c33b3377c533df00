"""Twelve incidents: the first line that failed names the cause, and its remedy works when it is pasted.

| incident | first failed line | remedy, as the test applies it |
|---|---|---|
| egress address changed | B2COPY refuses our access; our requests come from ... | it is allowed, session renew |
| our clock is ten minutes off | our clock is 600 s behind | the clock is corrected |
| key file replaced | the key in ... is not the one that B2COPY has registered | the registered key is put back |
| wrong key id | B2COPY knows no key called ... | B2COPY_KEY_ID |
| Redis evicts | maxmemory-policy is allkeys-lru | CONFIG SET maxmemory-policy noeviction |
| Redis without AOF | appendonly is off | CONFIG SET appendonly yes |
| foreign Celery app | a warning: queues of somebody else: reports | export B2COPY_REDIS_URL=... |
| worker frozen | 1 connected, and none answers | the worker continues |
| disk full | disk I/O error | there is room again |
| schema behind | the ledger's schema is 0000 | b2copy-sync migrate |
| no beat and no worker | none runs, and something has been due | a worker is started |
| lane paused | lane money is paused since ... by ... | b2copy-sync resume --lane money --why "..." |
"""

import json
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.cli.command import Ran
from tests.cli.conftest import Command
from tests.operations import hold_operation, make_wait, record_operation
from tests.support import until
from worker.doctor.other_redis_users import listeners
from worker.ledger import Ledger, pause
from worker.operation import WaitReason
from worker.sandbox.control_client import SandboxControl
from worker.testbed.broker import Broker
from worker.testbed.keys import new_key_pair
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process


def first_red(ran: Ran) -> tuple[str, str]:
    """Return the message and the remedy of the first check that failed."""
    assert ran.code in {1, 2}, ran.out
    first = next(check for check in ran.document["checks"] if check["grade"] == "FAIL")
    return first["message"], first["remedy"]


def command_of(remedy: str) -> str:
    """Return the command at the end of a remedy, as a person pastes it."""
    found = re.fullmatch(r".*`([^`]+)`", remedy)
    assert found, remedy
    return found[1]


def is_sound(ran: Ran) -> bool:
    return ran.code == 0 and ran.document["ok"]


@pytest.fixture
def doctor(b2copy_sync: Command) -> Command:
    return lambda *options, **settings: b2copy_sync("doctor", "--json", *options, **settings)


def test_egress_address_changed(doctor: Command, ledger: Ledger) -> None:
    make_wait(ledger, hold_operation(ledger), wait_reason=WaitReason.NO_ACCESS)

    message, remedy = first_red(doctor())

    assert "B2COPY refuses our access to 1 operation; our requests come from 127.0.0.1" in message
    assert "allow-list" in remedy
    assert command_of(remedy) == "b2copy-sync session renew"


@pytest.mark.parametrize(("offset", "way"), [(600, "behind"), (-600, "ahead of")])
def test_a_clock_is_ten_minutes_off(
    offset: float, way: str, doctor: Command, ledger: Ledger, sandbox: SandboxControl
) -> None:
    sandbox.switches(clock_offset=offset)

    message, remedy = first_red(doctor())

    assert f"s {way} B2COPY's" in message
    assert command_of(remedy) == "sudo timedatectl set-ntp true"
    sandbox.switches(clock_offset=0)
    assert is_sound(doctor())


def test_key_file_replaced_by_another_key(
    doctor: Command, ledger: Ledger, environment: Environment, tmp_path: Path
) -> None:
    other = new_key_pair(tmp_path, environment.keys.key_id)

    message, remedy = first_red(doctor(B2COPY_PRIVATE_KEY_FILE=str(other.private_file)))

    assert f"the key in {other.private_file} is not the one that B2COPY has registered" in message
    if shutil.which("openssl"):
        shown = subprocess.run(shlex.split(command_of(remedy)), capture_output=True, text=True, check=True)
        assert shown.stdout == other.public_key


def test_wrong_key_id(doctor: Command, ledger: Ledger, environment: Environment) -> None:
    message, remedy = first_red(doctor(B2COPY_KEY_ID="broker-2026"))

    assert "B2COPY knows no key called broker-2026" in message
    assert "B2COPY_KEY_ID" in remedy
    assert is_sound(doctor(B2COPY_KEY_ID=environment.keys.key_id))


@pytest.mark.parametrize(
    ("name", "wrong", "cause"),
    [
        ("maxmemory-policy", "allkeys-lru", "maxmemory-policy is allkeys-lru: sessions and messages may be evicted"),
        ("appendonly", "no", "appendonly is off: messages that no worker has recorded are lost with Redis"),
    ],
)
def test_redis_may_lose_data(
    name: str, wrong: str, cause: str, doctor: Command, ledger: Ledger, broker: Broker
) -> None:
    with broker.client as client:
        right = client.config_get(name)[name]
        client.config_set(name, wrong)
        try:
            message, remedy = first_red(doctor())
            words = shlex.split(command_of(remedy))
            assert words[:3] == ["redis-cli", "-u", "$B2COPY_REDIS_URL"]
            client.execute_command(*words[3:])
        finally:
            client.config_set(name, right or "")

    assert message == cause
    assert is_sound(doctor())


def test_a_foreign_celery_app_on_our_redis_database(
    doctor: Command, ledger: Ledger, broker: Broker, environment: Environment
) -> None:
    crm: Any = Celery("crm", broker=broker.url)
    crm.send_task("crm.report", queue="reports")
    crm.close()

    ran = doctor()

    assert is_sound(ran)  # nothing of ours is lost as long as nobody flushes the database
    [(message, remedy)] = [
        (check["message"], check["remedy"])
        for check in ran.document["checks"]
        if (check["check"], check["grade"]) == ("redis", "warn")
    ]
    assert "queues of somebody else, now or once: reports" in message
    pasted = subprocess.run(
        ["sh", "-c", f'{command_of(remedy)}; printf %s "$B2COPY_REDIS_URL"'],
        env=environment.variables, capture_output=True, text=True, check=True,
    )  # fmt: skip
    login, _, address = broker.url.removesuffix("/0").removeprefix("redis://").rpartition("@")
    assert pasted.stdout == f"redis://{address}/1"
    assert "with the password put back into it" in remedy
    assert is_sound(doctor(B2COPY_REDIS_URL=f"redis://{login}@{address}/1"))


def test_a_worker_is_frozen(doctor: Command, ledger: Ledger, broker: Broker, worker: Callable[..., Process]) -> None:
    process = worker()
    with broker.client as client:
        until(lambda: listeners(client))  # a worker is ready shortly before it listens for questions
    process.send(signal.SIGSTOP)
    try:
        message, remedy = first_red(doctor())
    finally:
        process.send(signal.SIGCONT)

    assert "1 connected, and none answers: the worker is frozen or stopped (127.0.0.1:" in message
    assert remedy.startswith("restart it")
    assert is_sound(doctor())


def test_the_ledgers_disk_is_full(ledger: Ledger, environment: Environment, doctor: Command) -> None:
    def forbid_writing() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    ran = subprocess.run(
        [sys.executable, "-m", "worker.cli", "doctor", "--json"],
        env=environment.variables, preexec_fn=forbid_writing, capture_output=True, text=True,
    )  # fmt: skip

    message, remedy = first_red(Ran(ran.returncode, ran.stdout, ran.stderr))
    assert "disk I/O error" in message
    assert remedy == f"make room on its disk, then everything continues by itself: `df -h {environment.folder}`"
    assert json.loads(ran.stdout)["ok"] is False
    assert is_sound(doctor())


def test_schema_behind(doctor: Command, ledger: Ledger) -> None:
    with ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_schema_version SET version_num = '0000'")

    message, _ = first_red(doctor())

    assert message.endswith("the ledger's schema is 0000, this version needs 0001: run `b2copy-sync migrate`")


def test_no_beat_and_no_worker(doctor: Command, ledger: Ledger, worker: Callable[..., Process]) -> None:
    record_operation(ledger)
    with ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_operations SET due_at = due_at - 60000")

    message, remedy = first_red(doctor())

    assert message.startswith("none runs; something is due, and no worker has worked on its lane for 6")
    assert command_of(remedy) == "b2copy-sync worker"
    worker()
    assert is_sound(doctor())


def test_a_lane_paused_by_somebody(doctor: Command, ledger: Ledger, b2copy_sync: Command) -> None:
    record_operation(ledger)
    pause(ledger, "money", "ann@desk", "B2COPY is upgraded")

    message, remedy = first_red(doctor())

    assert message.startswith("lane money is paused since ")
    assert message.endswith("by ann@desk: B2COPY is upgraded (1 operation waiting)")
    assert b2copy_sync(*shlex.split(command_of(remedy))[1:]).code == 0
    assert is_sound(doctor())
