"""Calls with a token on them, down to the bytes on the wire."""

import gzip
import json
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Configure, Member
from tests.http.calls import post
from tests.http.certificate import make_certificate
from tests.http.raw_server import OK, Wire
from tests.session.fleet import token_calls
from tests.support import PeakMemory, until
from worker.b2copy import B2Copy
from worker.b2copy.routes.statistics import OfAccount
from worker.errors import AccessRejected, B2CopyError, BadPayload, Unavailable, UnknownOutcome
from worker.http import Answer, event_loop
from worker.http import client as client_module
from worker.http.client import Http
from worker.operation import OnUnknown
from worker.sandbox.control_client import SandboxControl
from worker.session.shared_session import SharedSession
from worker.testbed.local_system import Environment

FEES = "/api/admin/fees/v2/fee/feeservice/processext"
PAYLOAD = {"account_login": "123456", "request_id": "w1"}
ACCOUNTS, ABSENT = "/api/v2/b2copy/accounts", "/api/v1/investment/widget/detail/absent"


@pytest.fixture
def http(member: Member, configure: Configure) -> Http:
    return Http({"service_admin": member()}, configure())


@pytest.fixture
def on_wire(wire: Wire, member: Member, configure: Configure) -> Callable[..., Http]:
    """Calls that go to the wire, which gives tokens too."""

    def made(**changes: Any) -> Http:
        settings = configure(**({"host": wire.url} | changes))
        return Http({"service_admin": member(settings)}, settings)

    return made


def test_a_call_carries_token_and_name_and_the_payload_as_json(wire: Wire, on_wire: Callable[..., Http]) -> None:
    answer = post(on_wire(), "/api/admin/x", {"name": "Zoë", "sum": "1.10"}, OnUnknown.STOP)

    head, _, body = wire.requests[-1].partition(b"\r\n\r\n")
    lines = head.decode().splitlines()
    assert lines[0] == "POST /api/admin/x HTTP/1.1"
    assert "Authorization: Bearer access-of-the-wire" in lines
    assert any(line.startswith("User-Agent: b2copy-sync/") for line in lines)
    assert json.loads(body) == {"name": "Zoë", "sum": "1.10"}
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"{}", "application/json")


def test_calls_share_kept_alive_connections(wire: Wire, on_wire: Callable[..., Http]) -> None:
    http = on_wire()

    for _ in range(5):
        post(http, "/api/admin/x", {})

    assert wire.connections == 2  # one for the login, one for all calls


def test_a_call_that_must_not_be_sent_twice_gets_a_connection_of_its_own(
    wire: Wire, on_wire: Callable[..., Http]
) -> None:
    http = on_wire()
    post(http, "/api/admin/x", {})

    for _ in range(3):
        post(http, "/api/admin/x", {}, OnUnknown.STOP)

    assert wire.connections == 2 + 3


def test_a_connection_that_was_idle_for_more_than_a_second_is_replaced(
    wire: Wire, on_wire: Callable[..., Http]
) -> None:
    http = on_wire()

    post(http, "/api/admin/x", {})
    time.sleep(1.3)
    post(http, "/api/admin/x", {})

    assert wire.connections == 3


@pytest.mark.parametrize("framing", [b"Content-Length: 90", b"Transfer-Encoding: chunked", b"X-Framed-By: the end"])
def test_a_body_that_comes_late_and_ends_the_connection_is_read_whole(
    wire: Wire, on_wire: Callable[..., Http], framing: bytes
) -> None:
    body = b" " * 90 if b"chunked" not in framing else b"5a\r\n" + b" " * 90 + b"\r\n0\r\n\r\n"

    def answer(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + framing + b"\r\n\r\n")
        for part in (body[:10], body[10:]):
            time.sleep(0.05)  # in packets of its own
            connection.sendall(part)
        return True

    wire.answer = answer
    http = on_wire()

    for _ in range(2):
        assert post(http, "/api/admin/x", {}).body == b" " * 90


