"""Where the output goes: another encoding than UTF-8, or a stream that is closed."""

import json
import subprocess
import sys

import pytest

from tests.operations import fail_operation, find_operation, record_operation
from worker.ledger import Ledger
from worker.testbed.local_system import Environment


def shell(environment: Environment, arguments: str, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    command = f"{sys.executable} -m worker.cli {arguments}"
    return subprocess.run(command, shell=True, env=environment.variables | variables, capture_output=True, check=False)


def test_a_json_document_is_whole_in_any_encoding(environment: Environment, ledger: Ledger) -> None:
    fail_operation(ledger, message="счёт Müller не найден")

    ran = shell(environment, "status W1 --json", PYTHONIOENCODING="latin-1")

    assert json.loads(ran.stdout.decode("latin-1"))["server_message"] == "счёт Müller не найден"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [("status W1 >&-", 0), ("status W9 2>&-", 5), ("fees --account 7 --request-id W2 --json >&- 2>&-", 0)],
)
def test_a_closed_stream_changes_no_exit_code(
    environment: Environment, ledger: Ledger, arguments: str, code: int
) -> None:
    record_operation(ledger)

    ran = shell(environment, arguments)

    assert (ran.returncode, b"Traceback" in ran.stderr) == (code, False)


@pytest.mark.parametrize("arguments", ["status W1", "status W1 --json", "status", "list"])
def test_a_full_disk_behind_the_output_is_not_said_to_be_the_ledgers(
    environment: Environment, ledger: Ledger, arguments: str
) -> None:
    record_operation(ledger)

    ran = shell(environment, f"{arguments} > /dev/full")

    assert ran.stderr.decode() == "the output cannot be written: No space left on device\n"
    assert ran.returncode == 1


@pytest.mark.parametrize("option", ["", "--json"])
def test_a_request_whose_answer_cannot_be_written_says_that_it_is_accepted(
    environment: Environment, ledger: Ledger, option: str
) -> None:
    ran = shell(environment, f"fees --account 7 --request-id W2 {option} > /dev/full")

    assert ran.stderr.decode().splitlines() == [
        "the output cannot be written: No space left on device",
        "fees.process:W2 is accepted: b2copy-sync status fees.process:W2",
    ]
    assert ran.returncode == 1
    assert find_operation(ledger, "W2").state == "queued"
