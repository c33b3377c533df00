"""The client against the sandbox: real HTTP, a real session."""

from collections.abc import Callable
from typing import Any

import pytest

from worker.app import b2copy
from worker.b2copy import B2Copy, FeeState
from worker.errors import (
    AccessRejected,
    B2CopyError,
    BadPayload,
    NotFound,
    RateLimited,
    Rejected,
    Unavailable,
    UnknownOutcome,
)
from worker.sandbox.control_client import SandboxControl
from worker.testbed.environment import Stage

UPDATE = "/api/admin/clients/v2/client/clientservice/update"


@pytest.fixture
def client(in_stage: Stage) -> B2Copy:
    return b2copy()


def times(sandbox: SandboxControl, kind: str = "fees.process") -> list[int]:
    return [effect["times"] for effect in sandbox.effects(kind)]


def test_fees_that_are_not_due_succeed_at_once(client: B2Copy, sandbox: SandboxControl) -> None:
    assert client.process_fees("7", "W1").state is FeeState.SUCCESS
    assert times(sandbox) == [1]


@pytest.mark.parametrize("status_as", ["number", "name"])
def test_a_run_is_polled_by_the_same_call(client: B2Copy, sandbox: SandboxControl, status_as: str) -> None:
    sandbox.switches(fees={"pending_polls": 2}, status_as=status_as)

    states = [client.process_fees("7", "W1").state for _ in range(3)]

    assert states == [FeeState.PENDING, FeeState.PENDING, FeeState.SUCCESS]
    assert times(sandbox) == [1]


@pytest.mark.parametrize("where", ["error", "message", "details"])
def test_an_error_says_why(client: B2Copy, sandbox: SandboxControl, where: str) -> None:
    sandbox.switches(fees={"ends": "ERROR", "words": "no money"}, error_words_in=where)

    status = client.process_fees("7", "W1")

    assert (status.state, status.words) == (FeeState.ERROR, "no money")


def test_an_unknown_login_is_not_found_or_an_error_inside_a_200(client: B2Copy, sandbox: SandboxControl) -> None:
    sandbox.switches(fees={"known": False})
    with pytest.raises(NotFound, match="account 7 is not found"):
        client.process_fees("7", "W1")

    sandbox.switches(unknown_login="status_error")
    assert client.process_fees("7", "W1").state is FeeState.ERROR
    assert times(sandbox) == []


@pytest.mark.parametrize("shape", ["grpc", "error", "errors", "text", "html", "empty"])
def test_a_missing_permission_is_told_whatever_the_body(client: B2Copy, sandbox: SandboxControl, shape: str) -> None:
    sandbox.switches(fee_permission=False, error_shape=shape)

    with pytest.raises(AccessRejected) as caught:
        client.process_fees("7", "W1")

    assert caught.value.status == 403
    assert shape == "empty" or "permission" in str(caught.value)


def test_asking_too_often_tells_when_to_come_back(client: B2Copy, sandbox: SandboxControl) -> None:
    sandbox.faults({"what": "status", "route": "processext", "status": 429, "retry_after": "7"})

    with pytest.raises(RateLimited) as caught:
        client.process_fees("7", "W1")

    assert caught.value.retry_after == 7.0


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"what": "status", "status": 503}, Unavailable),
        ({"what": "status", "status": 500}, Unavailable),
        ({"what": "status", "status": 302, "location": "https://elsewhere.example/"}, Unavailable),
        ({"what": "status", "status": 422}, Rejected),
        ({"what": "html"}, UnknownOutcome),
        ({"what": "empty"}, UnknownOutcome),
        ({"what": "lacks", "field": "status"}, UnknownOutcome),
        ({"what": "drop", "effect": "done"}, UnknownOutcome),
        ({"what": "reset", "effect": "done"}, UnknownOutcome),
        ({"what": "huge"}, UnknownOutcome),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "-".join(map(str, value.values())),
)
def test_what_goes_wrong_is_sorted_by_what_to_do(
    client: B2Copy, sandbox: SandboxControl, fault: dict[str, Any], error: type[B2CopyError]
) -> None:
    sandbox.faults({"route": "processext", **fault})

    with pytest.raises(error):
        client.process_fees("7", "W1")


def test_an_answer_cut_at_any_byte_is_never_a_success(client: B2Copy, sandbox: SandboxControl) -> None:
    whole = length_of_a_whole_answer(client, sandbox)

    for at in range(whole):
        sandbox.faults({"what": "cut", "route": "processext", "at": at})
        with pytest.raises((UnknownOutcome, Unavailable)):
            client.process_fees("7", f"c{at:04}")

    sandbox.faults({"what": "cut", "route": "processext", "at": whole})
    assert client.process_fees("7", "whole").state is FeeState.SUCCESS


def length_of_a_whole_answer(client: B2Copy, sandbox: SandboxControl) -> int:
    """By bisection: the shortest cut that still is an answer, to request ids of five characters."""
    low, high = 1, 1000
    while low < high:
        middle = (low + high) // 2
        sandbox.faults({"what": "cut", "route": "processext", "at": middle})
        if succeeds(lambda middle=middle: client.process_fees("7", f"p{middle:04}")):
            high = middle
        else:
            low = middle + 1
    assert 80 < low < 1000
    return low


def succeeds(call: Callable[[], Any]) -> bool:
    try:
        call()
    except B2CopyError:
        return False
    return True


def test_another_call_returns_what_was_answered(client: B2Copy, sandbox: SandboxControl) -> None:
    assert client.call(UPDATE, {"id": 7}) == {"id": 7}
    assert times(sandbox, "call") == [1]


def test_a_500_to_a_call_that_may_not_be_repeated_leaves_open_what_happened(
    client: B2Copy, sandbox: SandboxControl
) -> None:
    sandbox.faults({"what": "status", "route": "call", "status": 500})

    with pytest.raises(UnknownOutcome):
        client.call(UPDATE, {"id": 7})
    with pytest.raises(Unavailable):
        client.call(UPDATE, {"id": 7}, repeatable=True)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "https://elsewhere.example/api/admin/a/v1/b/c",
        "//elsewhere.example/api/admin/a/v1/b/c",
        "/api/admin/auth/v2/admin/adminservice/authexternalcrm",
        "/api/admin/auth/v2/admin/adminservice/refreshtoken",
        "/api/admin/clients/v2/../../auth/v2/admin",
        "/api/admin/clients/v2/client/clientservice/update?x=1",
        "/api/admin/clients/v2/client/clientservice/update\n",
        "/api/v2/b2copy/accounts",
    ],
)
def test_a_path_that_is_not_one_of_the_admin_api_is_refused(client: B2Copy, path: str) -> None:
    with pytest.raises(BadPayload, match="path"):
        client.call(path, {})
