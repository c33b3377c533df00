"""The environment: everything a worker needs, and nothing is left of it afterwards."""

import stat
from pathlib import Path

import pytest
import requests

from tests.support import until
from worker.settings import Settings, load
from worker.testbed.local_system import Environment, wait_for_worker
from worker.testbed.processes import ProcessFailed


def test_gives_a_worker_every_setting_it_needs(active_environment: Environment) -> None:
    settings = load(Settings)

    assert settings.host == active_environment.sandbox.url
    assert settings.redis_url == active_environment.broker.url
    assert settings.database_url == active_environment.database_url


def test_only_its_owner_can_read_its_secrets(environment: Environment) -> None:
    for name in ("B2COPY_PRIVATE_KEY_FILE", "B2COPY_STORAGE_KEY_FILE"):
        assert stat.S_IMODE(Path(environment.settings[name]).stat().st_mode) == 0o600
    assert stat.S_IMODE(environment.folder.stat().st_mode) == 0o700


def test_leaves_nothing_behind() -> None:
    with Environment(access_lifetime=5) as environment:
        sleeper = environment.run("sleeper", "sleep", "60")
        broker, sandbox = environment.broker, environment.sandbox
        with broker.client as client:
            assert client.ping()
        assert sandbox.control.switches()["access_lifetime"] == 5
        assert environment.settings["B2COPY_TOKEN_TTL"] == "5"

    assert not sleeper.running
    assert not environment.folder.exists()
    with pytest.raises(requests.ConnectionError):
        sandbox.control.switches()
    with pytest.raises(ProcessFailed):
        _ = broker.pid


def test_passes_settings_to_one_process_alone(environment: Environment) -> None:
    process = environment.run(
        "printenv", "sh", "-c", "printenv B2COPY_ADMIN_ID B2COPY_RATE_LIMIT", restarts=False, B2COPY_ADMIN_ID="7"
    )

    assert process.wait(5) == 0

    assert process.current_log() == "7\n0\n"
    assert environment.settings["B2COPY_ADMIN_ID"] == "42"


def test_an_error_holds_the_log_of_a_worker_that_did_not_start(environment: Environment) -> None:
    process = environment.run("worker", "sh", "-c", "echo no such setting; exit 2", restarts=False)

    with pytest.raises(ProcessFailed, match="no such setting"):
        wait_for_worker(process)


def test_starts_a_dead_worker_again(environment: Environment) -> None:
    process = environment.run("worker", "sh", "-c", "echo celery@here ready.; exec sleep 60")
    wait_for_worker(process)

    process.kill()

    until(lambda: process.started == 2)
    wait_for_worker(process)
