"""The client against the sandbox: real HTTP, a real session."""

import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tests.conftest import Configure, Member
from tests.http.raw_server import Wire
from worker.b2copy import B2Copy, FeeState, FeeStatus
from worker.b2copy.client import SERVICE_ADMIN
from worker.b2copy.routes.account_list import LIST, AccountSearch
from worker.b2copy.routes.client_registration import INIT
from worker.b2copy.routes.fees import PROCESS
from worker.b2copy.routes.generic import route_to
from worker.b2copy.routes.statistics import DETAIL
from worker.errors import (
    AccessRejected,
    B2CopyError,
    Conflict,
    CredentialsRejected,
    NotFound,
    OtherLoginUnavailable,
    RateLimited,
    Rejected,
    Unavailable,
    UnknownOutcome,
)
from worker.http import Http, event_loop
from worker.instances import b2copy
from worker.operation import OnUnknown
from worker.sandbox.control_client import SandboxControl
from worker.settings import Settings
from worker.testbed.local_system import Environment

UPDATE = "/api/admin/clients/v2/client/clientservice/update"


ALL = ["/api/admin/*"]


def process_fees(client: B2Copy, login: str, request_id: str) -> FeeStatus:
    return event_loop().run(client.process_fees(login, request_id))


def call_repeatable(client: B2Copy) -> dict[str, Any]:
    return event_loop().run(client.send(route_to(UPDATE), {}, OnUnknown.REPEAT))


def answered(status: int, body: bytes = b"{}") -> bytes:
    return b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def call(client: B2Copy, path: str, payload: dict[str, Any]) -> dict[str, Any]:
    return event_loop().run(client.send(route_to(path), payload, OnUnknown.STOP))


@pytest.fixture
def client(active_environment: Environment) -> B2Copy:
    return b2copy()


def times(sandbox: SandboxControl, kind: str = "fees.process") -> list[int]:
    return [effect["times"] for effect in sandbox.effects(kind)]


def test_fees_that_are_not_due_succeed_at_once(client: B2Copy, sandbox: SandboxControl) -> None:
    assert process_fees(client, "7", "W1").state is FeeState.SUCCESS
    assert times(sandbox) == [1]


@pytest.mark.parametrize("status_as", ["number", "name"])
def test_a_run_is_polled_by_the_same_call(client: B2Copy, sandbox: SandboxControl, status_as: str) -> None:
    sandbox.switches(fees={"pending_polls": 2}, status_as=status_as)

    states = [process_fees(client, "7", "W1").state for _ in range(3)]

    assert states == [FeeState.PENDING, FeeState.PENDING, FeeState.SUCCESS]
    assert times(sandbox) == [1]


@pytest.mark.parametrize("where", ["error", "message", "details"])
def test_an_error_says_why(client: B2Copy, sandbox: SandboxControl, where: str) -> None:
    sandbox.switches(fees={"ends": "ERROR", "message": "no money"}, error_message_in=where)

    status = process_fees(client, "7", "W1")

    assert (status.state, status.message) == (FeeState.ERROR, "no money")


def test_an_unknown_login_is_not_found_or_an_error_inside_a_200(client: B2Copy, sandbox: SandboxControl) -> None:
    sandbox.switches(fees={"known": False})
    with pytest.raises(NotFound, match="account 7 is not found"):
        process_fees(client, "7", "W1")

    sandbox.switches(unknown_login="status_error")
    assert process_fees(client, "7", "W1").state is FeeState.ERROR
    assert times(sandbox) == []


@pytest.mark.parametrize("shape", ["grpc", "error", "errors", "text", "html", "empty"])
def test_a_missing_permission_is_reported_for_any_body(client: B2Copy, sandbox: SandboxControl, shape: str) -> None:
    sandbox.switches(fee_permission=False, error_shape=shape)

    with pytest.raises(AccessRejected) as caught:
        process_fees(client, "7", "W1")

    assert caught.value.status == 403
    assert shape == "empty" or "permission" in str(caught.value)


