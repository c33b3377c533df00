"""The README's table of B2COPY's routes: it has all of them, and each cell reaches its route when it is run."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tasks import enqueue
from tasks.reads import READS
from tasks.registry import KINDS
from tests.cli.command import run
from tests.support import until
from tests.tasks.conftest import ALONE, ended, running_fleet
from tests.test_readme import README
from worker import instances
from worker.app import app
from worker.b2copy import B2Copy
from worker.b2copy.routes.account_create import NewAccount
from worker.b2copy.routes.account_list import AccountSearch
from worker.b2copy.routes.client_registration import NewClient
from worker.b2copy.routes.leaderboard import Board
from worker.b2copy.routes.seamless_login import Visitor
from worker.b2copy.routes.statistics import OfAccount
from worker.http import event_loop
from worker.messages.ask_read import answers
from worker.messages.sealed_answer import OneTimeKey
from worker.operation import State
from worker.queues import HOUSEKEEPING, INBOX
from worker.queues import READS as READS_QUEUE
from worker.sandbox.openapi import DOCUMENT
from worker.sandbox.routes import route_of
from worker.testbed.broker import Broker
from worker.testbed.local_system import Environment, Sandbox

COLUMNS = ["client method", "Python of a CRM", "task", "command", "SQL"]
SECRET = "sandbox-secret"


def table() -> dict[str, dict[str, str]]:
    """Return the cells of each route."""
    lines = re.findall(r"^\| `(?:GET|POST) /api/.*$", README, re.M)
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]
    return {route: dict(zip(COLUMNS, cells, strict=True)) for route, *cells in rows}


def named(column: str) -> set[str]:
    return {row[column] for row in table().values()} - {"no"}


def test_it_has_every_documented_route_and_every_way_that_exists() -> None:
    documented = {f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods}
    methods = {name for name in vars(B2Copy) if not name.startswith("_")} - {"send", "login_of", "ask_for_token"}
    reads = {read for cell in named("Python of a CRM") for read in re.findall(r'read\("(\w+)"\)', cell)}

    assert table().keys() == documented
    assert {cell.removeprefix("b2copy().") for cell in named("client method") if "b2copy()" in cell} == methods
    assert reads == READS.keys()
    assert named("SQL") == {cell.removeprefix("b2copy.") for cell in named("task")} & KINDS.keys()
    assert named("SQL") == KINDS.keys() - {"call"}


class Ways:
    """How to run a cell. `login` is an MT login that no other cell used, `account` one that has an account."""

    def __init__(self, fleet: Environment, folder: Path, account: str) -> None:
        self.fleet, self.folder, self.account = fleet, folder, account
        self._logins = count(910_000)
        self._reached: dict[tuple[str, str], set[str]] = {}
        self.control = fleet.sandbox.control

    def calls(self, route: str) -> int:
        return int(self.control.counters()["calls"].get(route, 0))

    def run(self, route: str, column: str, cell: str) -> None:
        """Run a cell, and wait until its route was called, unless an earlier row's equal cell has reached it."""
        method, path = re.sub(r"\{\w+\}", "1", route).split()
        name, login = route_of(method, path), str(next(self._logins))
        forget = {"authexternalcrm": instances.session, "signin": instances.back_office}.get(name)
        if forget:
            forget().forget()
        if name in self._reached.get((column, cell), set()):
            return  # it is in the row of another route too
        counted = self.control.counters()["calls"]
        before = counted.get(name, 0)
        ways: dict[str, Callable[[str, str, str], None]] = {
            "client method": self.client, "Python of a CRM": self.python, "task": self.task, "command": self.command,
            "SQL": self.sql,
        }  # fmt: skip
        ways[column](name, cell, login)
        until(lambda: self.calls(name) > before)
        now = self.control.counters()["calls"]
        self._reached[column, cell] = {each for each in now if now[each] > counted.get(each, 0)}

    def payload(self, kind: str, login: str) -> dict[str, Any]:
        payloads: dict[str, dict[str, Any]] = {
            "fees.process": {"account_login": login, "request_id": login},
            "accounts.create": {"login": login, "product_currency_id": 2, "client_id": 1},
            "clients.register": {"login": login},
        }
        return payloads[kind]

    def parameters(self, read: str) -> dict[str, Any]:
        return {} if read in {"accounts", "leaderboard"} else {"login": self.account}

    def client(self, route: str, cell: str, login: str) -> None:
        made, method = re.fullmatch(r"(\w+)\(\)\.(\w+)", cell).groups()  # type: ignore[union-attr]
        function = getattr(getattr(instances, made)(), method)
        if method == "renew":
            function("a test", force=True, wait=10)
            return
        visitor = Visitor(account=login, secret_key=SECRET)
        arguments: Mapping[str, Callable[[], list[Any]]] = {
            "process_fees": lambda: [login, login],
            "accounts": lambda: [AccountSearch(number=self.account)],
            "create_account": lambda: [
                NewAccount(client_id=1, platform=1, number=login, product_currency_id=2, is_master=0)
            ],
            "account_detail": lambda: [OfAccount(account=self.account)],
            "account_statistics": lambda: [OfAccount(account=self.account)],
            "leaderboard": lambda: [Board()],
            "seamless_url": lambda: [visitor],
            "start_wizard": list,
            "register_client": lambda: [
                NewClient(
                    uuid=event_loop().run(instances.b2copy().start_wizard()),
                    login=login,
                    token=event_loop().run(instances.b2copy().seamless_url(visitor)).token,
                )
            ],
        }
        event_loop().run(function(*arguments[method]()))

    def python(self, route: str, cell: str, login: str) -> None:
        name, read = re.fullmatch(r'enqueue\.(\w+)(?:\("(\w+)"\))?', cell).groups()  # type: ignore[union-attr]
        if read:
            assert enqueue.read(read, **self.parameters(read))
            return
        kinds = {"fees": "fees.process", "open_account": "accounts.create", "register_client": "clients.register"}
        self.succeeds(getattr(enqueue, name)(**self.payload(kinds[name], login)).key)

    def task(self, route: str, cell: str, login: str) -> None:
        if cell == "b2copy.session.refresh":

            def renewed() -> bool:
                app.send_task(cell, queue=HOUSEKEEPING)  # it renews what is due
                return self.calls(route) > before

            before = self.calls(route)
            if route == "refreshtoken":
                self.control.switches(access_format="jwt", access_lifetime=1.0)  # a JWT tells its life
                instances.session().renew("a test", force=True, wait=10)
                self.control.switches(access_format="opaque", access_lifetime=900.0)
                before = self.calls(route)
            until(renewed, every=0.2)
        elif cell == "b2copy.read":
            read = {"accounts.list": "accounts", "auth_url": "seamless_url"}.get(
                route, route.replace("widget.", "account_")
            )
            read = read if read in READS else "leaderboard"
            key, ends_at = OneTimeKey(), answers().clock_ms() + 10_000
            arguments = {"name": read, "parameters": self.parameters(read), "key": key.public, "ends_at": ends_at}
            arguments |= {"read_id": f"{login}", "ledger_id": instances.ledger().id}
            app.send_task(cell, kwargs=arguments, queue=READS_QUEUE)
            sealed = until(lambda: answers().take(login, 1.0))
            assert sealed
            assert "value" in json.loads(key.unseal(login, sealed) or b"")
        else:
            kind = cell.removeprefix("b2copy.")
            app.send_task(cell, kwargs=self.payload(kind, login), queue=INBOX)
            self.succeeds(self.key(kind, login))

    def command(self, route: str, cell: str, login: str) -> None:
        program, *words = cell.split()
        assert program == "b2copy-sync"
        more = {
            "fees": ["--account", login, "--request-id", login, "--wait"],
            "accounts list": ["--login", self.account],
            "accounts open": [login, "--product-currency-id", "2", "--client-id", "1", "--wait"],
            "clients register": [login, "--wait"],
            "seamless-url": [self.account],
            "read account_detail": [f"login={self.account}"],
            "read account_statistics": [f"login={self.account}"],
        }.get(" ".join(words), [])
        ran = run(self.folder, self.fleet.variables, *words, *more, "--json")
        assert ran.code == 0, ran.err
        assert ran.document

    def sql(self, route: str, cell: str, login: str) -> None:
        with instances.ledger().writing() as connection:
            connection.exec_driver_sql(
                "INSERT INTO b2copy_requests (kind, payload) VALUES (?, ?)",
                (cell, json.dumps(self.payload(cell, login))),
            )
        self.succeeds(self.key(cell, login))

    @staticmethod
    def key(kind: str, login: str) -> str:
        return f"{kind}:{login}" if kind == "fees.process" else f"{kind}:1/{login}"

    @staticmethod
    def succeeds(key: str) -> None:
        assert ended(key).state is State.SUCCEEDED


