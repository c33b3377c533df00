"""Small CRMs as processes of their own, with a real broker, a real worker and the sandbox: from request to answer.

Each requests the fees of two withdrawals. B2COPY charges those of one and refuses the other; both are told.
"""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from celery import Celery

from tests.deploy.examples.conftest import EXAMPLES, SECRET, Start, run
from tests.support import until
from worker.ledger.migrations import migrate
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process, clean_environment
from worker.webhook.signing import Secrets

StartWorker = Callable[..., Process]

LOGINS = {"W1": "123456", "W2": "654321"}
ENDS = {"W1": "succeeded", "W2": "failed"}


@pytest.fixture
def crm_host(environment: Environment, secret_file: Path, tmp_path: Path) -> dict[str, str]:
    """The environment variables of a CRM that has the ledger's tables in its own database."""
    environment.sandbox.control.switches(logins={LOGINS["W2"]: {"ends": "ERROR"}})
    environment.settings["B2COPY_DATABASE_URL"] = f"sqlite:///{tmp_path}/crm.sqlite3"
    migrate(environment.database_url)
    ours = {name: environment.settings[name] for name in ("B2COPY_DATABASE_URL", "B2COPY_REDIS_URL")}
    ours["CRM_DATABASE_URL"] = environment.database_url
    return {**ours, "CRM_FOLDER": str(tmp_path), "CRM_WEBHOOK_SECRET_FILE": str(secret_file)}


def requests_fees_and_is_told(port: int, environment: Environment, worker: StartWorker, secret_file: Path) -> None:
    environment.settings["B2COPY_WEBHOOK_URL"] = f"http://127.0.0.1:{port}/webhooks/b2copy"
    environment.settings["B2COPY_WEBHOOK_SECRET_FILE"] = str(secret_file)
    worker()

    for withdrawal, login in LOGINS.items():
        for _ in range(2):  # the same request again changes nothing
            wanted = {"id": withdrawal, "login": login}
            answer = requests.post(f"http://127.0.0.1:{port}/withdrawals", json=wanted, timeout=10)
            assert answer.status_code == 202

    def shown(withdrawal: str) -> dict[str, Any]:
        answer = requests.get(f"http://127.0.0.1:{port}/withdrawals/{withdrawal}", timeout=10)
        return dict(answer.json())

    until(lambda: {name: shown(name)["fees"] for name in LOGINS} == ENDS)
    assert {name: shown(name)["may_be_paid"] for name in LOGINS} == {"W1": True, "W2": False}
    effects = environment.sandbox.control.effects("fees.process")
    assert {effect["key"]: effect["times"] for effect in effects} == {"123456/W1": 1, "654321/W2": 1}


def start_django(crm_host: dict[str, str], start: Start) -> int:
    manage = EXAMPLES / "django" / "manage.py"
    run(sys.executable, manage, "migrate", "--verbosity", "0", stdin=None, **crm_host)
    return start(sys.executable, manage, "runserver", "--noreload", "127.0.0.1:{port}", **crm_host)


def start_fastapi(crm_host: dict[str, str], start: Start) -> int:
    uvicorn = (sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES / "fastapi", "crm:app", "--port", "{port}")
    return start(*uvicorn, **crm_host)


def test_django(
    crm_host: dict[str, str], environment: Environment, worker: StartWorker, start: Start, secret_file: Path
) -> None:
    port = start_django(crm_host, start)

    requests_fees_and_is_told(port, environment, worker, secret_file)


def test_fastapi(
    crm_host: dict[str, str], environment: Environment, worker: StartWorker, start: Start, secret_file: Path
) -> None:
    port = start_fastapi(crm_host, start)

    requests_fees_and_is_told(port, environment, worker, secret_file)


@pytest.mark.parametrize("start_crm", [start_django, start_fastapi])
def test_fees_of_another_account_permit_no_payout(
    crm_host: dict[str, str], start: Start, start_crm: Callable[..., int]
) -> None:
    """As after `failed correct W1 account_login=222`, while the withdrawal is still one of the account 111."""
    port = start_crm(crm_host, start)
    address, wanted = f"http://127.0.0.1:{port}", {"id": "W1", "login": "111"}
    assert requests.post(f"{address}/withdrawals", json=wanted, timeout=10).status_code == 202

    def told(account_login: str, sequence: int) -> Any:
        payload = {"account_login": account_login, "request_id": "W1"}
        data = {"kind": "fees.process", "state": "succeeded", "payload": payload, "sequence": sequence}
        body = json.dumps({"type": "operation.succeeded", "data": data})
        headers = Secrets([SECRET]).headers("ntc_7_1", body, datetime.now(UTC))
        answer = requests.post(f"{address}/webhooks/b2copy", data=body.encode(), headers=headers, timeout=10)
        assert answer.status_code == 204
        return requests.get(f"{address}/withdrawals/W1", timeout=10).json()

    assert told("222", 1) == {"id": "W1", "fees": "other account", "may_be_paid": False}
    assert told("111", 2) == {"id": "W1", "fees": "succeeded", "may_be_paid": True}


