"""deploy/withdrawals.md names every state and failure reason, and its example pays what may be paid, nothing else."""

import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.registry import KINDS
from tests.deploy.examples.conftest import Start, start  # noqa: F401
from tests.support import until
from tests.webhook.conftest import secret_file  # noqa: F401
from worker.operation import FailureReason, State
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process

PAGE = (Path(__file__).parents[2] / "deploy" / "withdrawals.md").read_text()
[EXAMPLE] = re.findall(r"```python\n# withdrawal_gate\.py\n(.*?)```", PAGE, re.S)
TABLES = re.findall(r"`((?:withdrawals|payments) \([^`]+\))`", PAGE)


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
    with closing(sqlite3.connect(file)) as connection, connection:
        for table in TABLES:
            connection.execute(f"CREATE TABLE {table}")
    return file


def select(crm: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(crm, timeout=10)) as connection:
        return connection.execute(query).fetchall()


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
    gate = tmp_path / "withdrawal_gate.py"
    asks = "(request_fees, ask_about_the_silent, pay)"
    assert asks in EXAMPLE
    gate.write_text(EXAMPLE.replace(asks, "(request_fees, pay)") if told_by == "webhook" else EXAMPLE)
    environment.sandbox.control.switches(
        logins={"101": {"pending_polls": 1}, "102": {"ends": "ERROR", "ends_after_restart": "SUCCESS"},
                "103": {"known": False}, "104": {"until_finished": True}, "106": {"until_finished": True}},
        error_restarts=True,
    )  # fmt: skip
    port, _ = [start(sys.executable, gate, "{port}", secret_file, crm) for _ in range(2)]  # two processes of the gate
    environment.settings["B2COPY_FEES_POLL_FIRST"] = "0.2"
    if told_by == "webhook":
        environment.settings["B2COPY_WEBHOOK_URL"] = f"http://127.0.0.1:{port}/"
        environment.settings["B2COPY_WEBHOOK_SECRET_FILE"] = str(secret_file)
    worker()

    def withdrawals() -> dict[str, tuple[str, str | None]]:
        found = select(crm, "SELECT id, state, why FROM withdrawals ORDER BY id")
        return {id_: (state, why) for id_, state, why in found}

    with closing(sqlite3.connect(crm, timeout=10)) as connection, connection:
        of_another = '{"account_login": "106", "request_id": "W5"}'
        connection.execute("INSERT INTO b2copy_requests (kind, payload) VALUES ('fees.process', ?)", (of_another,))
        asked = [(f"W{number}", f"10{number}", "asked") for number in range(1, 6)]
        connection.executemany("INSERT INTO withdrawals (id, account, state) VALUES (?, ?, ?)", asked)
    # The fees of the other account's W5 have begun, and end when the gate waits for its own.
    until(lambda: select(crm, "SELECT state FROM b2copy_status WHERE key = 'fees.process:W5'") == [("waiting",)])
    until(lambda: withdrawals()["W5"][0] == "fees")
    environment.sandbox.control.finish_fees("106", "W5")
    expected = ["paid", "person", "person", "fees", "person"]
    until(lambda: [state for state, _ in withdrawals().values()] == expected, within=30)

    assert withdrawals()["W2"] == ("person", "fee_error")
    assert withdrawals()["W3"] == ("person", "rejected")
    assert withdrawals()["W5"] == ("person", "other account")
    replay(environment, "fees.process:W2")
    until(lambda: withdrawals()["W2"][0] == "paid", within=30)
    assert [state for state, _ in withdrawals().values()] == ["paid", "paid", "person", "fees", "person"]
    assert select(crm, "SELECT withdrawal FROM payments ORDER BY withdrawal") == [("W1",), ("W2",)]


class Gate:
    """The example's functions on a connection of their own. `meanwhile` is called just before the next UPDATE."""

    def __init__(self, crm: Path) -> None:
        code: dict[str, Any] = {"__name__": "withdrawal_gate", "DATABASE": crm}
        exec(EXAMPLE, code)
        self.functions = SimpleNamespace(**code)
        self.meanwhile: Callable[[], object] | None = None
        self._crm = self.functions.connect()

    def run(self, step: str, *arguments: Any) -> Any:
        with self._crm:
            return getattr(self.functions, step)(self, *arguments)

    def execute(self, query: str, values: Any = ()) -> sqlite3.Cursor:
        if query.startswith("UPDATE") and self.meanwhile:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        found: sqlite3.Cursor = self._crm.execute(query, values)
        return found

    def close(self) -> None:
        self._crm.close()


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[tuple[Gate, Gate]]:
    """Two processes of the gate, on a database with one withdrawal."""
    crm = tmp_path / "crm.sqlite"
    with closing(sqlite3.connect(crm)) as connection, connection:
        for table in (*TABLES, "b2copy_requests (kind TEXT, payload TEXT)"):
            connection.execute(f"CREATE TABLE {table}")
        connection.execute("INSERT INTO withdrawals (id, account, state) VALUES ('W1', '101', 'asked')")
    with closing(Gate(crm)) as one, closing(Gate(crm)) as other:
        yield one, other