def test_asking_too_often_tells_when_to_come_back(client: B2Copy, sandbox: SandboxControl) -> None:
    sandbox.faults({"what": "status", "route": "processext", "status": 429, "retry_after": "7"})

    with pytest.raises(RateLimited) as caught:
        process_fees(client, "7", "W1")

    assert caught.value.retry_after == 7.0


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"what": "status", "status": 503}, Unavailable),
        ({"what": "status", "status": 500}, Unavailable),
        ({"what": "status", "status": 307, "location": "https://elsewhere.example/"}, Unavailable),
        ({"what": "status", "status": 302, "location": "https://elsewhere.example/"}, UnknownOutcome),
        ({"what": "status", "status": 422}, Rejected),
        ({"what": "html"}, UnknownOutcome),
        ({"what": "empty"}, UnknownOutcome),
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
        process_fees(client, "7", "W1")


def test_a_run_whose_status_is_left_out_is_pending(client: B2Copy, sandbox: SandboxControl) -> None:
    sandbox.switches(fees={"pending_polls": 1, "pending_status": 0})
    sandbox.faults({"what": "lacks", "route": "processext", "field": "status", "next": 1})

    assert [process_fees(client, "7", "W1").state for _ in range(2)] == [FeeState.PENDING, FeeState.SUCCESS]


def test_an_answer_cut_at_any_byte_is_never_a_success(client: B2Copy, sandbox: SandboxControl) -> None:
    whole = length_of_a_whole_answer(client, sandbox)

    for at in range(whole):
        sandbox.faults({"what": "cut", "route": "processext", "at": at})
        with pytest.raises((UnknownOutcome, Unavailable)):
            process_fees(client, "7", f"c{at:04}")

    sandbox.faults({"what": "cut", "route": "processext", "at": whole})
    assert process_fees(client, "7", "whole").state is FeeState.SUCCESS


def length_of_a_whole_answer(client: B2Copy, sandbox: SandboxControl) -> int:
    """By bisection: the shortest cut that still is an answer, to request ids of five characters."""
    low, high = 1, 1000
    while low < high:
        middle = (low + high) // 2
        sandbox.faults({"what": "cut", "route": "processext", "at": middle})
        if succeeds(partial(process_fees, client, "7", f"p{middle:04}")):
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
    assert call(client, UPDATE, {"id": 7}) == {"id": 7}
    assert times(sandbox, "call") == [1]


@pytest.mark.parametrize(
    "head", [b"204 No Content", b"205 Reset Content\r\nContent-Length: 0", b"200 OK\r\nContent-Length: 0"]
)
def test_a_call_that_is_answered_without_a_body_has_an_empty_result(
    wire: Wire, member: Member, configure: Configure, head: bytes
) -> None:
    settings = configure(host=wire.url)
    client = B2Copy(Http({"service_admin": member(settings)}, settings))
    wire.answer = lambda connection, request: connection.sendall(b"HTTP/1.1 " + head + b"\r\n\r\n")

    assert call(client, UPDATE, {"id": 7}) == {}
    with pytest.raises(UnknownOutcome):
        process_fees(client, "7", "W1")


def test_a_500_leaves_the_meaning_to_the_engine(client: B2Copy, sandbox: SandboxControl) -> None:
    sandbox.faults({"what": "status", "route": "call", "status": 500})

    with pytest.raises(Unavailable) as caught:
        call(client, UPDATE, {"id": 7})

    assert caught.value.status == 500


def test_a_group_of_routes_has_the_login_of_its_setting(settings: Settings) -> None:
    http = Http({}, settings)
    by_default = B2Copy(http)
    accounts_by_back_office = B2Copy(http, {"accounts": "back_office"})

    assert [by_default.login_of(route) for route in (PROCESS, LIST, DETAIL, INIT)] == [*[SERVICE_ADMIN] * 3, None]
    logins = [accounts_by_back_office.login_of(route) for route in (PROCESS, LIST, DETAIL)]
    assert logins == [SERVICE_ADMIN, "back_office", SERVICE_ADMIN]


def test_a_refused_login_stops_all_operations_only_if_it_is_the_service_admins(
    member: Member, settings: Settings, sandbox: SandboxControl
) -> None:
    sandbox.faults({"what": "status", "route": "authexternalcrm", "status": 401, "message": "not you"})
    session = member()
    client = B2Copy(Http({SERVICE_ADMIN: session, "back_office": session}, settings), {"accounts": "back_office"})

    with pytest.raises(CredentialsRejected):
        process_fees(client, "7", "W1")
    with pytest.raises(OtherLoginUnavailable, match="not you"):
        event_loop().run(client.accounts(AccountSearch()))


