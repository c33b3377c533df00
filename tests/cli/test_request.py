"""fees, call: ask, and wait for what becomes of it."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.operations import fail_operation, find_operation
from tests.support import until
from worker.ledger import Ledger, find, search
from worker.operation import WaitReason
from worker.sandbox.control_client import SandboxControl
from worker.testbed.processes import Process


def test_the_exit_code_tells_how_it_ended(
    b2copy_sync: Command, sandbox: SandboxControl, worker: Callable[..., Process], ledger: Ledger
) -> None:
    sandbox.switches(
        logins={
            "1": {"pending_polls": 3},
            "2": {"ends": "ERROR", "message": "no funds"},
            "3": {"until_finished": True},
        }
    )
    worker(B2COPY_FEES_POLL_FIRST="0.3")

    def fees(account: str, *more: str) -> tuple[int | None, str, str]:
        ran = b2copy_sync("fees", "--account", account, "--request-id", f"W{account}", "--wait", *more)
        return ran.code, ran.out.strip(), ran.err

    def poll_now(name: str) -> str:
        return str(b2copy_sync("status", name, "--poll-now", "--json").document["state"])

    paid = fees("1")
    refused = fees("2")
    b2copy_sync("fees", "--account", "3", "--request-id", "W3")
    until(lambda: find_operation(ledger, "W3").wait_reason == WaitReason.PENDING_AT_B2COPY)
    pending = fees("3", "--timeout", "0.2s")
    sandbox.finish_fees(request_id="W3")
    # Again, because a poll of before may be under way.
    until(lambda: poll_now("W3") == "succeeded", every=0.5)
    called = b2copy_sync(
        "call", "/api/admin/users/v2/user/userservice/tag", "--key", "C1", "--payload", '{"id": 7}', "--wait", "--json"
    )

    assert paid[:2] == (0, "fees.process:W1 succeeded")
    assert "waiting (pending_at_b2copy): B2COPY has not finished it" in paid[2]
    assert refused[:2] == (
        3,
        "fees.process:W2 failed (fee_error): B2COPY ended the fee run with an error: no funds",
    )
    assert "b2copy-sync failed replay fees.process:W2" in refused[2]
    assert pending[0] == 4
    assert "waiting (pending_at_b2copy): B2COPY has not finished it" in pending[1]
    assert (called.code, called.document["state"]) == (0, "succeeded")


def test_is_accepted_without_a_worker_and_without_redis(b2copy_sync: Command, ledger: Ledger) -> None:
    b2copy_sync("--help")  # the first command of a test run also imports everything
    began = time.monotonic()
    ran = b2copy_sync(
        "fees", "--account", "7", "--request-id", "W1", "--by", "ann", B2COPY_REDIS_URL="redis://127.0.0.1:1/0"
    )

    assert time.monotonic() - began < 10
    assert (ran.code, ran.out) == (0, "fees.process:W1 is accepted\n")
    assert "dispatch will repeat it" in ran.err
    operation = find(ledger, "fees.process:W1")
    assert operation is not None
    assert operation.requested_by == "ann"


def test_a_known_one_is_not_asked_for_again(b2copy_sync: Command, ledger: Ledger) -> None:
    fail_operation(ledger, "W1", message="account 7 is closed")

    same = b2copy_sync("fees", "--account", "7", "--request-id", "W1")
    other = b2copy_sync("fees", "--account", "8", "--request-id", "W1")

    assert same.code == 3
    assert "fees.process:W1 is known already" in same.out
    assert "failed (rejected): B2COPY refused it: account 7 is closed" in same.out
    assert other.code == 2
    assert '{"account_login":"7","request_id":"W1"}' in other.err
    assert '{"account_login":"8","request_id":"W1"}' in other.err


def test_an_operation_of_any_kind_is_requested_by_its_fields(b2copy_sync: Command, ledger: Ledger) -> None:
    fees = b2copy_sync("request", "fees.process", "account_login=101", "request_id=1e5", "--by", "ann")
    path = "path=/api/admin/users/v2/user/userservice/tag"
    call = b2copy_sync("request", "call", path, "key=C1", 'payload={"id": 7}', "repeatable=true", "--json")

    assert (fees.code, fees.out) == (0, "fees.process:1e5 is accepted\n")
    operation = find(ledger, "fees.process:1e5")
    assert operation is not None
    assert (operation.payload, operation.requested_by) == ({"account_login": "101", "request_id": "1e5"}, "ann")
    assert (call.code, call.document["key"], call.document["created"]) == (0, "call:C1", True)
    called = find(ledger, "call:C1")
    assert called is not None
    assert called.payload["payload"] == {"id": 7}
    assert called.on_unknown == "repeat"


def test_a_request_that_cannot_be_used_names_what_is_wrong(b2copy_sync: Command, ledger: Ledger) -> None:
    for arguments, message in (
        (["fee"], "'fee' is not a kind. There are: fees.process (account_login, request_id); clients.register ("),
        (["fees.process", "request_id=1"], "fees.process: account_login is missing"),
        (["fees.process", "login=1"], "login is not a field: there are account_login, request_id"),
        (["fees.process", "request_id"], "'request_id' must be NAME=VALUE"),
        (["fees.process", "account_login=", "request_id=1"], "fees.process: account_login is empty"),
        (["call", "path=/x", "key=C1"], "call: path: '/x' is not "),
        (["call", 'payload={"a": 1, "a": 2}'], "payload: 'a' is given twice"),
        (["call", 'payload={"a": 1e400}'], "payload: 1e400 has more digits than a JSON number keeps"),
    ):
        ran = b2copy_sync("request", *arguments)

        assert (ran.code, ran.out) == (2, "")
        assert message in ran.err
        assert ran.err.count("\n") == 1
    assert search(ledger) == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"a": "\xff"}', "not JSON: 'utf-8' codec can't decode byte 0xff"),
        (b"\xff\xfe{\0}\0", "not JSON: 'utf-8' codec can't decode"),
        (b'{"a": 1, "a": 2}', "not JSON: 'a' is given twice"),
        (b'{"a": 1e400}', "not JSON: 1e400 has more digits"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b"[" * 100_000, "not JSON: nested too deep"),
    ],
)
def test_a_payload_in_a_file_that_would_be_changed_is_refused(
    b2copy_sync: Command, ledger: Ledger, tmp_path: Path, content: bytes, problem: str
) -> None:
    file = tmp_path / "payload.json"
    file.write_bytes(content)

    ran = b2copy_sync("call", "/api/admin/users/v2/user/userservice/tag", "--key", "C1", "--payload", f"@{file}")

    assert (ran.code, ran.out) == (2, "")
    assert problem in ran.err
    assert ran.err.count("\n") == 1
    assert search(ledger) == []


def test_a_path_outside_the_admin_api_is_refused(b2copy_sync: Command, ledger: Ledger) -> None:
    ran = b2copy_sync("call", "/api/admin/auth/v2/admin/adminservice/refreshtoken", "--key", "C1")

    assert ran.code == 2
    assert find(ledger, "call:C1") is None


def test_a_timeout_without_wait_is_refused_and_requests_nothing(b2copy_sync: Command, ledger: Ledger) -> None:
    ran = b2copy_sync("fees", "--account", "7", "--request-id", "W1", "--timeout", "5")
    in_any_order = b2copy_sync("fees", "--timeout", "0.1s", "--wait", "--account", "7", "--request-id", "W2")

    assert ran.code == 2
    assert "--timeout: needs --wait" in ran.err.replace("'", "")
    assert find(ledger, "fees.process:W1") is None
    assert in_any_order.code == 4
