"""verify: what we assume about B2COPY, compared with a B2COPY, in a file that may be sent to others."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Ran, run
from tests.cli.conftest import Command
from worker.b2copy.routes.account_create import NewAccount
from worker.http import event_loop
from worker.instances import b2copy, session
from worker.sandbox.control_client import SandboxControl
from worker.testbed.local_system import Environment

CHECKS = [
    "clock", "token.missing", "token.wrong", "login", "token.form", "token.renewal", "accounts.login", "accounts.form",
    "accounts.parameters", "accounts.pages", "accounts.order", "widgets", "widgets.detail", "errors.form",
]  # fmt: skip


@pytest.fixture
def accounts(active_environment: Environment, sandbox: SandboxControl) -> list[str]:
    """Return the MT logins of accounts that the sandbox holds."""
    logins = [f"7700{number}canary" for number in range(6)]
    for login in logins:
        account = NewAccount(
            client_id=5, platform=1, number=login, product_currency_id=3, is_master=True, name="canary name"
        )
        event_loop().run(b2copy().create_account(account))
    return logins


@pytest.fixture
def verify(environment: Environment, tmp_path: Path) -> Command:
    """Run the command. It sends some twenty requests, which takes long on a busy machine."""

    def command(*arguments: str, **settings: str) -> Ran:
        return run(tmp_path, environment.variables | settings, "verify", *arguments, within=50.0)

    return command


def findings(text: str) -> dict[str, dict[str, Any]]:
    return {one["check"]: one for one in json.loads(text)["checks"]}


def test_the_sandbox_is_as_assumed_and_nothing_is_changed(
    accounts: list[str], verify: Command, sandbox: SandboxControl, active_environment: Environment, tmp_path: Path
) -> None:
    file = tmp_path / "findings.json"
    before = sandbox.effects()

    ran = verify("--host", sandbox.base_url, "--to", str(file), B2COPY_HOST="https://b2copy.invalid")

    found = findings(file.read_text())
    assert [(one["check"], one["verdict"]) for one in found.values()] == [(name, "as assumed") for name in CHECKS]
    assert ran.code == 0
    assert ran.out.count("as assumed ") == len(CHECKS)
    assert sandbox.effects() == before
    assert "accountNumber" in found["accounts.form"]["seen"]
    assert found["accounts.parameters"]["seen"] == "read: the query and the body"


def test_a_list_in_an_envelope_is_checked_too(
    accounts: list[str], verify: Command, sandbox: SandboxControl, active_environment: Environment, tmp_path: Path
) -> None:
    sandbox.switches(list_as="enveloped")

    ran = verify("--json", "--to", str(tmp_path / "findings.json"))

    found = findings(ran.out)
    assert [(one["check"], one["verdict"]) for one in found.values()] == [(name, "as assumed") for name in CHECKS]
    assert "accountNumber" in found["accounts.form"]["seen"]


def test_nothing_private_is_in_the_file(
    accounts: list[str], verify: Command, sandbox: SandboxControl, active_environment: Environment, tmp_path: Path
) -> None:
    file = tmp_path / "findings.json"
    sandbox.switches(admin_id="42424242", error_shape="grpc")

    verify("--to", str(file), B2COPY_ADMIN_ID="42424242", B2COPY_KEY_ID="test-key")

    text = file.read_text()
    tokens = [pair[name] for pair in sandbox.pairs() for name in ("access", "refresh")]
    private = [*tokens, *accounts, "canary", "42424242", "test-key", "127.0.0.1", sandbox.base_url, "@"]
    assert len(tokens) >= 2
    assert [value for value in private if value in text] == []


@pytest.mark.parametrize(
    ("switches", "check", "seen"),
    [
        ({"clock_offset": 600.0}, "clock", " s ahead of ours"),
        ({"refresh_ends_access": True}, "token.renewal", "renewed; the token before: HTTP 401"),
        ({"generation1_login": "back_office"}, "accounts.login", "HTTP 40"),
        ({"list_pages": False}, "accounts.pages", "pages of 6 and 6, equal"),
        ({"list_order": "shifting"}, "accounts.order", "the order changes"),
        ({"faults": [{"what": "html", "route": "accounts.list"}]}, "accounts.form", "no JSON (text/html)"),
        ({"error_shape": "html"}, "errors.form", "no JSON (text/html)"),
        ({"error_shape": "error"}, "errors.form", "a JSON object with the fields "),
        ({"error_shape": "message"}, "errors.form", "a JSON object with the fields message"),
        ({"error_shape": "empty"}, "errors.form", "empty"),
        ({"access": False}, "accounts.login", "HTTP 403"),
        ({"faults": [{"what": "status", "status": 404, "route": "accounts.list"}]}, "accounts.login", "HTTP 404"),
        ({"faults": [{"what": "status", "status": 404, "route": "widget.leaderboard"}]}, "widgets", "HTTP 404"),
        ({"faults": [{"what": "html", "route": "widget.leaderboard"}]}, "widgets", "no JSON (text/html)"),
        ({"admin_id": "7"}, "login", "refused"),
    ],
)
def test_a_difference_is_found_and_what_it_means(
    switches: dict[str, Any],
    check: str,
    seen: str,
    accounts: list[str],
    verify: Command,
    sandbox: SandboxControl,
    tmp_path: Path,
) -> None:
    session().forget()
    sandbox.switches(**switches)

    ran = verify("--json", "--to", str(tmp_path / "findings.json"))

    found = findings(ran.out)[check]
    assert (ran.code, found["verdict"]) == (1, "differs"), found
    assert seen in found["seen"]
    assert found["means"]


@pytest.mark.parametrize(
    ("parameters", "seen"), [("query", "read: the query"), ("body", "read: the body"), ("either", "query and the body")]
)
def test_it_tells_where_the_parameters_of_a_list_are_read(
    parameters: str, seen: str, accounts: list[str], verify: Command, sandbox: SandboxControl, tmp_path: Path
) -> None:
    sandbox.switches(list_parameters=parameters)

    ran = verify("--json", "--to", str(tmp_path / "findings.json"))

    assert findings(ran.out)["accounts.parameters"]["seen"].endswith(seen)


def test_a_b2copy_that_does_not_answer_leaves_the_findings_and_the_session_as_they_are(
    active_environment: Environment, verify: Command, sandbox: SandboxControl, tmp_path: Path
) -> None:
    file, away = tmp_path / "findings.json", ("--host", "http://127.0.0.1:1")
    session().current()  # workers share a session of this B2COPY

    none = verify("--to", str(file), *away)
    file.write_text("good findings")
    unchanged = verify("--to", str(file), *away)

    assert none.code == unchanged.code == 1
    assert none.err == "B2COPY does not answer: nothing was compared, and no file was written\n"
    assert unchanged.err == f"B2COPY does not answer: nothing was compared, {file} is unchanged\n"
    assert "accepted" not in unchanged.out
    assert file.read_text() == "good findings"


@pytest.mark.parametrize(("name", "problem"), [("nosuch/v.json", "there is no folder"), ("", "is a folder")])
def test_a_file_that_cannot_be_written_is_refused_before_any_request(
    name: str, problem: str, active_environment: Environment, verify: Command, sandbox: SandboxControl, tmp_path: Path
) -> None:
    ran = verify("--to", str(tmp_path / name))

    assert ran.code == 2
    assert problem in ran.err
    assert sandbox.counters()["calls"] == {}


def test_the_findings_replace_a_file_that_a_link_names_and_leave_nothing_beside_it(
    active_environment: Environment, verify: Command, sandbox: SandboxControl, tmp_path: Path
) -> None:
    (tmp_path / "kept").mkdir()
    file, link = tmp_path / "kept" / "v.json", tmp_path / "v.json"
    file.write_text("old findings")
    file.chmod(0o640)
    link.symlink_to(file)

    assert verify("--to", str(link)).code == 0

    assert json.loads(file.read_text())["checks"]
    assert (link.is_symlink(), stat.S_IMODE(file.stat().st_mode)) == (True, 0o640)
    assert [path.name for path in file.parent.iterdir()] == ["v.json"]


def test_what_cannot_be_told_is_said_so(
    active_environment: Environment, verify: Command, sandbox: SandboxControl, tmp_path: Path
) -> None:
    ran = verify("--json", "--to", str(tmp_path / "findings.json"))
    away = verify("--json", "--to", str(tmp_path / "b"), "--host", "http://127.0.0.1:1")

    found = findings(ran.out)
    assert found["accounts.pages"]["seen"] == "it needs 2 accounts, and there are 0"
    assert {found[name]["verdict"] for name in ("accounts.pages", "accounts.order")} == {"not seen"}
    assert {one["verdict"] for one in findings(away.out).values()} == {"not seen"}
    assert (ran.code, away.code) == (0, 1)
    assert len(json.loads(ran.out)["not_checked"]) > 5
