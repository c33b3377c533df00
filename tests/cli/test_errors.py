"""What goes wrong is a line or two on stderr, and an exit code."""

from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.operations import record_operation
from worker.cli.options import KIND_REASONS
from worker.ledger import Ledger
from worker.operation import FailureReason, WaitReason
from worker.testbed.local_system import Environment


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "W\udcff"], "the argument W\\udcff is not UTF-8"),
        (["statsu"], "b2copy-sync: No such command 'statsu'"),
        (["fees", "--account", "1"], "b2copy-sync fees: Missing option '--request-id'"),
        (["failed", "replay", "--why", " ", "W1"], "must not be empty: it is stored as evidence"),
        (["failed", "list", "--since", "yesterday"], "'yesterday' is neither a duration nor a date: write 2h, 3d, "),
        (["failed", "list", "--since", "2026-13-01"], "'2026-13-01' is no date"),
        (["failed", "replay", "--all", "--why", "x", "--rate", "0"], "'0' is no rate"),
        (["status", ""], "Invalid value for 'KEY': is empty: name an operation, for instance fees.process:W1"),
        (["list", "--state", "bogus"], "Invalid value for '--state': 'bogus' is not one of 'queued'"),
        (["migrate", "--by", " "], "must not be empty: it is stored as evidence"),
        (["metrics", "--listen", "nowhere"], "must be host:port, for instance 127.0.0.1:9465"),
        (["call", "/x", "--key", "1", "--payload", "[1]"], "must be a JSON object"),
    ],
)
def test_says_in_a_line_what_is_wrong_with_the_arguments(
    arguments: list[str], message: str, b2copy_sync: Command
) -> None:
    ran = b2copy_sync(*arguments)

    assert ran.code == 2
    assert message in ran.err
    assert ran.err.count("\n") == 1
    assert ran.out == ""


def test_names_the_misspelt_setting(b2copy_sync: Command) -> None:
    ran = b2copy_sync("migrate", B2COPY_DATABSE_URL="x")

    assert ran.code == 2
    assert ran.err == "B2COPY_DATABSE_URL is not a setting: did you mean B2COPY_DATABASE_URL?\n"


def test_an_empty_setting_is_said_to_be_empty(b2copy_sync: Command) -> None:
    ran = b2copy_sync("doctor", "--offline", B2COPY_KEY_ID="")

    assert ran.code == 2
    assert "B2COPY_KEY_ID must not be empty\n" in ran.out


@pytest.mark.parametrize("command", ["list", "failed list", "failed replay --why test"])
def test_names_the_kinds_when_a_kind_is_misspelt(b2copy_sync: Command, ledger: Ledger, command: str) -> None:
    ran = b2copy_sync(*command.split(), "--kind", "fees.proces")

    assert ran.code == 0
    assert ran.out in {"no operations that match\n", "no failed operations that match\n", "0 operations replayed\n"}
    assert ran.err.startswith("no kind is called fees.proces: there are fees.process, ")


def test_names_the_reasons_when_a_reason_is_misspelt(b2copy_sync: Command, ledger: Ledger) -> None:
    ran = b2copy_sync("list", "--reason", "no_sesion")

    assert ran.code == 2
    assert "--reason" in ran.err
    for reason in (*WaitReason, *FailureReason, *KIND_REASONS):
        assert f"'{reason}'" in ran.err


def test_says_that_no_batch_is_called_so(b2copy_sync: Command, ledger: Ledger) -> None:
    record_operation(ledger, batch="book")
    ran = b2copy_sync("list", "--batch", "bok")

    assert (ran.code, ran.out) == (5, "")
    assert ran.err == "no import or batch is called bok: `b2copy-sync import status` lists the imports\n"
    assert b2copy_sync("list", "--batch", "book", "--state", "failed").out == "no operations that match\n"


def test_never_makes_a_ledger_by_looking_for_one(b2copy_sync: Command, tmp_path: Path) -> None:
    ran = b2copy_sync("status", "W1", B2COPY_DATABASE_URL=f"sqlite:///{tmp_path}/typo.sqlite")

    assert ran.code == 2
    assert f"B2COPY_DATABASE_URL: there is no ledger at sqlite:///{tmp_path}/typo.sqlite" in ran.err
    assert "correct the URL, or run `b2copy-sync migrate`" in ran.err
    assert not (tmp_path / "typo.sqlite").exists()


def test_shows_no_password_when_the_database_is_unavailable(b2copy_sync: Command) -> None:
    ran = b2copy_sync("failed", "list", B2COPY_DATABASE_URL="postgresql://me:hunter2@127.0.0.1:1/crm")

    assert ran.code == 1
    assert ran.err.startswith("the ledger (B2COPY_DATABASE_URL) cannot be used: ")
    assert "hunter2" not in ran.err


def test_says_when_redis_is_unavailable(b2copy_sync: Command, environment: Environment) -> None:
    ran = b2copy_sync("session", "show", B2COPY_REDIS_URL="redis://127.0.0.1:1/0")

    assert (ran.code, ran.err) == (1, "Redis does not answer (ConnectionError)\n")
