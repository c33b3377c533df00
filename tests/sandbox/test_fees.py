"""Fee runs at the sandbox, and their entries in the effect log."""

from typing import Any

import pytest

from tests.sandbox.caller import Caller
from tests.support import until
from worker.sandbox.control_client import SandboxControl
from worker.sandbox.routes import PROCESS

PENDING, SUCCESS, ERROR = 1, 2, 3


@pytest.fixture
def token(caller: Caller) -> str:
    return caller.pair()[0]


def statuses(caller: Caller, token: str, calls: int, login: str = "1001") -> list[Any]:
    return [caller.fees(token, login).json()["status"] for _ in range(calls)]


def test_success_is_answered_at_once_when_no_fee_is_due(caller: Caller, token: str) -> None:
    assert caller.fees(token).json() == {"account_login": "1001", "request_id": "W1", "status": SUCCESS}


def test_a_run_is_pending_for_some_polls(caller: Caller, token: str, sandbox: SandboxControl) -> None:
    sandbox.switches(fees={"pending_polls": 2})

    assert statuses(caller, token, 4) == [PENDING, PENDING, SUCCESS, SUCCESS]


def test_a_poll_starts_nothing(caller: Caller, token: str, sandbox: SandboxControl) -> None:
    statuses(caller, token, 3)
    caller.fees(token, request_id="W2")

    assert [(effect["key"], effect["times"]) for effect in sandbox.effects("fees.process")] == [
        ("1001/W1", 1),
        ("1001/W2", 1),
    ]


def test_a_run_is_pending_for_some_time(caller: Caller, token: str, sandbox: SandboxControl) -> None:
    sandbox.switches(fees={"pending_seconds": 0.2})

    assert statuses(caller, token, 1) == [PENDING]
    until(lambda: statuses(caller, token, 1) == [SUCCESS])


def test_a_run_is_pending_until_finished(caller: Caller, token: str, sandbox: SandboxControl) -> None:
    sandbox.switches(fees={"until_finished": True})
    assert statuses(caller, token, 2) == [PENDING, PENDING]

    assert sandbox.finish_fees("1001", "W1", "ERROR", "no money") == 1

    answer = caller.fees(token).json()
    assert (answer["status"], answer["error"]) == (ERROR, "no money")


def test_each_login_has_its_own_rule(caller: Caller, token: str, sandbox: SandboxControl) -> None:
    sandbox.switches(logins={"7": {"ends": "ERROR", "message": "blocked"}, "8": {"known": False}})

    assert caller.fees(token, "7").json()["error"] == "blocked"
    assert caller.fees(token, "8").status_code == 404
    assert caller.fees(token, "9").json()["status"] == SUCCESS
    assert {effect["key"] for effect in sandbox.effects()} == {"7/W1", "9/W1"}


def test_an_unknown_login_may_be_an_error_inside_a_200(caller: Caller, token: str, sandbox: SandboxControl) -> None:
    sandbox.switches(fees={"known": False}, unknown_login="status_error", error_message_in="message")

    answer = caller.fees(token)

    assert (answer.status_code, answer.json()["status"], answer.json()["message"]) == (
        200,
        ERROR,
        "account is not found",
    )


def test_an_error_stays(caller: Caller, token: str, sandbox: SandboxControl) -> None:
    sandbox.switches(fees={"ends": "ERROR"})

    assert statuses(caller, token, 3) == [ERROR, ERROR, ERROR]


def test_an_error_may_be_restarted_by_the_same_request(caller: Caller, token: str, sandbox: SandboxControl) -> None:
    sandbox.switches(fees={"ends": "ERROR", "pending_polls": 1}, error_restarts=True)

    assert statuses(caller, token, 4) == [PENDING, ERROR, PENDING, SUCCESS]
    assert sandbox.effects(at_least=2)[0]["times"] == 2


@pytest.mark.parametrize(
    ("switches", "status"),
    [
        ({"status_as": "name"}, "FEE_PROCESS_STATUS_SUCCESS"),
        ({"fees": {"pending_polls": 1, "pending_status": 0}}, 0),
        ({"fees": {"pending_polls": 1, "pending_status": "FEE_PROCESS_STATUS_QUEUED"}}, "FEE_PROCESS_STATUS_QUEUED"),
    ],
)
def test_a_status_may_be_a_name_or_unknown(
    caller: Caller, token: str, sandbox: SandboxControl, switches: dict[str, Any], status: Any
) -> None:
    sandbox.switches(**switches)

    assert statuses(caller, token, 1) == [status]


@pytest.mark.parametrize(
    "body",
    [{}, [], {"account_login": "1"}, {"account_login": 1, "request_id": "W"}, {"account_login": "", "request_id": "W"}],
)
def test_both_fields_must_be_strings(caller: Caller, token: str, sandbox: SandboxControl, body: Any) -> None:
    assert caller.post(PROCESS, body, token).status_code == 400
    assert sandbox.effects() == []


@pytest.mark.parametrize(
    ("switches", "one", "other"),
    [
        ({"fee_permission": False}, 403, 403),
        ({"access": False}, 403, 403),
        ({"logins": {"7": {"permitted": False}}}, 403, 200),
    ],
)
def test_fees_may_be_forbidden_to_all_or_for_one_login(
    caller: Caller, token: str, sandbox: SandboxControl, switches: dict[str, Any], one: int, other: int
) -> None:
    sandbox.switches(**switches)

    assert [caller.fees(token, login).status_code for login in ("7", "8")] == [one, other]


def test_without_the_fee_permission_other_calls_succeed(caller: Caller, token: str, sandbox: SandboxControl) -> None:
    sandbox.switches(fee_permission=False)

    assert caller.post("/api/admin/clients/v2/client/clientservice/update", {}, token).status_code == 200


@pytest.mark.parametrize("path", [f"{PROCESS}/x", f"{PROCESS}/", "/api/admin//v2/fee/feeservice/list"])
def test_a_path_that_is_longer_than_that_of_a_method_is_none(
    caller: Caller, token: str, sandbox: SandboxControl, path: str
) -> None:
    assert caller.post(path, {}, token).status_code == 404
    assert sandbox.effects() == []


def test_another_call_takes_effect_each_time(caller: Caller, token: str, sandbox: SandboxControl) -> None:
    path = "/api/admin/clients/v2/client/clientservice/update"
    for _ in range(2):
        assert caller.post(path, {"id": 7, "name": "Ada"}, token).json() == {"id": 7, "name": "Ada"}

    (effect,) = sandbox.effects("call")
    assert (effect["key"], effect["times"]) == (f'{path} {{"id": 7, "name": "Ada"}}', 2)
    assert effect["body"] == {"id": 7, "name": "Ada"}
    assert sandbox.counters()["effects"] == {"call": {"distinct": 1, "times": 2, "more_than_once": 1}}
