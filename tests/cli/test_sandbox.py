"""sandbox: a local B2COPY, and the settings to use it."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.cli.command import run
from tests.cli.conftest import Command
from worker.sandbox.switches import Switches
from worker.testbed.processes import clean_environment

COMMAND = [sys.executable, "-m", "worker.cli", "sandbox", "--port", "0"]


@contextmanager
def running(*options: str, lines: int = 7) -> Iterator[dict[str, str]]:
    """Run the command until the end of the context, and yield the settings that it prints."""
    with subprocess.Popen([*COMMAND, *options], env=clean_environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        exports = [shlex.split(process.stdout.readline())[1] for _ in range(lines)]
        try:
            yield dict(export.split("=", 1) for export in exports)
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0


def test_prints_settings_with_which_a_login_succeeds(b2copy_sync: Command) -> None:
    with running("--set", "access_lifetime=5") as settings:
        ran = b2copy_sync("session", "renew", "--json", **settings)
        keys = Path(settings["B2COPY_PRIVATE_KEY_FILE"]).parent
        assert keys.exists()

    assert ran.document["outcome"] == "login"
    assert not keys.exists()


def test_with_a_broker_it_prints_all_that_a_worker_needs(tmp_path: Path) -> None:
    with running("--with-broker", lines=9) as settings:
        environment = clean_environment(**settings)
        migrated = run(tmp_path, environment, "migrate")
        renewed = run(tmp_path, environment, "session", "renew", "--json")
        with redis.Redis.from_url(settings["B2COPY_REDIS_URL"]) as client:
            assert client.ping()

    assert migrated.code == 0, migrated.err
    assert renewed.document["outcome"] == "login"
    assert not Path(settings["B2COPY_STORAGE_KEY_FILE"]).parent.exists()
    with redis.Redis.from_url(settings["B2COPY_REDIS_URL"]) as client, pytest.raises(redis.ConnectionError):
        client.ping()


def test_keys_in_a_folder_are_used_again(tmp_path: Path) -> None:
    options = ("--keys", str(tmp_path / "key folder"))
    with running(*options) as first:
        key = Path(first["B2COPY_PRIVATE_KEY_FILE"]).read_bytes()
    with running(*options) as second:
        assert Path(second["B2COPY_PRIVATE_KEY_FILE"]).read_bytes() == key


def test_takes_the_keys_that_keygen_made(b2copy_sync: Command, tmp_path: Path) -> None:
    folder = str(tmp_path / "keys")
    for key_id in ("older", "newer"):
        b2copy_sync("keygen", folder, "--key-id", key_id)

    with running("--keys", folder) as settings:
        renewed = b2copy_sync("session", "renew", "--json", **settings)

    assert settings["B2COPY_KEY_ID"] == "newer,older"
    assert renewed.document["outcome"] == "login"


def test_refuses_an_unknown_switch(b2copy_sync: Command) -> None:
    ran = b2copy_sync("sandbox", "--set", "acces_lifetime=5")

    assert ran.code == 2
    assert "did you mean access_lifetime?" in ran.err


def test_lists_its_switches(b2copy_sync: Command) -> None:
    lines = b2copy_sync("sandbox", "--list").out.splitlines()

    assert "access_lifetime=900.0  Seconds." in lines
    assert [line.partition("=")[0] for line in lines] == list(Switches.model_fields)


def test_prints_the_secret_of_seamless_logins_that_it_takes(tmp_path: Path) -> None:
    for secret in ("one", "two"):  # the second time, there is a file of the first
        with running("--keys", str(tmp_path), "--set", f"secret_key={secret}") as settings:
            file = Path(settings["B2COPY_SEAMLESS_SECRET_FILE"])

            assert (file.read_text(), file.stat().st_mode & 0o777) == (secret, 0o600)
