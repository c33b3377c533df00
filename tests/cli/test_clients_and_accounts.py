"""clients, accounts, seamless-url, identity: from a login to its account."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from worker.ledger import Ledger, find
from worker.sandbox.control_client import SandboxControl
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process

REGISTRATION = "clients.register:1/700100"


@pytest.fixture
def secret(environment: Environment) -> str:
    file = environment.folder / "secret"
    file.write_text("sandbox-secret")
    file.chmod(0o600)
    environment.settings["B2COPY_SEAMLESS_SECRET_FILE"] = str(file)
    return "sandbox-secret"


def test_a_login_gets_its_client_and_its_account(
    b2copy_sync: Command,
    secret: str,
    worker: Callable[..., Process],
    ledger: Ledger,
    sandbox: SandboxControl,
    tmp_path: Path,
) -> None:
    worker()

    registered = b2copy_sync("clients", "register", "700100", "--crm-id", "C-1", "--wait")
    opened = b2copy_sync(
        "accounts", "open", "700100", "--product-currency-id", "2", "--registration", REGISTRATION, "--master",
        "--wait", "--json",
    )  # fmt: skip
    unknown = b2copy_sync("accounts", "open", "700200", "--product-currency-id", "2", "--wait")
    listed = b2copy_sync("accounts", "list", "--login", "700100", "--json").document
    shown = b2copy_sync("identity", "show", "--crm-id", "C-1", "--json").document
    url = b2copy_sync("seamless-url", "700100")

    assert (registered.code, registered.out.strip()) == (0, f"{REGISTRATION} succeeded"), registered.err
    assert (opened.code, opened.document["state"]) == (0, "succeeded"), opened.err
    assert unknown.code == 3
    assert "identity import" in unknown.out
    assert [(one["number"], one["is_master"]) for one in listed] == [("700100", True)]
    assert [(one["client_id"], one["account_id"]) for one in shown] == [("1", "1")]
    assert url.out.startswith("https://copy.broker.example/")
    assert secret not in url.out + url.err

    file = tmp_path / "clients.csv"
    file.write_text("login;client_id;crm_id\n700200;1;C-2\n")
    assert b2copy_sync("identity", "import", str(file)).out == "1 row: 1 new, 0 changed, 0 known already\n"
    b2copy_sync("failed", "replay", "accounts.create:1/700200", "--why", "imported", "--yes")
    again = b2copy_sync("accounts", "open", "700200", "--product-currency-id", "2", "--wait")
    assert again.code == 0, again.out + again.err


def test_an_account_without_a_number_is_not_listed(b2copy_sync: Command, sandbox: SandboxControl) -> None:
    sandbox.add_accounts([{"accountNumber": None, "clientId": 7}, {"accountNumber": "700100", "clientId": 7}])

    listed = b2copy_sync("accounts", "list", "--json")

    assert [account["number"] for account in listed.document] == ["700100"]


def test_an_import_of_identities_says_what_is_new_changed_and_known(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "identities.csv"
    file.write_bytes("login;client_id;crm_id;name\n7;1;C-1;Zoë\n8;2;;Jürgen\n".encode("cp1252"))
    command = ("identity", "import", str(file), "--ignore-extra")

    undecoded = b2copy_sync(*command)
    extra = b2copy_sync("identity", "import", str(file), "--encoding", "cp1252")
    dry = b2copy_sync(*command, "--encoding", "cp1252", "--dry-run")
    nothing = b2copy_sync("identity", "show", "7")
    first = b2copy_sync(*command, "--encoding", "cp1252")
    again = b2copy_sync(*command, "--encoding", "cp1252", "--json")
    file.write_text("login;client_id;crm_id\n7;1;C-1\n8;3;\n9;;\n")
    changed = b2copy_sync("identity", "import", str(file))

    assert undecoded.code == extra.code == 2
    assert "--encoding cp1252" in undecoded.err
    assert "name is not a column: there are" in extra.err
    assert "--ignore-extra leaves it out" in extra.err
    assert dry.out == "2 rows: 2 new, 0 changed, 0 known already; nothing was stored\n"
    assert nothing.code == 5
    assert first.out == "2 rows: 2 new, 0 changed, 0 known already\n"
    assert again.document == {"rows": 2, "dry_run": False, "new": 0, "changed": 0, "known": 2}
    assert changed.out == "3 rows: 1 new, 1 changed, 1 known already\n"


def test_many_clients_are_imported_from_a_file(b2copy_sync: Command, ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "clients.csv"
    file.write_text("login,platform,crm_id\n007,1,C-1\n8,2,\n")

    assert b2copy_sync("import", str(file), "--kind", "clients.register").code == 0

    first, second = find(ledger, "clients.register:1/007"), find(ledger, "clients.register:2/8")
    assert first is not None
    assert second is not None
    assert (first.payload["crm_id"], second.payload.get("crm_id")) == ("C-1", None)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("login,client\n7,1\n", "line 2: client is not a column: there are platform, login, crm_id"),
        ("login,client_id\n7,1.0\n", "line 2: client_id: '1.0' is what a spreadsheet"),
        ("crm_id\nC-1\n", "line 2: login is missing"),
        ("login\n", "no rows"),
        ("login,client_id\n7,55\n8,56\n7,99\n", "line 4: login 7 stands in an earlier line, too"),
        ("login,client_id\n8,55\nlogin,client_id\n", "line 3: is the heading again"),
    ],
)
def test_identities_that_cannot_be_meant_are_refused_with_their_line(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path, rows: str, problem: str
) -> None:
    file = tmp_path / "identities.csv"
    file.write_text(rows)

    ran = b2copy_sync("identity", "import", str(file))

    assert ran.code == 2
    assert problem in ran.err
    assert b2copy_sync("identity", "show", "7").code == 5
