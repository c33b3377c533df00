"""The stage: everything a worker needs, and nothing left of it."""

import stat
from pathlib import Path

import pytest
import requests

from tests.support import until
from worker.settings import Settings, load
from worker.testbed.environment import Stage, wait_for_worker
from worker.testbed.processes import ProcessFailed


def test_gives_a_worker_every_setting_it_needs(in_stage: Stage) -> None:
    settings = load(Settings)

    assert settings.host == in_stage.sandbox.url
    assert settings.redis_url == in_stage.broker.url
    assert settings.database_url == in_stage.database_url


def test_keeps_its_secrets_to_itself(stage: Stage) -> None:
    for name in ("B2COPY_PRIVATE_KEY_FILE", "B2COPY_STORAGE_KEY_FILE"):
        assert stat.S_IMODE(Path(stage.settings[name]).stat().st_mode) == 0o600
    assert stat.S_IMODE(stage.folder.stat().st_mode) == 0o700


def test_leaves_nothing_behind() -> None:
    with Stage(access_lifetime=5) as stage:
        sleeper = stage.run("sleeper", "sleep", "60")
        broker, sandbox = stage.broker, stage.sandbox
        with broker.client as client:
            assert client.ping()
        assert sandbox.control.switches()["access_lifetime"] == 5
        assert stage.settings["B2COPY_TOKEN_TTL"] == "5"

    assert not sleeper.running
    assert not stage.folder.exists()
    with pytest.raises(requests.ConnectionError):
        sandbox.control.switches()
    with pytest.raises(ProcessFailed):
        _ = broker.pid


def test_passes_settings_to_one_process_alone(stage: Stage) -> None:
    said = "printenv B2COPY_ADMIN_ID B2COPY_RATE_LIMIT"
    process = stage.run("printenv", "sh", "-c", said, restarts=False, B2COPY_ADMIN_ID="7")

    assert process.wait(5) == 0

    assert process.said() == "7\n0\n"
    assert stage.settings["B2COPY_ADMIN_ID"] == "42"


def test_tells_why_a_worker_did_not_start(stage: Stage) -> None:
    process = stage.run("worker", "sh", "-c", "echo no such setting; exit 2", restarts=False)

    with pytest.raises(ProcessFailed, match="no such setting"):
        wait_for_worker(process)


def test_brings_a_dead_worker_back(stage: Stage) -> None:
    process = stage.run("worker", "sh", "-c", "echo celery@here ready.; exec sleep 60")
    wait_for_worker(process)

    process.kill()

    until(lambda: process.started == 2)
    wait_for_worker(process)
