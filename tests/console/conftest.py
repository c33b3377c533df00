"""Fixtures of the console's tests: an SQLite ledger, and consoles on it with any access.

* `console_url`   an empty ledger
* `ledger`        the same, opened
* `open_console`  a function that makes a console: `open_console(access, read_only=True, four_eyes="money")`
* `client_of`     a function that makes a client which sends what a browser sends: `client_of(console)`
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tasks.registry import ALL_KINDS
from worker.console.access import Access, Person
from worker.console.app import make_app
from worker.console.process_state import Console
from worker.console.roles import Role
from worker.ledger import Ledger, open_ledger
from worker.ledger.query_limits import limit_queries
from worker.report.four_eyes import needs_approval
from worker.settings import ConsoleSettings

ADDRESS = "http://127.0.0.1:8080"


class As:
    """Access for tests: the person that the header X-Test-Person names, or everybody's default."""

    login_page = False

    def __init__(self, **people: set[Role]) -> None:
        self._people = {name: Person(name, frozenset(roles)) for name, roles in people.items()}

    def person(self, request: Any) -> Person | None:
        return self._people.get(request.headers.get("x-test-person", "ann"))


EVERYBODY = {
    "ann": set(Role),
    "bob": set(Role),
    "viewer": {Role.VIEWER},
    "operator": {Role.VIEWER, Role.OPERATOR},
    "approver": {Role.VIEWER, Role.APPROVER},
    "none": set(),
}


@pytest.fixture
def console_url(migrated_file: Path, tmp_path: Path) -> str:
    shutil.copy(migrated_file, tmp_path / "ledger.db")
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture
def ledger(console_url: str) -> Iterator[Ledger]:
    ledger = open_ledger(console_url)
    yield ledger
    ledger.close()


@pytest.fixture
def open_console(console_url: str) -> Iterator[Callable[..., Console]]:
    opened: list[Console] = []

    def make(access: Access | None = None, read_only: bool = False, four_eyes: str = "off", **settings: Any) -> Console:
        chosen = ConsoleSettings(
            database_url=console_url, redis_url="redis://127.0.0.1:1/0", four_eyes=four_eyes, **settings
        )
        ledger = open_ledger(console_url, pool_size=2, max_overflow=0)
        limit_queries(ledger.engine, read_only)
        ledger = replace(ledger, needs_approval=needs_approval(four_eyes, lambda: ALL_KINDS))
        access = access or As(**EVERYBODY)
        opened.append(Console(ledger, chosen, access, ALL_KINDS, read_only, "it has no keys", lambda lane: None))
        return opened[-1]

    yield make
    for console in opened:
        console.ledger.close()


def client_of(console: Console, person: str = "ann", **headers: str) -> TestClient:
    """Return a client that sends what a browser sends from a page of the console."""
    sent = {"sec-fetch-site": "same-origin", "x-test-person": person} | headers
    return TestClient(make_app(console), base_url=ADDRESS, headers=sent, follow_redirects=False)
