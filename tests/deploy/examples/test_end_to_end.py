"""A CRM without Python: sqlite3 requests, a worker does it, and a receiver gets a notice."""

import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

from tests.deploy.examples.conftest import EXAMPLES, WITHDRAWALS, Start, run, tool
from tests.support import until
from worker.operation import State
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process


def test_what_sqlite3_requests_is_done_by_a_worker_and_a_receiver_gets_a_notice(
    environment: Environment,
    migrated_file: Path,
    worker: Callable[..., Process],
    start: Start,
    secret_file: Path,
    tmp_path: Path,
) -> None:
    file = environment.database_url.removeprefix("sqlite:///")
    shutil.copy(migrated_file, file)
    with sqlite3.connect(file) as crm:
        crm.executescript(WITHDRAWALS)
    with sqlite3.connect(tmp_path / "crm.sqlite") as crm:
        crm.execute("CREATE TABLE fees (key TEXT PRIMARY KEY, state TEXT, sequence INTEGER)")
    port = start(sys.executable, EXAMPLES / "receiver.py", "{port}", secret_file, tmp_path / "crm.sqlite")
    environment.settings["B2COPY_WEBHOOK_URL"] = f"http://127.0.0.1:{port}/"
    environment.settings["B2COPY_WEBHOOK_SECRET_FILE"] = str(secret_file)
    worker()

    run(tool("sqlite3"), "-bail", file, stdin=(EXAMPLES / "request.sql").read_bytes())

    def received() -> list[tuple[str, str, int]]:
        with sqlite3.connect(tmp_path / "crm.sqlite") as crm:
            return crm.execute("SELECT key, state, sequence FROM fees").fetchall()

    until(received)
    assert received() == [("fees.process:W1", State.SUCCEEDED, 1)]
