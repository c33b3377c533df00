"""Logging in and refreshing at the sandbox."""

import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.sandbox.caller import Caller
from tests.support import until
from worker.sandbox.control_client import SandboxControl
from worker.sandbox.routes import AUTH, PROCESS, REFRESH
from worker.testbed.keys import new_key_pair


class TestAssertion:
    def test_opens_a_session(self, caller: Caller, sandbox: SandboxControl) -> None:
        access, _ = caller.pair()

        assert caller.fees(access).status_code == 200
        assert sandbox.counters()["logins"] == 1

    @pytest.mark.parametrize(
        ("claims", "message"),
        [
            ({"admin_id": "42"}, "admin_id must be integer"),
            ({"admin_id": True}, "admin_id must be integer"),
            ({"admin_id": 43}, "not a service admin"),
            ({"admin_id": None}, "missing claims: admin_id"),
            ({"device_ip": "10.0.0.1"}, "not the address of the request"),
            ({"device_ip": "somewhere"}, "must be an IP address"),
            ({"key_id": "127.0.0.1"}, "not registered"),
            ({"key_id": None}, "not registered"),
            ({"iss": None}, "missing claims: iss"),
            ({"iat": None}, "missing claims: iat"),
            ({"aud": "b2copy"}, "unexpected claims: aud"),
        ],
    )
    def test_is_refused_when_a_claim_is_not_as_documented(
        self, caller: Caller, sandbox: SandboxControl, claims: dict[str, Any], message: str
    ) -> None:
        refused = caller.log_in(**claims)

        assert refused.status_code == 401
        assert message in refused.json()["message"]
        assert sandbox.counters()["logins"] == 0

    @pytest.mark.parametrize(
        ("after_s", "message"),
        [
            ({"iat": 600, "exp": 900}, "iat is in the future"),
            ({"iat": -900, "exp": -600}, "has expired"),
            ({"iat": 0, "exp": 1801}, "must not exceed 1800 s"),
            ({"exp": 60.0}, "must be whole seconds"),
        ],
    )
    def test_is_refused_when_a_time_is_not_as_documented(
        self, caller: Caller, sandbox: SandboxControl, after_s: dict[str, float], message: str
    ) -> None:
        now = int(time.time())

        refused = caller.log_in(**{name: now + seconds for name, seconds in after_s.items()})

        assert refused.status_code == 401
        assert message in refused.json()["message"]
        assert sandbox.counters()["logins"] == 0

    def test_signed_by_another_key_is_refused(self, caller: Caller, tmp_path: Path) -> None:
        stranger = Caller(caller.base_url, new_key_pair(tmp_path, caller.keys.key_id))

        assert stranger.log_in().status_code == 401

    def test_signed_with_another_algorithm_is_refused(self, caller: Caller) -> None:
        claims = jwt.decode(caller.assertion(), options={"verify_signature": False})
        for forged in (jwt.encode(claims, "s" * 32, "HS256"), jwt.encode(claims, "", "none")):
            assert caller.post(AUTH, {"external_token": forged}).status_code == 401

    def test_is_valid_once_when_single_use_is_on(self, caller: Caller, sandbox: SandboxControl) -> None:
        sandbox.switches(assertion_single_use=True)
        body = {"external_token": caller.assertion()}

        assert [caller.post(AUTH, body).status_code for _ in range(2)] == [200, 401]

    def test_may_need_a_string_or_a_listed_address(self, caller: Caller, sandbox: SandboxControl) -> None:
        sandbox.switches(admin_id_type="string", device_ip="listed", device_ips=["203.0.113.7"])

        assert caller.log_in(admin_id="42", device_ip="203.0.113.7").status_code == 200
        assert caller.log_in(admin_id="42", device_ip="203.0.113.8").status_code == 401
        assert caller.log_in(device_ip="203.0.113.7").status_code == 401

    def test_is_checked_by_the_servers_clock_which_its_date_header_shows(
        self, caller: Caller, sandbox: SandboxControl
    ) -> None:
        sandbox.switches(clock_offset=3600.0)

        refused = caller.log_in()

        assert refused.status_code == 401
        ahead = parsedate_to_datetime(refused.headers["Date"]).timestamp() - time.time()
        assert ahead == pytest.approx(3600, abs=5)
        now = int(time.time())
        assert caller.log_in(iat=now + 3600, exp=now + 3900).status_code == 200

    def test_keys_are_registered_and_withdrawn_while_running(
        self, caller: Caller, sandbox: SandboxControl, tmp_path: Path
    ) -> None:
        newer = Caller(caller.base_url, new_key_pair(tmp_path, "newer"))
        sandbox.register_key("newer", newer.keys.public_key)
        sandbox.withdraw_key(caller.keys.key_id)

        assert newer.log_in().status_code == 200
        assert caller.log_in().status_code == 401

    @pytest.mark.parametrize("text", ["x", "a.b.c", "\ud800", "e30.e30.e30"])
    def test_is_refused_unless_it_is_a_jwt(self, caller: Caller, text: str) -> None:
        assert caller.post(AUTH, {"external_token": text}).status_code == 401

    @pytest.mark.parametrize("body", [None, [], {"external_token": 7}, {"token": "x"}])
    def test_must_be_in_the_body(self, caller: Caller, body: Any) -> None:
        assert caller.post(AUTH, body).status_code == 400


