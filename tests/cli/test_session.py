"""session show, renew, forget: and no token anywhere."""

from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from tests.cli.conftest import Command
from worker.ledger import Ledger
from worker.sandbox.control_client import SandboxControl
from worker.settings import LOGIN_FIELDS


def test_renews_shows_and_forgets_the_shared_session(b2copy_sync: Command, sandbox: SandboxControl) -> None:
    none = b2copy_sync("session", "show")
    login = b2copy_sync("session", "renew")
    again = b2copy_sync("session", "renew")
    shown = b2copy_sync("session", "show", "--json")
    words = b2copy_sync("session", "show")
    forgotten = b2copy_sync("session", "forget")
    gone = b2copy_sync("session", "show", "--json")

    assert "none: the next call logs in" in none.out
    assert "renewed by a login" in login.out
    assert f"generation {shown.document['generation']}: renewed with the refresh token" in again.out
    assert shown.document["expires_in_s"] > 0
    assert "made by        a refresh with key test-key" in words.out
    assert "is forgotten: the next call logs in" in forgotten.out
    assert gone.document["generation"] is None
    assert [call["route"] for call in sandbox.token_calls()] == ["authexternalcrm", "refreshtoken"]
    tokens = {pair[name] for pair in sandbox.pairs() for name in ("access", "refresh")}
    printed = "".join(ran.out + ran.err for ran in (login, again, shown, words, forgotten))
    assert len(tokens) == 4
    assert [token for token in tokens if token in printed] == []


def test_a_refused_login_is_shown_in_b2copys_words(b2copy_sync: Command) -> None:
    ran = b2copy_sync("session", "renew", B2COPY_ADMIN_ID="7")

    assert ran.code == 1
    assert "admin_id is not a service admin" in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("command", ["doctor", "verify", "status"])
def test_no_command_that_tells_of_the_session_prints_what_the_session_logs(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path, command: str
) -> None:
    b2copy_sync("session", "renew")
    b2copy_sync("session", "renew")  # by a refresh: after a login doctor would have to wait for the other host
    another_key = tmp_path / "another.key"
    another_key.write_bytes(Fernet.generate_key())
    another_key.chmod(0o600)
    words = ("verify", "--to", str(tmp_path / "findings.json")) if command == "verify" else (command,)

    ran = b2copy_sync(*words, B2COPY_STORAGE_KEY_FILE=str(another_key))

    assert ran.code == 0
    assert "no storage key opens" not in ran.err


def test_help_leaves_the_list_of_logins_to_doctor(b2copy_sync: Command) -> None:
    shown = b2copy_sync("session", "show", "--help").out

    assert "doctor" in shown
    others = LOGIN_FIELDS.keys() - {"service_admin"}  # which is the default
    assert [login for login in others if login in shown] == []
