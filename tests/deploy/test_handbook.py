"""deploy/README.md promises only what exists: its commands run, its names are real, its messages are the code's."""

import hashlib
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.cli.command import refusal, run
from tests.deploy.handbook import DEPLOY, TEXT, block_with, lines_of
from tests.operations import fail_operation
from tests.support import until
from worker.cli.exit_codes import MEANINGS
from worker.ledger import open_ledger
from worker.ledger.schema import HEAD
from worker.operation import FailureReason, OnUnknown
from worker.sandbox.control_client import SandboxControl
from worker.settings import ConsoleSettings, Settings, variable
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(180)  # many commands, one after the other
def test_every_command_in_it_runs(
    environment: Environment, worker: Callable[..., Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker()
    ledger = open_ledger(environment.database_url)
    fail_operation(ledger, "W7")
    fail_operation(ledger, "W8", failure_reason=FailureReason.UNRESOLVED)
    unknown = {"failure_reason": FailureReason.UNRESOLVED, "on_unknown": OnUnknown.STOP}
    fail_operation(ledger, "1/123456", kind="clients.register", lane="default", **unknown)
    ledger.close()
    os.symlink(DEPLOY, tmp_path / "deploy")
    monkeypatch.chdir(tmp_path)
    failed = {}
    for line in lines_of("sh"):
        if line.startswith("b2copy-sync "):
            ran = run(tmp_path, environment.variables, *shlex.split(line)[1:])
            code, output = ran.code, ran.out + ran.err
        else:
            done = subprocess.run(
                ["sh", "-c", line], env=environment.variables, capture_output=True, text=True, timeout=30
            )
            code, output = done.returncode, done.stdout + done.stderr
        if code != 0:
            failed[line] = output[-300:]

    assert failed == {}
    assert (tmp_path / "backup.sqlite").stat().st_size > 0
    assert len(lines_of("sh")) > 20


@pytest.mark.parametrize("document", ["README.md", "deploy/README.md", "deploy/withdrawals.md", "worker/README.md"])
def test_every_command_in_a_sentence_is_one_that_is_taken(document: str) -> None:
    prose = re.sub(r"```.*?```", "", (ROOT / document).read_text(), flags=re.S)
    commands = [
        found[1].replace("--lane LANE", "--lane money")
        for span in re.findall(r"`([^`]*)`", prose)
        if (found := re.fullmatch(r"(?:\.venv/bin/|.* )?b2copy-sync (\w[^<]*?)( <.*)?", " ".join(span.split())))
    ]
    refused = {
        command: why
        for command in commands
        if "--help" not in command and not command.endswith(" ...") and (why := refusal(shlex.split(command)))
    }

    assert commands
    assert refused == {}


def test_while_redis_is_moved_messages_to_the_old_database_are_done_and_no_second_session_begins(
    environment: Environment, worker: Callable[..., Process], sandbox: SandboxControl
) -> None:
    """As "Move to another Redis database" says it."""
    old, new = environment.broker.url, environment.broker.url.removesuffix("/0") + "/1"
    process = worker(name="old")
    for name, url in (("W1", old), ("W2", new)):  # the second one comes from a CRM host that has changed
        crm: Any = Celery("crm", broker=url)
        fees = {"account_login": "7", "request_id": name}
        crm.send_task("b2copy.fees.process", kwargs=fees, queue="b2copy.inbox")
        crm.close()

    until(lambda: sandbox.effects("fees.process", "7/W1"))
    with environment.broker.client as client:
        until(lambda: client.llen("b2copy.inbox") == client.hlen("b2copy:unacked") == 0)
    process.stop()
    logins_before = [call["route"] for call in sandbox.token_calls()]
    worker(name="new", B2COPY_REDIS_URL=new)
    until(lambda: sandbox.effects("fees.process", "7/W2"))

    assert logins_before == ["authexternalcrm"]
    assert [call["route"] for call in sandbox.token_calls()] == ["authexternalcrm"] * 2


def test_with_systemd_each_step_comes_after_what_it_needs() -> None:
    section = TEXT.partition("### With systemd\n")[2].partition("\n### ")[0]
    steps = (
        "-f deploy/postgres/roles.sql",
        "ALTER ROLE b2copy_$role PASSWORD",
        "install -m 600 deploy/systemd/settings.env",
        "/etc/b2copy-sync/settings.env\nsed -i",
        "systemctl start b2copy-sync-migrate\npsql",
        "systemctl enable --now b2copy-sync-beat",
        "systemctl enable --now b2copy-sync-worker@1",
    )

    places = [section.find(step) for step in steps]

    assert -1 not in places
    assert places == sorted(places)


def test_each_step_of_a_restore_has_a_form_for_each_installation() -> None:
    """Its first two steps come before any worker starts, so that no worker can be asked to run their commands."""
    installations = re.findall(r"^\| (compose|systemd|Kubernetes) \| (?:in|as|anywhere)", TEXT, re.M)
    section = TEXT.partition("### After a restore\n")[2].partition("\n## ")[0]
    rows = {cells[0]: cells[1:] for line in re.findall(r"^\| (.*) \|$", section, re.M) if (cells := line.split(" | "))}
    while_stopped = {name: rows[name][1] for name in installations}

    assert installations == ["compose", "systemd", "Kubernetes"]
    assert rows["installation"] == ["stop, before the restore", "a command of steps 1 and 2", "start, in step 3"]
    for name in installations:
        assert len(re.findall(r"`[^`]+`", " | ".join(rows[name]))) >= 3, name
    assert "run --rm --no-deps worker b2copy-sync ..." in while_stopped["compose"]
    assert "exec deployment/b2copy-command -- b2copy-sync ..." in while_stopped["Kubernetes"]
    assert not [name for name, form in while_stopped.items() if re.search(r"exec (deployment/b2copy-)?worker", form)]
    scaled = re.findall(r"scale deployment ([\w -]+) --replicas=(\d)", section)
    assert scaled == [("b2copy-worker b2copy-beat b2copy-metrics", "0"), ("b2copy-command", "1")]


def test_a_password_of_redis_in_compose_is_changed_in_both_files(tmp_path: Path) -> None:
    block = block_with('sed -i "s/#$old/', "Rotate keys and passwords")
    (tmp_path / "deploy").mkdir()
    secrets = tmp_path / "deploy" / "secrets"
    subprocess.run([str(DEPLOY / "new-secrets"), str(secrets)], check=True, capture_output=True, timeout=30)
    acl_before = (secrets / "redis" / "users.acl").read_text()
    docker_does = "docker() { :; }\n"

    subprocess.run(["sh", "-ec", docker_does + block], cwd=tmp_path, check=True, timeout=30)

    password = (secrets / "b2copy" / "redis-worker.password").read_text().strip()
    acl = (secrets / "redis" / "users.acl").read_text()
    assert f"user b2copy-worker reset on #{hashlib.sha256(password.encode()).hexdigest()} " in acl
    assert [a != b for a, b in zip(acl_before.splitlines(), acl.splitlines(), strict=True)].count(True) == 1
    assert (secrets / "b2copy" / "redis-worker.password").stat().st_mode & 0o777 == 0o600


def test_every_file_and_service_it_names_exists() -> None:
    named = {path for path in re.findall(r"(?<![\w/.])deploy/[\w./@-]*\w", TEXT) if "secrets" not in path.split("/")}
    named -= {"deploy/.env", "deploy/settings.env"}  # a person writes them
    named |= {f"deploy/{link}" for link in re.findall(r"\]\(([^)#]+)\)", TEXT)}
    units = set(re.findall(r"b2copy-sync-\w+@?", " ".join(lines_of("console"))))

    assert len(named) > 10
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    assert [unit for unit in sorted(units) if not (DEPLOY / "systemd" / f"{unit}.service").exists()] == []
    for line in lines_of("console"):
        for service in re.findall(r"compose .* exec (?:-T )?([\w-]+)", line):
            assert f"\n  {service}:\n" in (DEPLOY / "compose.yaml").read_text()


def test_every_anchor_exists() -> None:
    headings = {
        re.sub(r"[^\w -]", "", text).strip().lower().replace(" ", "-") for text in re.findall(r"^#+ (.*)$", TEXT, re.M)
    }

    assert set(re.findall(r"\(#([\w-]+)\)", TEXT)) - headings == set()


def test_every_alert_has_its_section() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", (DEPLOY / "prometheus" / "rules.yml").read_text()))

    assert len(alerts) >= 10
    assert alerts - set(re.findall(r"^### (\w+)$", TEXT, re.M)) == set()


def test_every_setting_it_names_exists() -> None:
    named = set(re.findall(r"\bB2COPY_[A-Z_]*[A-Z]\b", TEXT))

    assert named - {variable(field) for field in (Settings.model_fields | ConsoleSettings.model_fields)} == set()


def test_every_message_of_an_incident_is_in_the_code() -> None:
    code = "".join(path.read_text() for path in (ROOT / "worker").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", code)  # a text over several lines
    section = TEXT.partition("## Incidents by message")[2].partition("\n## ")[0]
    messages = re.findall(r"^\| `([^`]+)` \|", section, re.M)
    by_postgresql = {"permission denied for table"}

    assert len(messages) > 10
    assert [message for message in messages if message not in joined and message not in by_postgresql] == []


def test_every_release_says_its_schema_and_the_order_of_an_upgrade() -> None:
    releases = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)[1:]

    for release in releases:
        text = " ".join(release.split())
        assert re.search(r"Schema revision \d{4}\. Older code that may run on it: .+\. Order of upgrade: .+\.", text)
    assert f"Schema revision {HEAD}." in releases[0]


def test_its_exit_codes_are_those_of_the_command() -> None:
    table = dict(re.findall(r"^\| (\d) \| (.*) \|$", TEXT, re.M))

    assert table == {str(code.value): meaning for code, meaning in MEANINGS.items()}