def test_a_login_that_a_route_names_and_that_is_not_set_makes_its_operations_wait(
    member: Member, settings: Settings
) -> None:
    client = B2Copy(Http({SERVICE_ADMIN: member()}, settings))
    by_back_office = replace(DETAIL, login="back_office")

    with pytest.raises(OtherLoginUnavailable, match="the login back_office is not set"):
        event_loop().run(client.send(by_back_office, {"account": "7"}, OnUnknown.REPEAT))


def test_secrets_that_the_server_repeats_in_json_are_not_quoted(
    wire: Wire, member: Member, configure: Configure
) -> None:
    """Encoders write / as \\/ and + as \\u002B."""
    settings = configure(host=wire.url)
    pair = b'{"accessToken": "acc/ess+canary", "refreshToken": "refresh-canary"}'
    wire.login = lambda connection, request: connection.sendall(answered(200, pair))
    text = b'{"message": "unknown: acc\\/ess\\u002Bcanary and s\\/3\\u002Bcanary"}'
    wire.answer = lambda connection, request: connection.sendall(answered(400, text))
    route = replace(route_to(UPDATE), secrets=("word",))
    client = B2Copy(Http({SERVICE_ADMIN: member(settings)}, settings))

    with pytest.raises(Rejected) as caught:
        event_loop().run(client.send(route, {"word": "s/3+canary"}, OnUnknown.STOP))

    assert caught.value.server_message == "unknown: [redacted] and [redacted]"


def test_the_package_has_nothing_but_what_it_names() -> None:
    from worker import b2copy as package

    assert package.B2Copy is B2Copy
    with pytest.raises(AttributeError, match="has no attribute 'Other'"):
        package.Other  # noqa: B018


class TestAFirstAnswerThatWasLost:
    """A kept-alive connection ends as the request goes out on it. It is sent again: what is learned from the second?"""

    @pytest.fixture
    def second_meets(self, wire: Wire, member: Member, configure: Configure) -> Callable[..., B2Copy]:
        """Return a client whose next request is read and not answered, and whose further ones get these answers."""

        def made(*answers: bytes) -> B2Copy:
            settings = configure(host=wire.url)
            client = B2Copy(Http({SERVICE_ADMIN: member(settings)}, settings))
            call_repeatable(client)
            coming = iter((b"", *answers))

            def answer(connection: socket.socket, request: bytes) -> bool:
                is_refresh = b"/refreshtoken" in request.split(b"\r\n")[0]
                connection.sendall(answered(401) if is_refresh else next(coming))
                return True

            wire.answer = answer
            return client

        return made

    @pytest.mark.parametrize("status", [307, 400, 403, 404, 408, 409, 425, 429, 500, 503])
    def test_a_refusal_proves_nothing(self, second_meets: Callable[..., B2Copy], status: int) -> None:
        with pytest.raises(UnknownOutcome, match=f"the second one proves nothing.*HTTP {status}"):
            call_repeatable(second_meets(answered(status)))

    def test_the_wait_that_a_refusal_asks_for_is_kept(self, second_meets: Callable[..., B2Copy]) -> None:
        with pytest.raises(UnknownOutcome) as caught:
            call_repeatable(second_meets(b"HTTP/1.1 429 x\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"))

        assert caught.value.retry_after == 7.0

    @pytest.mark.parametrize("login", [answered(403), answered(503)])
    def test_a_session_that_cannot_be_renewed_proves_nothing(
        self, wire: Wire, second_meets: Callable[..., B2Copy], login: bytes
    ) -> None:
        client = second_meets(answered(401))
        wire.login = lambda connection, request: connection.sendall(login)

        with pytest.raises(UnknownOutcome, match="the second one proves nothing"):
            call_repeatable(client)

    def test_two_refused_tokens_prove_nothing(self, second_meets: Callable[..., B2Copy]) -> None:
        with pytest.raises(UnknownOutcome, match="the second one proves nothing"):
            call_repeatable(second_meets(*[answered(401)] * 3))

    def test_an_answer_to_a_newer_token_is_the_answer(self, second_meets: Callable[..., B2Copy]) -> None:
        assert call_repeatable(second_meets(answered(401), answered(200, b'{"id": 7}'))) == {"id": 7}

    def test_a_refusal_after_an_answer_is_a_refusal(self, wire: Wire, second_meets: Callable[..., B2Copy]) -> None:
        client = second_meets()
        wire.answer = lambda connection, request: connection.sendall(answered(409))

        with pytest.raises(Conflict):
            call_repeatable(client)