class TestStaleConnections:
    """A server closes a kept-alive connection just as the next request goes out on it."""

    @pytest.fixture
    def stale(self, wire: Wire) -> None:
        seen: set[int] = set()

        def answer(connection: socket.socket, request: bytes) -> bool:
            if id(connection) in seen:
                return True
            seen.add(id(connection))
            connection.sendall(OK)
            return False

        wire.answer = answer

    @pytest.mark.failure_mode("F38")
    @pytest.mark.usefixtures("stale")
    def test_a_repeatable_call_recovers_once(self, wire: Wire, on_wire: Callable[..., Http]) -> None:
        http = on_wire()
        post(http, "/api/admin/x", {})

        assert post(http, "/api/admin/x", {}).status == 200
        assert len(wire.requests) == 1 + 3

    @pytest.mark.failure_mode("F38")
    @pytest.mark.usefixtures("stale")
    def test_any_other_call_does_not_meet_it(self, wire: Wire, on_wire: Callable[..., Http]) -> None:
        http = on_wire()
        post(http, "/api/admin/x", {})

        assert post(http, "/api/admin/x", {}, OnUnknown.STOP).status == 200
        assert len(wire.requests) == 1 + 2

    def test_a_fresh_connection_that_is_closed_is_not_tried_again(
        self, wire: Wire, on_wire: Callable[..., Http]
    ) -> None:
        wire.answer = lambda connection, request: True

        with pytest.raises(UnknownOutcome):
            post(on_wire(), "/api/admin/x", {})
        assert len(wire.requests) == 1 + 1

    def test_token_calls_do_not_meet_it(self, member: Member, sandbox: SandboxControl) -> None:
        sandbox.switches(drop_reused=True)
        session = member()

        outcomes = [session.renew(force=True, wait=15).outcome for _ in range(3)]

        assert outcomes == ["login", "refresh", "refresh"]


class TestDeadline:
    def test_a_server_that_falls_silent_midway_cannot_either(self, wire: Wire, on_wire: Callable[..., Http]) -> None:
        def answer(connection: socket.socket, request: bytes) -> None:
            time.sleep(0.9)
            connection.sendall(OK[:20])

        wire.answer = answer
        http = on_wire(call_deadline=1.0)

        started = time.monotonic()
        with pytest.raises(UnknownOutcome, match="no whole answer"):
            post(http, "/api/admin/x", {})
        assert 0.95 < time.monotonic() - started < 1.85

    @pytest.mark.parametrize("part", ["nothing", "head", "body"])
    def test_a_server_that_trickles_cannot_outlast_it(
        self, wire: Wire, on_wire: Callable[..., Http], part: str
    ) -> None:
        def answer(connection: socket.socket, request: bytes) -> None:
            whole = OK.replace(b"Length: 2", b"Length: 90") + b" " * 90
            at = {"nothing": 0, "head": 20, "body": whole.index(b"\r\n\r\n") + 4}[part]
            connection.sendall(whole[:at])
            while part != "nothing" and at < len(whole):
                time.sleep(0.05)
                connection.sendall(whole[at : at + 1])
                at += 1

        wire.answer = answer
        http = on_wire(call_deadline=0.5)

        started = time.monotonic()
        with pytest.raises(UnknownOutcome, match="no whole answer"):
            post(http, "/api/admin/x", {})
        assert 0.45 < time.monotonic() - started < 4.0

    def test_a_connection_that_is_never_accepted_cannot_either(self, on_wire: Callable[..., Http]) -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            waiting = [socket.socket() for _ in range(4)]
            for filler in waiting:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            http = on_wire(call_deadline=0.5, host=f"http://127.0.0.1:{full.getsockname()[1]}")

            started = time.monotonic()
            with pytest.raises(Unavailable, match="no connection"):
                http.reach()
            assert 0.45 < time.monotonic() - started < 10
            for filler in waiting:
                filler.close()


class TestAnswersThatAreNotWhole:
    def test_cut_at_any_byte_is_an_unknown_outcome(self, wire: Wire, on_wire: Callable[..., Http]) -> None:
        at = 0

        def answer(connection: socket.socket, request: bytes) -> bool:
            connection.sendall(OK[:at])
            connection.shutdown(socket.SHUT_WR)
            return True

        wire.answer = answer
        http = on_wire()
        for at in range(len(OK)):  # noqa: B007
            with pytest.raises(UnknownOutcome):
                post(http, "/api/admin/x", {})
        at = len(OK)
        assert post(http, "/api/admin/x", {}).status == 200

    def test_a_reset_is_an_unknown_outcome(self, http: Http, sandbox: SandboxControl) -> None:
        sandbox.faults({"what": "reset", "route": "api", "effect": "done"})

        with pytest.raises(UnknownOutcome, match="no whole answer"):
            post(http, FEES, PAYLOAD)

    def test_an_endless_answer_is_not_swallowed(self, http: Http, sandbox: SandboxControl) -> None:
        post(http, FEES, PAYLOAD)
        memory = PeakMemory()
        sandbox.faults({"what": "huge", "route": "api"})

        with pytest.raises(UnknownOutcome, match="longer than 1048576 bytes"):
            post(http, FEES, PAYLOAD)

        assert memory.grown_mb < 10

    def test_a_bomb_is_not_unpacked(self, wire: Wire, on_wire: Callable[..., Http]) -> None:
        bomb = gzip.compress(b" " * (50 << 20))
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
        wire.answer = lambda connection, request: connection.sendall(head + bomb)
        http = on_wire()
        memory = PeakMemory()

        with pytest.raises(UnknownOutcome, match="longer than"):
            post(http, "/api/admin/x", {})

        assert memory.grown_mb < 10