@pytest.fixture
def ways(one_broker: Broker, one_sandbox: Sandbox, migrated_file: Path, tmp_path: Path) -> Iterator[Ways]:
    def prepare(environment: Environment) -> dict[str, str]:
        for name, text in (("secret", SECRET), ("password", "sandbox")):
            (environment.folder / name).write_text(text)
            (environment.folder / name).chmod(0o600)
        return {
            "B2COPY_SEAMLESS_SECRET_FILE": str(environment.folder / "secret"),
            "B2COPY_BACK_OFFICE_EMAIL": "office@broker.example",
            "B2COPY_BACK_OFFICE_PASSWORD_FILE": str(environment.folder / "password"),
            "B2COPY_READS": ",".join(READS),
        }

    with running_fleet(one_broker, one_sandbox, migrated_file, *ALONE, prepare=prepare) as fleet:
        opened = enqueue.open_account(login="900000", product_currency_id=2, client_id=1, is_master=True)
        assert ended(opened.key).state is State.SUCCEEDED
        yield Ways(fleet, tmp_path, "900000")


def test_each_of_its_cells_reaches_its_route(ways: Ways) -> None:
    failed = []
    for route, row in table().items():
        for column, cell in row.items():
            if cell == "no":
                continue
            try:
                ways.run(route, column, cell)
            except Exception as error:
                failed.append(f"{route}, {column} {cell}: {type(error).__name__}: {error}")

    assert failed == []
