"""The sandbox's faults, as a caller sees them."""

import time
from typing import Any

import pytest
import requests

from tests.sandbox.caller import Caller
from tests.support import until
from worker.sandbox.control_client import SandboxControl
from worker.sandbox.routes import PROCESS

FEES = b'{"account_login": "1001", "request_id": "W1"}'


@pytest.fixture
def token(caller: Caller) -> str:
    return caller.pair()[0]


def started(sandbox: SandboxControl) -> bool:
    return bool(sandbox.effects("fees.process", "1001/W1"))


class TestStatus:
    def test_is_answered_to_the_next_calls_of_a_route(
        self, caller: Caller, token: str, sandbox: SandboxControl
    ) -> None:
        sandbox.faults({"what": "status", "status": 503, "route": "processext", "next": 2})

        assert [caller.fees(token).status_code for _ in range(3)] == [503, 503, 200]
        assert sandbox.counters()["statuses"]["processext"] == {"503": 2, "200": 1}

    def test_two_equal_ones_concern_one_call_each(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        once = {"what": "status", "status": 503, "next": 1}
        sandbox.faults(once, once)

        assert [caller.fees(token).status_code for _ in range(3)] == [503, 503, 200]

    def test_is_answered_to_token_routes_alone(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        sandbox.faults({"what": "status", "status": 401, "route": "token"})

        assert caller.log_in().status_code == 401
        assert caller.fees(token).status_code == 200

    def test_is_answered_to_a_share_of_the_calls(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        sandbox.faults({"what": "status", "share": 0.5})

        assert {caller.fees(token).status_code for _ in range(60)} == {200, 503}

    def test_is_answered_to_one_record_alone(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        sandbox.faults({"what": "status", "status": 400, "match": "poison"})

        assert caller.fees(token, request_id="poison").status_code == 400
        assert caller.fees(token).status_code == 200

    def test_may_have_a_retry_after_or_a_location(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        sandbox.faults({"what": "status", "status": 429, "retry_after": "7", "next": 1})
        assert caller.fees(token).headers["Retry-After"] == "7"

        sandbox.faults({"what": "status", "status": 307, "location": "http://127.0.0.1:9/"})
        assert caller.fees(token).headers["Location"] == "http://127.0.0.1:9/"

    @pytest.mark.parametrize(("effect", "took_effect"), [("none", False), ("done", True)])
    def test_may_hide_that_the_call_was_carried_out(
        self, caller: Caller, token: str, sandbox: SandboxControl, effect: str, took_effect: bool
    ) -> None:
        sandbox.faults({"what": "status", "effect": effect})

        assert caller.fees(token).status_code == 503
        assert started(sandbox) is took_effect

    @pytest.mark.parametrize(
        ("shape", "body"),
        [
            ("grpc", b'{"code": 14, "message": "gone", "details": []}'),
            ("message", b'{"message": "gone"}'),
            ("error", b'{"error": "gone"}'),
            ("errors", b'{"errors": [{"code": "503", "message": "gone"}]}'),
            ("text", b"gone"),
            ("html", b"<html><head><title>503</title></head><body><h1>gone</h1></body></html>"),
            ("empty", b""),
        ],
    )
    def test_comes_in_many_shapes(
        self, caller: Caller, token: str, sandbox: SandboxControl, shape: str, body: bytes
    ) -> None:
        sandbox.switches(error_shape=shape, faults=[{"what": "status", "message": "gone"}])

        assert caller.fees(token).content == body


class TestLostAnswers:
    @pytest.mark.parametrize("what", ["drop", "reset"])
    @pytest.mark.parametrize(("effect", "took_effect"), [("none", False), ("done", True)])
    def test_a_connection_ends_before_or_after_the_effect(
        self, caller: Caller, token: str, sandbox: SandboxControl, what: str, effect: str, took_effect: bool
    ) -> None:
        sandbox.faults({"what": what, "effect": effect, "next": 1})

        with pytest.raises(requests.ConnectionError):
            caller.fees(token)

        assert started(sandbox) is took_effect
        assert caller.fees(token).status_code == 200

    def test_a_reset_is_no_orderly_end(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        sandbox.faults({"what": "drop", "next": 1})
        assert caller.raw(PROCESS, FEES, token) == b""

        sandbox.faults({"what": "reset", "next": 1})
        with pytest.raises(ConnectionResetError):
            caller.raw(PROCESS, FEES, token)

    def test_an_effect_lands_after_its_answer_was_lost(
        self, caller: Caller, token: str, sandbox: SandboxControl
    ) -> None:
        sandbox.faults({"what": "drop", "effect": "late", "seconds": 0.5, "next": 1})

        with pytest.raises(requests.ConnectionError):
            caller.fees(token)

        assert not started(sandbox)
        until(lambda: started(sandbox))

    def test_an_answer_never_comes(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        sandbox.faults({"what": "silence", "effect": "done"})

        with pytest.raises(requests.ReadTimeout):
            caller.post(PROCESS, {"account_login": "1001", "request_id": "W1"}, token, timeout=0.2)

        assert started(sandbox)

    def test_the_rotated_pair_is_lost(self, caller: Caller, sandbox: SandboxControl) -> None:
        _, refresh = caller.pair()
        sandbox.faults({"what": "drop", "effect": "done", "route": "refreshtoken", "next": 1})

        with pytest.raises(requests.ConnectionError):
            caller.refresh(refresh)

        assert sandbox.counters()["refreshes"] == 1
        assert sandbox.token_calls()[-1]["status"] == 0

    def test_an_unavailable_server_refuses_connections_and_keeps_its_state(
        self, caller: Caller, token: str, sandbox: SandboxControl
    ) -> None:
        caller.fees(token)

        sandbox.go_away(0.5)

        def answered() -> int:
            try:
                return caller.fees(token).status_code
            except requests.ConnectionError:
                return 0

        until(lambda: answered() == 0)
        until(lambda: answered() == 200)
        assert sandbox.effects()[0]["times"] == 1


class TestWrongAnswers:
    def test_an_answer_is_cut_at_any_byte(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        whole = caller.raw(PROCESS, FEES, token).partition(b"\r\n\r\n")[2]
        sandbox.faults({"what": "cut"})
        middle = caller.raw(PROCESS, FEES, token)
        sandbox.faults({"what": "cut", "at": 20})
        head = caller.raw(PROCESS, FEES, token)

        assert whole.startswith(middle.partition(b"\r\n\r\n")[2])
        assert 0 < len(middle.partition(b"\r\n\r\n")[2]) < len(whole)
        assert len(head) == 20

    def test_an_answer_trickles(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        sandbox.faults({"what": "trickle", "seconds": 0.002})
        started_at = time.monotonic()

        raw = caller.raw(PROCESS, FEES, token)

        assert raw.endswith(b'"status":2}')
        assert time.monotonic() - started_at >= 0.002 * len(raw)

    @pytest.mark.parametrize(
        ("fault", "start"),
        [({"what": "html"}, "<html>"), ({"what": "empty"}, ""), ({"what": "lacks", "field": "status"}, "{")],
    )
    def test_a_200_is_not_what_it_should_be(
        self, caller: Caller, token: str, sandbox: SandboxControl, fault: dict[str, Any], start: str
    ) -> None:
        sandbox.faults(fault)

        answer = caller.fees(token)

        assert answer.status_code == 200
        assert answer.text.startswith(start)
        assert "status" not in answer.text

    def test_an_answer_has_no_content(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        sandbox.faults({"what": "no_content", "effect": "done", "next": 1})

        answer = caller.fees(token)

        assert (answer.status_code, answer.content) == (204, b"")
        assert started(sandbox)
        assert caller.fees(token).status_code == 200

    def test_a_pair_may_lack_its_refresh_token(self, caller: Caller, sandbox: SandboxControl) -> None:
        sandbox.faults({"what": "lacks", "field": "refreshToken", "route": "token"})

        assert set(caller.log_in().json()) == {"accessToken"}

    def test_an_answer_is_huge(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        sandbox.faults({"what": "huge"})
        headers = {"Authorization": f"Bearer {token}"}

        with requests.post(caller.base_url + PROCESS, data=FEES, headers=headers, stream=True, timeout=5) as answer:
            assert int(answer.headers["Content-Length"]) > 64 << 20


class TestConnections:
    def test_an_idle_connection_is_closed(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        sandbox.switches(idle_timeout=0.1)
        started_at = time.monotonic()

        raw = caller.raw(PROCESS, FEES, token, keep=True)

        assert raw.endswith(b'"status":2}')
        assert 0.1 <= time.monotonic() - started_at < 10

    def test_a_reused_connection_is_closed(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        sandbox.switches(drop_reused=True)
        with requests.Session() as fresh:
            caller.http = fresh
            assert caller.fees(token).status_code == 200

            with pytest.raises(requests.ConnectionError):
                caller.fees(token)

            assert caller.fees(token).status_code == 200


class TestRateAndLatency:
    @pytest.mark.parametrize("retry_after", ["3", None])
    def test_calls_above_the_rate_are_refused_with_or_without_retry_after(
        self, caller: Caller, token: str, sandbox: SandboxControl, retry_after: str | None
    ) -> None:
        sandbox.switches(rate_limit=2, rate_limit_retry_after=retry_after)

        answers = [caller.fees(token) for _ in range(6)]

        refused = [answer for answer in answers if answer.status_code == 429]
        assert answers[0].status_code == 200
        assert refused
        assert {answer.headers.get("Retry-After") for answer in refused} == {retry_after}

    def test_latency_is_set_by_route(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        sandbox.switches(latency={"processext": 1.0, "*": 0.0})

        assert caller.fees(token).elapsed.total_seconds() >= 1.0
        assert caller.log_in().elapsed.total_seconds() < 1.0


class TestControl:
    @pytest.mark.parametrize(
        "changes",
        [{"acces_lifetime": 3}, {"access_lifetime": -1}, {"faults": [{"what": "flood"}]}, {"fees": {"polls": 2}}],
    )
    def test_an_unknown_switch_is_refused(self, sandbox: SandboxControl, changes: dict[str, Any]) -> None:
        before = sandbox.switches()

        with pytest.raises(requests.HTTPError, match=next(iter(changes))):
            sandbox.switches(**changes)

        assert sandbox.switches() == before

    def test_reset_clears_the_state(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        sandbox.switches(access_lifetime=5)
        sandbox.withdraw_key(caller.keys.key_id)
        caller.fees(token)

        sandbox.reset()

        assert sandbox.effects() == sandbox.pairs() == sandbox.token_calls() == []
        assert sandbox.switches()["access_lifetime"] == 900
        assert sandbox.counters()["calls"] == {}
        assert caller.log_in().status_code == 200
        assert caller.fees(token).status_code == 401

    def test_counts_calls_by_route(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        caller.fees(token)
        caller.post("/nowhere", {}, token)

        assert sandbox.counters()["calls"] == {"authexternalcrm": 1, "processext": 1, "unknown": 1}