class TestWhereACallGoes:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirect_is_an_answer_and_not_followed(
        self, http: Http, wire: Wire, sandbox: SandboxControl, status: int
    ) -> None:
        sandbox.faults({"what": "status", "status": status, "route": "api", "location": wire.url})

        assert post(http, FEES, PAYLOAD).status == status
        assert wire.requests == []

    @pytest.mark.failure_mode("F39")
    def test_nothing_in_the_environment_changes_it(
        self,
        member: Member,
        configure: Configure,
        wire: Wire,
        sandbox: SandboxControl,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login somebody password else\ndefault login somebody password else\n")
        netrc.chmod(0o600)
        for name, value in {
            "NETRC": netrc,
            "HTTP_PROXY": wire.url,
            "http_proxy": wire.url,
            "ALL_PROXY": wire.url,
        }.items():
            monkeypatch.setenv(name, str(value))
        session = member()

        assert post(Http({"service_admin": session}, configure()), FEES, PAYLOAD).status == 200
        assert session.renew(force=True, wait=15).outcome == "refresh"

        assert wire.requests == []
        assert sandbox.counters()["unauthorized"] == 0

    @pytest.mark.parametrize(
        "path", ["@evil.example/", "//evil.example/", "x", "", "/a b", "/a?b=c", "/a/../b", "/a\r\nX: y", "/é"]
    )
    def test_a_path_cannot_lead_elsewhere(self, http: Http, sandbox: SandboxControl, path: str) -> None:
        with pytest.raises(BadPayload, match="not a path at B2COPY"):
            post(http, path, {})

        assert set(sandbox.counters()["calls"]) <= {"authexternalcrm"}

    @pytest.mark.parametrize("payload", [{"sum": float("nan")}, {"when": datetime.now(UTC)}])
    def test_what_is_not_json_is_not_sent(self, http: Http, payload: dict[str, Any]) -> None:
        with pytest.raises(BadPayload, match="JSON"):
            post(http, FEES, payload)

    def test_a_closed_port_is_unavailable(self, wire: Wire, on_wire: Callable[..., Http]) -> None:
        http = on_wire()
        post(http, "/api/admin/x", {})
        wire.__exit__(None, None, None)

        with pytest.raises(Unavailable, match="no connection"):
            until(lambda: post(http, "/api/admin/x", {}).status != 200)
        wire.__init__()  # type: ignore[misc]
        wire.__enter__()


def test_anybody_may_ask_whether_b2copy_is_there_and_what_time_it_is(http: Http, sandbox: SandboxControl) -> None:
    sandbox.switches(clock_offset=3600.0)

    answer = http.reach()

    assert abs((answer.server_time or 0) - time.time() - 3600) < 5
    assert "authexternalcrm" not in sandbox.counters()["calls"]


def test_an_answer_has_the_token_of_its_request_and_does_not_show_it(
    member: Member, configure: Configure, sandbox: SandboxControl
) -> None:
    session = member()

    answer = post(Http({"service_admin": session}, configure()), FEES, PAYLOAD)

    assert answer.token == session.current()
    assert answer.token.access not in repr((answer, [answer], answer.token))


class TestTls:
    @pytest.fixture
    def certificate(self, tmp_path: Path, wire: Wire) -> Path:
        path = tmp_path / "certificate.pem"
        wire.tls = make_certificate(path)
        return path

    def test_a_server_is_believed_only_with_a_certificate_we_trust(
        self, wire: Wire, on_wire: Callable[..., Http], certificate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host = wire.url.replace("http", "https")
        trusting = on_wire(host=host, ca_file=certificate)
        assert post(trusting, "/api/admin/x", {}).status == 200
        sent = len(wire.requests)
        monkeypatch.delenv("B2COPY_CA_FILE")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))  # not ours to obey

        with pytest.raises(Unavailable, match="certificate"):
            on_wire(host=host).reach()
        assert len(wire.requests) == sent