class TestRefresh:
    def test_answers_a_new_pair(self, caller: Caller, sandbox: SandboxControl) -> None:
        access, refresh = caller.pair()

        renewed = caller.refresh(refresh).json()

        assert caller.fees(renewed["accessToken"]).status_code == 200
        assert caller.fees(access).status_code == 200
        pairs = [(pair["access"], pair["refresh"], pair["origin"]) for pair in sandbox.pairs()]
        assert pairs == [(access, refresh, "login"), (renewed["accessToken"], renewed["refreshToken"], "refresh")]

    def test_token_used_twice_ends_the_session(self, caller: Caller, sandbox: SandboxControl) -> None:
        _, refresh = caller.pair()
        renewed = caller.refresh(refresh).json()

        assert caller.refresh(refresh).status_code == 401

        assert caller.fees(renewed["accessToken"]).status_code == 401
        assert caller.refresh(renewed["refreshToken"]).status_code == 401
        counters = sandbox.counters()
        assert (counters["refresh_reuses"], counters["refresh_presented_max"]) == (1, 2)
        assert counters["unauthorized"] == 1

    def test_token_used_twice_may_only_be_refused(self, caller: Caller, sandbox: SandboxControl) -> None:
        sandbox.switches(refresh_reuse="refused")
        _, refresh = caller.pair()
        renewed = caller.refresh(refresh).json()

        assert caller.refresh(refresh).status_code == 401
        assert caller.fees(renewed["accessToken"]).status_code == 200

    def test_token_may_stay_the_same(self, caller: Caller, sandbox: SandboxControl) -> None:
        sandbox.switches(refresh_rotates=False)
        _, refresh = caller.pair()

        assert [caller.refresh(refresh).json()["refreshToken"] for _ in range(2)] == [refresh, refresh]
        assert sandbox.counters()["refresh_reuses"] == 0

    def test_may_end_the_access_token_it_replaces(self, caller: Caller, sandbox: SandboxControl) -> None:
        sandbox.switches(refresh_ends_access=True)
        access, refresh = caller.pair()
        caller.refresh(refresh)

        assert caller.fees(access).status_code == 401

    def test_has_no_body(self, caller: Caller) -> None:
        _, refresh = caller.pair()

        assert caller.post(REFRESH, {"refreshToken": refresh}, refresh).status_code == 400
        assert caller.post(REFRESH, {}, refresh).status_code == 400
        assert caller.refresh(refresh).status_code == 200

    def test_needs_the_refresh_token_and_not_the_access_token(self, caller: Caller) -> None:
        access, refresh = caller.pair()

        assert caller.refresh(access).status_code == 401
        assert caller.fees(refresh).status_code == 401
        assert caller.post(REFRESH).status_code == 401


class TestTokens:
    def test_expire(self, caller: Caller, sandbox: SandboxControl) -> None:
        sandbox.switches(access_lifetime=0.5, refresh_lifetime=0.5)
        access, refresh = caller.pair()
        assert caller.fees(access).status_code == 200

        until(lambda: caller.fees(access).status_code == 401)

        assert caller.refresh(refresh).status_code == 401

    def test_may_be_jwts_that_hold_their_lifetime(self, caller: Caller, sandbox: SandboxControl) -> None:
        sandbox.switches(access_format="jwt", access_lifetime=120)
        access, _ = caller.pair()

        claims = jwt.decode(access, options={"verify_signature": False})

        assert claims["exp"] - claims["iat"] == 120
        assert caller.fees(access).status_code == 200

    def test_may_come_in_snake_case(self, caller: Caller, sandbox: SandboxControl) -> None:
        sandbox.switches(pair_names="snake_case")

        assert set(caller.log_in().json()) == {"access_token", "refresh_token"}

    def test_of_an_earlier_login_end_when_an_admin_has_one_session(
        self, caller: Caller, sandbox: SandboxControl
    ) -> None:
        sandbox.switches(one_session=True)
        first, _ = caller.pair()
        second, _ = caller.pair()

        assert [caller.fees(token).status_code for token in (first, second)] == [401, 200]

    @pytest.mark.parametrize(("refresh_too", "refreshed"), [(True, 401), (False, 200)])
    def test_are_revoked_with_or_without_the_session(
        self, caller: Caller, sandbox: SandboxControl, refresh_too: bool, refreshed: int
    ) -> None:
        access, refresh = caller.pair()

        sandbox.revoke_all(refresh_too)

        assert caller.fees(access).status_code == 401
        assert caller.refresh(refresh).status_code == refreshed

    def test_are_required_on_every_route(self, caller: Caller) -> None:
        for path in (PROCESS, "/api/admin/clients/v2/client/clientservice/update"):
            assert caller.post(path, {"account_login": "1", "request_id": "W"}).status_code == 401

    def test_calls_for_them_are_logged_with_how_many_ran_at_once(self, caller: Caller, sandbox: SandboxControl) -> None:
        sandbox.switches(latency={"token": 0.2, "*": 0.0})
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(lambda _: caller.log_in(), range(3)))

        assert sandbox.counters()["token_calls_at_once_max"] == 3
        calls = sandbox.token_calls()
        assert [call["status"] for call in calls] == [200, 200, 200]
        assert all(call["ended"] - call["started"] >= 0.2 for call in calls)
