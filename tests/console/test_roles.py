"""What a viewer, an operator and an approver can and cannot do: every route, as a table."""

from collections.abc import Callable

import pytest
from starlette.routing import Route

from tests.console.conftest import client_of
from tests.operations import fail_operation
from worker.console.app import PAGES, make_routes
from worker.console.process_state import Console
from worker.ledger import Ledger

OpenConsole = Callable[..., Console]

# (method, path): who may. Everybody else is refused with 403.
READ = {"viewer", "operator", "approver"}
OPERATE = {"operator"}
APPROVE = {"approver"}
TABLE = {
    ("GET", "/"): READ,
    ("GET", "/todo"): READ,
    ("GET", "/operations"): READ,
    ("GET", "/operations.csv"): READ,
    ("GET", "/operation"): READ,
    ("GET", "/evidence.json"): READ,
    ("GET", "/imports"): READ,
    ("GET", "/approvals"): READ,
    ("GET", "/audit"): READ,
    ("GET", "/audit.csv"): READ,
    ("GET", "/system"): READ,
    ("GET", "/operation/{action}"): OPERATE,
    ("POST", "/operation/{action}"): OPERATE,
    ("GET", "/bulk/replay"): OPERATE,
    ("POST", "/bulk/replay"): OPERATE,
    ("GET", "/fleet/{action}"): OPERATE,
    ("POST", "/fleet/{action}"): OPERATE,
    ("GET", "/imports/{action}"): OPERATE,
    ("POST", "/imports/{action}"): OPERATE,
    ("GET", "/approvals/withdraw"): OPERATE,
    ("POST", "/approvals/withdraw"): OPERATE,
    ("GET", "/approvals/{action}"): APPROVE,
    ("POST", "/approvals/{action}"): APPROVE,
}
OPEN = {"/healthz", "/readyz"}
CHANGES = {path for method, path in TABLE if method == "POST"}


def address(path: str, action: str = "replay") -> str:
    return path.replace("{action}", action) + "?key=fees.process:W1"


def test_the_table_holds_every_route(open_console: OpenConsole) -> None:
    routes = {
        (method, route.path)
        for route in make_routes(open_console())
        if isinstance(route, Route) and route.path not in OPEN
        for method in (route.methods or set()) - {"HEAD"}
    }

    assert routes == set(TABLE)
    assert len(PAGES) == len({path for _, path in TABLE})


@pytest.mark.parametrize("person", ["viewer", "operator", "approver", "none"])
def test_a_route_is_open_to_its_roles_and_to_nobody_else(
    open_console: OpenConsole, ledger: Ledger, person: str
) -> None:
    fail_operation(ledger, "W1")
    client = client_of(open_console(), person)

    for (method, path), may in TABLE.items():
        status = client.request(method, address(path)).status_code
        assert (status != 403) == (person in may), (method, path, person, status)


def test_somebody_unknown_sees_nothing_but_health(open_console: OpenConsole) -> None:
    client = client_of(open_console(), "stranger")

    assert {client.request(method, address(path)).status_code for method, path in TABLE} == {401}
    assert [client.get(path).status_code for path in sorted(OPEN)] == [200, 200]


def test_in_a_console_that_only_reads_nothing_that_acts_exists(open_console: OpenConsole, ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    console = open_console(read_only=True)
    client = client_of(console)

    for method, path in TABLE:
        wanted = 404 if path in CHANGES else 200
        assert client.request(method, address(path)).status_code == wanted, (method, path)
    assert "/operation/replay" not in client.get("/operation?key=fees.process:W1").text
    assert "/operation/replay" not in client.get("/todo").text