class TestRejectedTokens:
    @pytest.mark.failure_mode("F18")
    def test_the_second_try_and_all_later_ones_carry_the_new_token(
        self, environment: Environment, http: Http, sandbox: SandboxControl
    ) -> None:
        post(http, FEES, PAYLOAD)
        sandbox.revoke_all(refresh_too=False)
        sandbox.faults(
            {"what": "status", "status": 401, "route": "api", "next": 1}, {"what": "status", "route": "api", "next": 1}
        )

        assert post(http, FEES, PAYLOAD).status == 503
        assert post(http, FEES, PAYLOAD).status == 200

        counters = sandbox.counters()
        assert (counters["logins"], counters["refreshes"]) == (1, 1)

    @pytest.mark.failure_mode("F19")
    def test_a_server_that_refuses_every_token_is_asked_twice(self, http: Http, sandbox: SandboxControl) -> None:
        sandbox.faults({"what": "status", "status": 401, "route": "api"})

        with pytest.raises(AccessRejected) as refused:
            post(http, FEES, PAYLOAD)

        assert pickle.loads(pickle.dumps(refused.value)).status == 401
        counters = sandbox.counters()
        assert counters["calls"]["processext"] == 2
        assert counters["logins"] + counters["refreshes"] == 2

    def test_a_token_that_was_revoked_with_the_first_one_is_no_proof(
        self, member: Member, configure: Configure, sandbox: SandboxControl
    ) -> None:
        session, other = member(recheck=60.0), member()
        http = Http({"service_admin": session}, configure())
        post(http, FEES, PAYLOAD)
        # Stored, and not yet seen by us. Right after the login a renewal does nothing.
        until(lambda: other.renew(force=True, wait=15).outcome == "refresh")
        sandbox.revoke_all()

        assert post(http, FEES, PAYLOAD).status == 200
        assert sandbox.counters()["unauthorized"] == 2

    @pytest.mark.failure_mode("F20")
    def test_403_is_an_answer_and_renews_nothing(self, http: Http, sandbox: SandboxControl) -> None:
        sandbox.switches(fee_permission=False)

        assert post(http, FEES, PAYLOAD).status == 403
        counters = sandbox.counters()
        assert counters["calls"] == {"authexternalcrm": 1, "processext": 1}

    @pytest.mark.failure_mode("F23")
    def test_a_token_that_expires_on_its_way_is_replaced(
        self, configure: Configure, member: Member, sandbox: SandboxControl
    ) -> None:
        sandbox.switches(access_lifetime=1.0)  # B2COPY names no lifetime, so we assume 600 s
        session: SharedSession = member()
        http = Http({"service_admin": session}, configure())
        post(http, FEES, PAYLOAD)
        until(lambda: (session.state().age or 0) > 1.05)

        assert post(http, FEES, PAYLOAD).status == 200
        assert sandbox.counters()["unauthorized"] == 1
        assert 0 < (session.state().expires_in or 0) <= 60  # from now on no more than a tenth of 600 s is believed


