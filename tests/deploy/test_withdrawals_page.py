"""deploy/withdrawals.md names every state and failure reason, and its example pays what may be paid, nothing else."""

import re
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.registry import KINDS
from tests.deploy.examples.conftest import Start, start  # noqa: F401
from tests.support import until
from tests.webhook.conftest import secret_file  # noqa: F401
from worker.operation import FailureReason, State
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process

PAGE = (Path(__file__).parents[2] / "deploy" / "withdrawals.md").read_text()


def rows(heading: str) -> dict[str, str]:
    """Return the tables with this first column: its words, each with the second column."""
    tables = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.M)
    cells = [line.split("|") for table in tables for line in table.splitlines()]
    return {line[1].strip().strip("`"): line[2].strip() for line in cells}


def test_the_page_names_every_state_and_permits_the_payout_in_one() -> None:
    states = rows("state")

    assert list(states) == list(State)
    assert [state for state, pays in states.items() if pays != "no"] == [State.SUCCEEDED]


def test_the_page_names_every_failure_reason() -> None:
    of_kinds = {reason for kind in KINDS.values() for reason in kind.failure_reasons}

    assert set(rows("failure reason")) == {*FailureReason, *of_kinds}


def test_the_settings_and_commands_that_the_page_names_exist() -> None:
    handbook = (Path(__file__).parents[2] / "deploy" / "env.example").read_text()

    assert [name for name in re.findall(r"B2COPY_[A-Z_]+", PAGE) if name not in handbook] == []


@pytest.fixture
def crm(environment: Environment, migrated_file: Path) -> Path:
    """The CRM's database, which holds the ledger too."""
    file = Path(environment.database_url.removeprefix("sqlite:///"))
    shutil.copy(migrated_file, file)
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE withdrawals (id TEXT PRIMARY KEY, account TEXT, state TEXT, why TEXT)")
    return file


@pytest.mark.parametrize("told_by", ["webhook", "asking"])
def test_the_example_pays_only_what_has_succeeded(
    told_by: str,
    crm: Path,
    environment: Environment,
    worker: Callable[..., Process],
    start: Start,  # noqa: F811
    secret_file: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """It hears of each end by webhook; and without one it asks the ledger."""
    [example] = re.findall(r"```python\n# withdrawal_gate\.py\n(.*?)```", PAGE, re.S)
    if told_by == "webhook":
        example = example.replace("(request_fees, ask_about_the_silent, pay)", "(request_fees, pay)")
    gate = tmp_path / "withdrawal_gate.py"
    gate.write_text(example)
    environment.sandbox.control.switches(
        logins={"101": {"pending_polls": 1}, "102": {"ends": "ERROR", "ends_after_restart": "SUCCESS"},
                "103": {"known": False}, "104": {"until_finished": True}},
        error_restarts=True,
    )  # fmt: skip
    port = start(sys.executable, gate, "{port}", secret_file, crm)
    environment.settings["B2COPY_FEES_POLL_FIRST"] = "0.2"
    if told_by == "webhook":
        environment.settings["B2COPY_WEBHOOK_URL"] = f"http://127.0.0.1:{port}/"
        environment.settings["B2COPY_WEBHOOK_SECRET_FILE"] = str(secret_file)
    worker()

    def withdrawals() -> dict[str, tuple[str, str | None]]:
        with sqlite3.connect(crm, timeout=10) as connection:
            found = connection.execute("SELECT id, state, why FROM withdrawals ORDER BY id").fetchall()
        return {id_: (state, why) for id_, state, why in found}

    with sqlite3.connect(crm, timeout=10) as connection:
        asked = [(f"W{number}", f"10{number}", "asked") for number in range(1, 5)]
        connection.executemany("INSERT INTO withdrawals (id, account, state) VALUES (?, ?, ?)", asked)
    until(lambda: [state for state, _ in withdrawals().values()] == ["paid", "person", "person", "fees"], within=30)

    assert withdrawals()["W2"] == ("person", "fee_error")
    assert withdrawals()["W3"] == ("person", "rejected")
    replay(environment, "fees.process:W2")
    until(lambda: withdrawals()["W2"][0] == "paid", within=30)
    assert [state for state, _ in withdrawals().values()] == ["paid", "paid", "person", "fees"]


def replay(environment: Environment, key: str) -> None:
    from worker.ledger import open_ledger
    from worker.ledger import replay as replay_in

    ledger = open_ledger(environment.database_url)
    assert replay_in(ledger, [key], "test", "cleared up at B2COPY") == [key]
    ledger.close()
