"""A CRM without Python: sqlite3 or Node requests, a worker does it, and a receiver gets a notice."""

import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from tests.deploy.examples.conftest import EXAMPLES, WITHDRAWALS, Start, needs_pg, run, tool
from tests.ledger.conftest import migrated_schema, postgres_server  # noqa: F401
from tests.support import until
from worker.operation import State
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process

Received = Callable[[], list[tuple[str, str, int]]]


@pytest.fixture
def received(environment: Environment, start: Start, secret_file: Path, tmp_path: Path) -> Received:
    """The CRM's receiver, to which workers send notices. Returns a function that returns what it has stored."""

    def stored() -> list[tuple[str, str, int]]:
        with closing(sqlite3.connect(tmp_path / "crm.sqlite")) as crm, crm:
            return crm.execute("SELECT key, state, sequence FROM fees").fetchall()

    with closing(sqlite3.connect(tmp_path / "crm.sqlite")) as crm, crm:
        crm.execute("CREATE TABLE fees (key TEXT PRIMARY KEY, state TEXT, sequence INTEGER)")
    port = start(sys.executable, EXAMPLES / "receiver.py", "{port}", secret_file, tmp_path / "crm.sqlite")
    environment.settings["B2COPY_WEBHOOK_URL"] = f"http://127.0.0.1:{port}/"
    environment.settings["B2COPY_WEBHOOK_SECRET_FILE"] = str(secret_file)
    return stored


def test_what_sqlite3_requests_is_done_by_a_worker_and_a_receiver_gets_a_notice(
    environment: Environment, migrated_file: Path, worker: Callable[..., Process], received: Received
) -> None:
    file = environment.database_url.removeprefix("sqlite:///")
    shutil.copy(migrated_file, file)
    with closing(sqlite3.connect(file)) as crm, crm:
        crm.executescript(WITHDRAWALS)
    worker()

    run(tool("sqlite3"), "-bail", file, stdin=(EXAMPLES / "request.sql").read_bytes())

    until(received)
    [(key, state, sequence)] = received()
    assert (key, state) == ("fees.process:W1", State.SUCCEEDED)
    assert sequence > 1_700_000_000_000  # it begins with the time


def test_what_node_requests_is_done_by_a_worker_and_a_receiver_gets_a_notice(
    environment: Environment,
    migrated_schema: str,  # noqa: F811
    worker: Callable[..., Process],
    received: Received,
) -> None:
    needs_pg()
    url = make_url(migrated_schema).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as crm:
        crm.execute(WITHDRAWALS)
    environment.settings["B2COPY_DATABASE_URL"] = url
    worker()

    run(tool("node"), EXAMPLES / "request.mjs", "W1", "123456", CRM_DATABASE_URL=url)

    until(received)
    [(key, state, _)] = received()
    assert (key, state) == ("fees.process:W1", State.SUCCEEDED)