def test_celery_with_nothing_of_ours(environment: Environment, worker: StartWorker, tmp_path: Path) -> None:
    source = (EXAMPLES / "celery_crm.py").read_text()
    assert not re.search(r"^(?:import|from) (?:tasks|worker)\b", source, re.M)
    shutil.copy(EXAMPLES / "celery_crm.py", tmp_path)
    with closing(sqlite3.connect(tmp_path / "crm.sqlite3")) as crm, crm:
        crm.execute("CREATE TABLE fees (key TEXT PRIMARY KEY, state TEXT, sequence INTEGER)")
    environment.sandbox.control.switches(logins={LOGINS["W2"]: {"ends": "ERROR"}})
    theirs = re.sub(r"/0$", "/1", environment.broker.url)
    assert theirs != environment.broker.url
    host = {
        "CRM_BROKER_URL": theirs,
        "B2COPY_REDIS_URL": environment.broker.url,
        "CRM_DATABASE": str(tmp_path / "crm.sqlite3"),
        "PYTHONPATH": str(tmp_path),
    }
    environment.settings["B2COPY_NOTIFY_TASK"] = "celery_crm.fees_ended"
    environment.settings["B2COPY_NOTIFY_BROKER_URL"] = theirs
    quick = ("--pool", "solo", "--without-mingle", "--without-gossip")
    celery = (sys.executable, "-m", "celery", "-A", "celery_crm", "worker", *quick)
    with_host = ("env", *(f"{name}={value}" for name, value in host.items()))
    environment.run("crm-worker", *with_host, *celery)
    worker()

    for withdrawal, login in LOGINS.items():
        run(*with_host, sys.executable, tmp_path / "celery_crm.py", withdrawal, login)

    def received() -> dict[str, str]:
        with closing(sqlite3.connect(tmp_path / "crm.sqlite3")) as crm, crm:
            return dict(crm.execute("SELECT key, state FROM fees").fetchall())

    until(lambda: received() == {f"fees.process:{name}": state for name, state in ENDS.items()}, within=20)


def test_a_notice_survives_a_task_that_raises_and_a_killed_process(environment: Environment, tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "celery_crm.py", tmp_path)
    # The table is absent, so the task raises; the first call of `sqlite3.connect` kills the pool's process.
    (tmp_path / "harmed_crm.py").write_text(
        "import os, signal, sqlite3, celery_crm\n"
        "app, connect = celery_crm.app, sqlite3.connect\n"
        "def harmed(path):\n"
        "    try:\n"
        "        os.mkdir(path + '.killed')\n"
        "    except FileExistsError:\n"
        "        return connect(path)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "sqlite3.connect = harmed\n"
    )
    theirs, database = re.sub(r"/0$", "/1", environment.broker.url), tmp_path / "crm.sqlite3"
    host = (
        "env", f"CRM_BROKER_URL={theirs}", f"B2COPY_REDIS_URL={environment.broker.url}", f"CRM_DATABASE={database}",
        f"PYTHONPATH={tmp_path}",
    )  # fmt: skip
    quick = ("--concurrency", "1", "--loglevel", "INFO", "--without-mingle", "--without-gossip")
    crm_worker = environment.run(
        "crm-worker", *host, sys.executable, "-m", "celery", "-A", "harmed_crm", "worker", *quick
    )
    notice = {"type": "operation.succeeded", "data": {"key": "fees.process:W1", "state": "succeeded", "sequence": 1}}
    with Celery("b2copy", broker=theirs, set_as_current=False) as sender:
        sender.send_task("celery_crm.fees_ended", args=[notice], queue="celery", ignore_result=True)

    until(lambda: "no such table" in crm_worker.current_log(), within=30)
    with closing(sqlite3.connect(database)) as crm, crm:
        crm.execute("CREATE TABLE fees (key TEXT PRIMARY KEY, state TEXT, sequence INTEGER)")

    def received() -> list[Any]:
        with closing(sqlite3.connect(database)) as crm, crm:
            return crm.execute("SELECT key, state FROM fees").fetchall()

    until(lambda: received() == [("fees.process:W1", "succeeded")], within=30)
    assert (tmp_path / "crm.sqlite3.killed").is_dir()


def test_the_django_projects_own_tests_pass_with_the_fixture(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "django", tmp_path / "project")
    # Plugins of ours alone that such a project does not have.
    options = ("-q", "-p", "no:schemathesis", "-p", "no:valkey", "-p", "no:xdist", "-p", "no:cacheprovider")

    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path / "project",
        env=clean_environment() | {"CRM_FOLDER": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert ran.returncode == 0, ran.stdout
    written = (EXAMPLES / "django" / "crm" / "tests" / "test_withdrawals.py").read_text()
    assert f"{len(re.findall(r'^def test_', written, re.M))} passed" in ran.stdout
    assert "b2copy" not in os.listdir(tmp_path)  # it leaves nothing behind
