"""The README and the settings' example promise only what exists, and their samples run as they stand."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import certifi
import pytest
from pydantic_core import PydanticUndefined
from sqlalchemy import create_engine, text

from tests import env_example
from tests.cli.command import refusal
from tests.support import until
from worker.ledger import Ledger, find, open_ledger
from worker.operation import State
from worker.session import check_keys
from worker.settings import Settings, load, variable
from worker.testbed.keys import write_secret
from worker.testbed.local_system import Environment
from worker.testbed.ports import free_port
from worker.testbed.processes import Process, clean_environment

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def succeeded(ledger: Ledger, key: str) -> bool:
    operation = find(ledger, key)
    return operation is not None and operation.state is State.SUCCEEDED


def sample(name: str) -> str:
    """A python block of the README, by the file name in its first line."""
    (found,) = re.findall(rf"```python\n# {re.escape(name)}\n(.*?)```", README, re.S)
    return str(found)


def run(folder: Path, name: str, **environment: str) -> str:
    path = folder / name
    path.write_text(sample(name))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        env=clean_environment(**environment),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_samples_get_the_fees_of_three_withdrawals_charged(
    environment: Environment, worker: Callable[..., Process], tmp_path: Path
) -> None:
    worker()
    crm = create_engine(environment.database_url)
    with crm.begin() as transaction:
        transaction.execute(text("CREATE TABLE withdrawals (id TEXT, state TEXT)"))
        transaction.execute(text("INSERT INTO withdrawals VALUES ('W2', 'new')"))
    ours = {name: environment.settings[name] for name in ("B2COPY_DATABASE_URL", "B2COPY_REDIS_URL")}

    output = run(tmp_path, "enqueue.py", **ours)
    run(tmp_path, "outbox.py", CRM_DATABASE_URL=environment.database_url, **ours)
    run(tmp_path, "send.py", B2COPY_REDIS_URL=environment.broker.url)
    page = run(tmp_path, "page.py", **ours)

    ledger = open_ledger(environment.database_url)
    for key in ("fees.process:W1", "fees.process:W2", "fees.process:W3"):
        until(partial(succeeded, ledger, key))
    assert output.strip() in set(State)
    assert page == "[]\n"
    with crm.connect() as connection:
        assert connection.execute(text("SELECT state FROM withdrawals")).scalar() == "fees"
    ledger.close()
    crm.dispose()


def test_a_foreign_client_needs_nothing_of_ours() -> None:
    assert set(re.findall(r"^(?:import|from) (\w+)", sample("send.py"), re.M)) == {"os", "celery"}


@pytest.mark.skipif(not shutil.which("openssl"), reason="the keys are made with openssl")
def test_a_worker_takes_the_keys_that_openssl_makes(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```sh\n(umask .*?)```", README, re.S)
    subprocess.run(["sh", "-ec", block], cwd=environment.folder, check=True, capture_output=True, timeout=30)
    made = {"B2COPY_PRIVATE_KEY_FILE": "private.pem", "B2COPY_STORAGE_KEY_FILE": "storage.key"}
    for name, value in (
        environment.settings | {name: str(environment.folder / file) for name, file in made.items()}
    ).items():
        monkeypatch.setenv(name, value)

    check_keys(load(Settings))

    assert (environment.folder / "public.pem").read_text().startswith("-----BEGIN PUBLIC KEY-----")


def test_a_newcomer_runs_a_worker_of_their_own(tmp_path: Path) -> None:
    """The two shells of `A worker of your own`, on ports that are free here."""
    section = README.partition("### A worker of your own")[2].partition("\n## ")[0]
    first, second = re.findall(r"```sh\n(.*?)```", section, re.S)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    first = first.replace("b2copy-sync sandbox", "exec b2copy-sync sandbox --port 0").replace(" | tee ", " > ")
    second = second.replace("127.0.0.1:9464", f"127.0.0.1:{free_port()}")
    second = second.replace("&\n", "&\ntrap 'kill $!; wait $!' EXIT TERM\n")
    sandbox, user = (
        Process(name, ["sh", "-ec", f"cd {tmp_path}\n{shell}"], tmp_path / f"{name}.log", restarts=False)
        for name, shell in (("sandbox", first), ("user", second))
    )
    settings = tmp_path / ".try" / "settings.sh"
    sandbox.start()
    try:
        until(lambda: settings.exists() and "B2COPY_DATABASE_URL" in settings.read_text())
        ended = user.start().wait(60)
    finally:
        user.stop()
        sandbox.stop()

    assert ended == 0, user.tail()
    shown = user.tail(100)
    assert "fees.process:W1 succeeded" in shown
    assert 'b2copy_attempts_total{kind="fees.process",outcome="done"} 1.0' in shown
    assert 'b2copy_oldest_seconds{clock="ours",lane="money"}' in shown


def named_commands() -> list[str]:
    """Every b2copy-sync command it names, in text and in blocks, without comments."""
    blocks = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]
    inline = re.findall(r"`((?:\.venv/bin/)?b2copy-sync [^`]*)`", README)
    named = [re.split(" # | \\| ", line)[0].strip() for line in [*blocks, *inline] if "b2copy-sync " in line]
    assert len(named) > 10
    return sorted(set(named))


@pytest.mark.parametrize("line", named_commands())
def test_every_command_it_names_exists_with_its_options(line: str) -> None:
    assert refusal(shlex.split(line.partition(" > ")[0])[1:]) == ""


def test_every_make_target_it_names_exists() -> None:
    named = set(re.findall(r"\bmake (\w+)", " ".join(re.findall(r"`[^`]+`", README, re.S))))
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))

    assert {"demo", "test", "check"} <= named
    assert named <= targets


def test_every_file_and_link_it_names_exists() -> None:
    tree = re.findall(r"^((?:worker|tasks|tests|deploy)/\S*)  ", README, re.M)
    links = re.findall(r"\]\(([^)#]+)\)", README)

    assert len(tree) > 10
    assert [path for path in tree + links if not (ROOT / path).exists()] == []


def test_every_package_is_on_its_map() -> None:
    packages = {f"worker/{path.parent.name}/" for path in (ROOT / "worker").glob("*/__init__.py")}

    assert [package for package in sorted(packages) if f"\n{package}" not in README] == []


class TestEnvExample:
    def test_is_what_the_settings_say(self) -> None:
        assert env_example.PATH.read_text() == env_example.text(), "run: python -m tests.env_example"

    def test_is_accepted_with_every_line_in_force(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        write_secret(tmp_path / "password", b"word")
        read_at_once = {"_PASSWORD_FILE": str(tmp_path / "password"), "_CA_FILE": certifi.where()}
        for name, value in re.findall(r"^#?(B2COPY_\w+)=(.+)$", env_example.PATH.read_text(), re.M):
            monkeypatch.setenv(name, next((file for end, file in read_at_once.items() if name.endswith(end)), value))

        settings = load(Settings)

        for name, field in Settings.model_fields.items():
            assert variable(name) in os.environ
            if field.default is not None and field.default is not PydanticUndefined:
                assert getattr(settings, name) == field.default, name