ENDED = ({"request_id": "W1", "account_login": "101"}, "succeeded", None)


def count(gate: Gate) -> dict[str, Any]:
    """Return the withdrawal's state, how often its fees were requested, and how often it was paid."""
    row = "SELECT (SELECT state FROM withdrawals), (SELECT count(*) FROM b2copy_requests), count(*) FROM payments"
    return dict(zip(("state", "requests", "payments"), gate.execute(row).fetchone(), strict=True))


def test_what_another_process_moves_between_select_and_update_is_neither_requested_nor_paid_twice(
    gates: tuple[Gate, Gate],
) -> None:
    one, other = gates

    def ends_and_is_paid() -> None:
        for step in (("request_fees",), ("fees_ended", *ENDED), ("pay",)):
            other.run(*step)

    one.meanwhile = ends_and_is_paid
    one.run("request_fees")
    assert count(one) == {"state": "paid", "requests": 1, "payments": 1}

    one.run("fees_ended", *ENDED)
    one.run("pay")
    assert count(one) == {"state": "paid", "requests": 1, "payments": 1}


def test_two_processes_pay_once(gates: tuple[Gate, Gate]) -> None:
    one, other = gates
    one.run("request_fees")
    one.run("fees_ended", *ENDED)

    one.meanwhile = lambda: other.run("pay")
    one.run("pay")

    assert count(one) == {"state": "paid", "requests": 1, "payments": 1}


@pytest.mark.parametrize("before", [(), ("request_fees",), ("request_fees", "fees_ended")], ids=str)
def test_what_a_client_took_back_is_not_paid_whatever_its_fees_become(
    gates: tuple[Gate, Gate], before: tuple[str, ...]
) -> None:
    one, other = gates
    for step in before:
        one.run(step, *(ENDED if step == "fees_ended" else ()))

    one.meanwhile = lambda: other.run("take_back", "W1")  # the loop has just read the state from before
    for step in ("request_fees", "pay"):
        one.run(step)
    other.run("take_back", "W1")  # if the loop had nothing to do
    for payload, state, reason in (ENDED, (ENDED[0], "failed", "fee_error"), (ENDED[0], "cancelled", None)):
        one.run("fees_ended", payload, state, reason)
        one.run("pay")

    assert count(one) == {"state": "taken back", "requests": min(len(before), 1), "payments": 0}


def test_what_is_paid_is_not_taken_back(gates: tuple[Gate, Gate]) -> None:
    one, other = gates
    one.run("request_fees")
    one.run("fees_ended", *ENDED)

    other.meanwhile = lambda: one.run("pay")

    assert other.run("take_back", "W1") is False
    assert count(one) == {"state": "paid", "requests": 1, "payments": 1}


@pytest.mark.parametrize("account", ["102", None])
def test_fees_of_another_account_permit_no_payment(gates: tuple[Gate, Gate], account: Any) -> None:
    one, _ = gates
    one.run("request_fees")

    one.run("fees_ended", {"request_id": "W1", "account_login": account}, "succeeded", None)
    one.run("pay")

    assert count(one) == {"state": "person", "requests": 1, "payments": 0}
    assert one.execute("SELECT why FROM withdrawals").fetchone() == ("other account",)


def test_an_account_that_changes_before_the_request_is_requested_as_it_is_then(gates: tuple[Gate, Gate]) -> None:
    one, other = gates

    def correct() -> None:
        with other._crm:
            other.execute("UPDATE withdrawals SET account = '102'")

    one.meanwhile = correct
    one.run("request_fees")
    one.run("request_fees")

    [(payload,)] = one.execute("SELECT payload FROM b2copy_requests").fetchall()
    assert '"account_login": "102"' in payload


def replay(environment: Environment, key: str) -> None:
    from worker.ledger import open_ledger
    from worker.ledger import replay as replay_in

    ledger = open_ledger(environment.database_url)
    assert replay_in(ledger, [key], "test", "cleared up at B2COPY") == [key]
    ledger.close()