class TestARouteThatRefusesNewTokensToo:
    """The service admin's token may open the fees and not the routes of generation 1: nothing documents it."""

    @pytest.fixture
    def refusing(self, sandbox: SandboxControl) -> SandboxControl:
        sandbox.switches(generation1_login="back_office")
        return sandbox

    def get(self, http: Http, path: str) -> Answer:
        return event_loop().run(http.request("GET", path, on_unknown=OnUnknown.REPEAT))

    def refuse(self, http: Http, path: str = ACCOUNTS) -> None:
        with pytest.raises(AccessRejected) as refused:
            self.get(http, path)
        assert refused.value.status == 401

    def test_it_ends_the_token_that_serves_the_others_once(self, http: Http, refusing: SandboxControl) -> None:
        for _ in range(4):
            self.refuse(http)
            assert post(http, FEES, PAYLOAD).status == 200

        assert token_calls(refusing) == 2
        assert refusing.counters()["unauthorized"] == 2 + 3

    def test_it_ends_no_token_that_cannot_be_replaced(
        self, member: Member, configure: Configure, refusing: SandboxControl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client_module, "RENEW_AGAIN_FIRST_S", 0.2)
        session, other = member(), Http({"service_admin": member()}, configure())
        http = Http({"service_admin": session}, configure())
        self.refuse(http)
        until(lambda: (session.state().age or 0.0) > 0.3)
        refusing.switches(latency={"token": 0.3})
        refusing.faults({"what": "status", "status": 503, "route": "token", "retry_after": "30"})

        self.refuse(http)  # and not "there is no session", which would let only probes of all routes through
        assert token_calls(refusing) == 2 + 2

        ends = time.monotonic() + 1.5  # each process reads the session again after a second
        while time.monotonic() < ends:
            assert post(http, FEES, PAYLOAD).status == post(other, FEES, PAYLOAD).status == 200
        assert token_calls(refusing) == 2 + 2

    def test_it_is_one_route_whatever_stands_in_its_path(
        self, http: Http, refusing: SandboxControl, configure: Configure
    ) -> None:
        client = B2Copy(http)
        for account in ("7", "8", "9"):
            with pytest.raises(AccessRejected):
                event_loop().run(client.account_detail(OfAccount(account=account)))
        assert token_calls(refusing) == 2

        with pytest.raises(AccessRejected):
            event_loop().run(client.account_statistics(OfAccount(account="7")))
        assert token_calls(refusing) == 3

    def test_it_renews_again_once_the_token_is_older_each_time_twice_as_old(
        self, http: Http, refusing: SandboxControl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def renewals() -> int:
            self.refuse(http)
            return token_calls(refusing)

        monkeypatch.setattr(client_module, "RENEW_AGAIN_FIRST_S", 1.0)
        began = time.monotonic()
        assert renewals() == renewals() == 2

        until(lambda: renewals() == 3)
        assert time.monotonic() - began >= 1.0
        assert http._refusing == {("service_admin", ACCOUNTS): 2.0}
        assert renewals() == 3

    def test_a_clock_that_was_set_back_keeps_no_token(self, http: Http, refusing: SandboxControl) -> None:
        self.refuse(http)

        with pytest.raises(AccessRejected):
            http._check_may_renew("a call", "service_admin", ACCOUNTS, 1.0)
        http._check_may_renew("a call", "service_admin", ACCOUNTS, -3600.0)

    def test_it_is_served_soon_after_b2copy_accepts_the_login_again(
        self, http: Http, refusing: SandboxControl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where all operations use one route, nobody else renews the session that B2COPY has ended meanwhile."""
        monkeypatch.setattr(client_module, "RENEW_AGAIN_FIRST_S", 0.5)
        self.refuse(http)
        refusing.switches(generation1_login="either")
        refusing.revoke_all(refresh_too=False)

        def is_served() -> bool:
            try:
                return self.get(http, ACCOUNTS).status == 200
            except AccessRejected:
                return False

        until(is_served, within=5.0)

    def test_its_401_renews_again_once_it_has_accepted_a_token(self, http: Http, refusing: SandboxControl) -> None:
        self.refuse(http)
        refusing.switches(generation1_login="either")
        assert self.get(http, ACCOUNTS).status == 200
        refusing.revoke_all(refresh_too=False)

        assert self.get(http, ACCOUNTS).status == 200
        assert token_calls(refusing) == 3

    def test_an_outage_of_the_route_does_not_show_that_it_accepts_tokens(
        self, http: Http, refusing: SandboxControl
    ) -> None:
        self.refuse(http)
        refusing.faults({"what": "status", "status": 503, "route": "accounts.list", "next": 1})
        assert self.get(http, ACCOUNTS).status == 503

        self.refuse(http)
        assert token_calls(refusing) == 2

    def test_a_session_that_b2copy_ends_meanwhile_is_renewed_by_the_other_routes(
        self, http: Http, refusing: SandboxControl
    ) -> None:
        self.refuse(http)
        refusing.revoke_all(refresh_too=False)

        self.refuse(http)
        assert post(http, FEES, PAYLOAD).status == 200
        assert token_calls(refusing) == 3

    def test_only_the_last_ones_are_remembered(
        self, http: Http, refusing: SandboxControl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client_module, "REFUSING_MAX", 2)
        routes = [ACCOUNTS, ABSENT, "/api/v1/investment/widget/leaderboard"]
        for route in routes:
            self.refuse(http, route)
        assert token_calls(refusing) == 4

        for route in routes[1:]:
            self.refuse(http, route)
        assert token_calls(refusing) == 4
        self.refuse(http, routes[0])
        assert token_calls(refusing) == 5


class TestATokenThatTheBodyOfA200Refuses:
    """Generation 1 has an envelope with a status of its own."""

    @pytest.fixture
    def enveloping(self, sandbox: SandboxControl) -> SandboxControl:
        sandbox.switches(generation1_refusals="envelope")
        return sandbox

    def ask(self, http: Http) -> int | None:
        with pytest.raises(B2CopyError) as refused:  # there is no such account
            event_loop().run(B2Copy(http).account_detail(OfAccount(account="7")))
        return refused.value.status

    def test_is_replaced_for_the_next_request_and_the_first_is_not_repeated(
        self, http: Http, enveloping: SandboxControl
    ) -> None:
        assert self.ask(http) == 404
        enveloping.revoke_all(refresh_too=False)

        assert [self.ask(http), self.ask(http)] == [401, 404]
        assert enveloping.counters()["calls"]["widget.detail"] == 3
        assert token_calls(enveloping) == 2

    def test_is_replaced_although_the_answer_came_late(self, http: Http, enveloping: SandboxControl) -> None:
        assert self.ask(http) == 404
        enveloping.revoke_all(refresh_too=False)
        enveloping.switches(latency={"widget.detail": 1.2})  # a process looks up its token again after a second

        assert [self.ask(http), self.ask(http)] == [401, 404]
        assert token_calls(enveloping) == 2

    def test_is_not_the_one_that_has_replaced_it_meanwhile(
        self, member: Member, configure: Configure, enveloping: SandboxControl
    ) -> None:
        session = member()
        http = Http({"service_admin": session}, configure())
        assert self.ask(http) == 404
        enveloping.revoke_all(refresh_too=False)
        enveloping.switches(latency={"widget.detail": 0.8})

        with ThreadPoolExecutor(1) as pool:
            refused = pool.submit(self.ask, http)
            until(lambda: enveloping.counters()["calls"]["widget.detail"] == 2)
            until(lambda: session.renew(force=True, wait=15).outcome == "refresh")
            newer = session.current()
            assert refused.result() == 401

        assert self.ask(http) == 404
        assert session.current() == newer
        assert token_calls(enveloping) == 2

    def test_is_replaced_once_if_the_route_refuses_new_ones_too(self, http: Http, enveloping: SandboxControl) -> None:
        enveloping.switches(generation1_login="back_office")

        assert [self.ask(http) for _ in range(4)] == [401] * 4
        assert post(http, FEES, PAYLOAD).status == 200
        assert token_calls(enveloping) == 2

    def test_is_an_access_that_was_refused_although_no_other_can_be_had(
        self, http: Http, enveloping: SandboxControl
    ) -> None:
        assert self.ask(http) == 404
        enveloping.revoke_all()
        enveloping.faults({"what": "status", "route": "token", "status": 503})

        assert self.ask(http) == 401

    def test_is_used_on_while_it_cannot_be_replaced_if_the_route_refuses_new_ones_too(
        self, http: Http, enveloping: SandboxControl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client_module, "RENEW_AGAIN_FIRST_S", 0.01)
        enveloping.switches(generation1_login="back_office")
        assert self.ask(http) == 401
        enveloping.faults({"what": "status", "route": "token", "status": 503, "retry_after": "30"})

        until(lambda: self.ask(http) == 401 and token_calls(enveloping) > 2)
        assert post(http, FEES, PAYLOAD).status == 200


@pytest.mark.failure_mode("F37")
def test_a_session_used_before_a_fork_works_after_it(environment: Environment, wire: Wire) -> None:
    variables = environment.variables | {"B2COPY_HOST": wire.url}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.http.forking"], env=variables, capture_output=True, text=True, timeout=30
    )

    assert ran.returncode == 0, ran.stderr
    processes = {
        json.loads(request.partition(b"\r\n\r\n")[2])["pid"] for request in wire.requests if b'"pid"' in request
    }
    assert len(processes) == 5  # the one before the fork, and four after it
    assert wire.connections == 1 + 5  # a login, and a connection of its own for each process
    assert os.getpid() not in processes
