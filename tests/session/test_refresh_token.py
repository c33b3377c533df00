"""The refresh token is presented once, whatever happens."""

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis
from prometheus_client import REGISTRY

from tests.conftest import Configure, Member
from tests.http.raw_server import Wire
from tests.session.fleet import together
from tests.support import until
from worker.errors import B2CopyError, RateLimited
from worker.sandbox.control_client import SandboxControl
from worker.testbed.broker import Broker


def lost_leases() -> float:
    return REGISTRY.get_sample_value("b2copy_session_lease_lost_total") or 0.0


class TestTheRefreshToken:
    @pytest.mark.failure_mode("F7", "F8", "F10", "F44")
    @pytest.mark.parametrize(
        "fault",
        [
            {"what": "drop", "effect": "done"},
            {"what": "drop", "effect": "none"},
            {"what": "reset", "effect": "done"},
            {"what": "silence", "effect": "done"},
            {"what": "cut", "at": 30},
            {"what": "cut"},
            {"what": "status", "status": 400},
            {"what": "status", "status": 401},
            {"what": "status", "status": 403},
            {"what": "status", "status": 500},
            {"what": "status", "status": 503, "effect": "done"},
            {"what": "status", "status": 302, "location": "/"},
            {"what": "html"},
            {"what": "empty"},
            {"what": "lacks", "field": "accessToken"},
        ],
        ids=lambda fault: " ".join(str(value) for value in fault.values()),
    )
    def test_is_presented_once_whatever_comes_back(
        self, member: Member, sandbox: SandboxControl, fault: dict[str, Any]
    ) -> None:
        session = member(token_deadline=0.3)
        session.current()
        sandbox.faults({"route": "refreshtoken", **fault})

        assert session.renew(force=True, wait=15).outcome == "login"
        assert session.current().generation

        counters = sandbox.counters()
        assert counters["calls"] == {"authexternalcrm": 2, "refreshtoken": 1}
        assert counters["refresh_presented_max"] <= 1

    @pytest.mark.parametrize(("age_s", "outcome"), [(590, "refresh"), (610, "login")])
    def test_is_presented_for_as_long_as_a_token_lives_by_the_setting(
        self, member: Member, broker: Broker, session_key: Callable[[], str], age_s: int, outcome: str
    ) -> None:
        """A short life of the access token says nothing about the refresh token's."""
        session = member()
        session.current()
        made_ms = session.clock() - age_s * 1000
        with broker.client as client:
            times = {"obtained_at": made_ms, "life": 1000, "renew_after": made_ms, "expires_at": made_ms + 1000}
            client.hset(session_key(), mapping=times)
            client.delete(session_key().replace(":session", ":pace"))

        assert session.renew().outcome == outcome

    @pytest.mark.failure_mode("F10")
    def test_may_be_missing_from_an_answer(self, member: Member, sandbox: SandboxControl) -> None:
        session = member()
        session.current()
        sandbox.faults({"what": "lacks", "route": "refreshtoken", "field": "refreshToken"})

        assert session.renew(force=True, wait=15).outcome == "refresh"
        assert session.renew(force=True, wait=15).outcome == "login"

        assert sandbox.counters()["refresh_presented_max"] == 1

    @pytest.mark.parametrize("same_as", ["the one before", "the access token"])
    def test_that_is_not_new_is_not_presented(
        self, configure: Configure, member: Member, wire: Wire, same_as: str
    ) -> None:
        given = 0

        def give(connection: socket.socket, request: bytes) -> None:
            nonlocal given
            given += 1
            refresh = "always-the-same" if same_as == "the one before" else f"access-{given}"
            body = json.dumps({"accessToken": f"access-{given}", "refreshToken": refresh}).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

        wire.answer = wire.login = give
        session = member(configure(host=wire.url))
        session.current()

        outcomes = [session.renew(force=True, wait=15).outcome for _ in range(3)]

        presented = sum(b"/refreshtoken" in request.split(b"\r\n")[0] for request in wire.requests)
        assert (outcomes.count("refresh"), presented) == ((1, 1) if same_as == "the one before" else (0, 0))
        assert session.current().access == f"access-{given}"

    @pytest.mark.failure_mode("F44", "F45")
    def test_429_rests_first_and_logs_in_after(self, member: Member, sandbox: SandboxControl) -> None:
        session = member()
        before = session.current()
        sandbox.faults({"what": "status", "status": 429, "route": "refreshtoken", "retry_after": "1"})

        with pytest.raises(RateLimited):
            session.renew(force=True, wait=15)

        cooldown = session.state().cooldown
        assert cooldown is not None
        assert (cooldown.kind, 0.5 < cooldown.left <= 1) == ("rate_limited", True)
        assert session.renew(force=False).outcome == "fresh"
        assert member().current() == before
        assert session.renew(force=True, wait=15).outcome == "login"
        assert sandbox.counters()["calls"]["refreshtoken"] == 1

    @pytest.mark.failure_mode("F2")
    def test_survives_a_lease_that_is_too_short(self, member: Member, sandbox: SandboxControl) -> None:
        slow, other = member(lease=0.1, pace=0.001), member(lease=0.1, pace=0.001)
        slow.current()
        sandbox.switches(latency={"token": 0.5})

        def late() -> str:
            until(lambda: sandbox.counters()["calls"].get("refreshtoken") == 1)
            return other.renew(force=True, wait=15).outcome

        outcomes = together(lambda: slow.renew(force=True, wait=15).outcome, late)

        assert outcomes[1] == "login"
        assert sandbox.counters()["refresh_presented_max"] == 1
        assert slow.current() == other.current()

    @pytest.mark.failure_mode("F5", "F11", "F34")
    def test_refused_while_a_peer_stored_a_newer_session_means_use_that(
        self, member: Member, sandbox: SandboxControl, broker: Broker, session_key: Callable[[], str]
    ) -> None:
        slow, other = member(), member()
        slow.current()
        sandbox.switches(latency={"refreshtoken": 0.4})
        sandbox.faults({"what": "status", "status": 401, "route": "refreshtoken"})

        def overtake() -> str:
            until(lambda: sandbox.counters()["calls"].get("refreshtoken") == 1)
            with broker.client as client:
                client.delete(session_key().replace(":session", ":renewal_lease"))
            return other.renew(force=True, wait=15).outcome

        lost = lost_leases()

        outcomes = together(lambda: slow.renew(force=True, wait=15).outcome, overtake)

        assert outcomes == ["conflict", "login"]
        assert lost_leases() == lost + 1
        assert slow.current() == other.current()
        assert sandbox.counters()["logins"] == 2

    @pytest.mark.failure_mode("F11")
    def test_answered_late_is_better_than_another_login(
        self, member: Member, sandbox: SandboxControl, broker: Broker, session_key: Callable[[], str]
    ) -> None:
        slow, other = member(), member(login_backoff=0.8, login_backoff_max=0.8)
        slow.current()
        sandbox.switches(latency={"refreshtoken": 0.4})
        sandbox.faults({"what": "status", "status": 503, "route": "authexternalcrm", "next": 1})

        def overtake() -> str:
            until(lambda: sandbox.counters()["calls"].get("refreshtoken") == 1)
            with broker.client as client:
                client.delete(session_key().replace(":session", ":renewal_lease"))
            return other.renew(force=True, wait=15).outcome

        outcomes = together(lambda: slow.renew(force=True, wait=15).outcome, overtake)

        assert outcomes == ["refresh", "adopted"]
        assert slow.current() == other.current()
        assert other.state().leader is None
        assert sandbox.counters()["logins"] == 1

    @pytest.mark.failure_mode("F9")
    def test_is_not_used_again_when_redis_dies_before_the_new_pair_is_stored(
        self, member: Member, sandbox: SandboxControl, broker: Broker
    ) -> None:
        session = member(store_pause=0.1)
        session.current()
        sandbox.switches(latency={"token": 0.3})

        def strike() -> None:
            until(lambda: sandbox.counters()["calls"].get("refreshtoken") == 1)
            broker.kill()
            until(lambda: sandbox.counters()["refreshes"] == 1)
            broker.start()

        renewal, _ = together(lambda: session.renew(force=True, wait=15), strike)

        assert renewal.outcome == "refresh"  # the pair was offered again until Redis was back
        assert member().current().generation == renewal.generation
        assert sandbox.counters()["refresh_presented_max"] == 1

    def test_that_cannot_be_stored_for_long_is_given_up(
        self, member: Member, sandbox: SandboxControl, broker: Broker
    ) -> None:
        session = member(store_pause=0.05, commit_patience=0.2)
        session.current()
        sandbox.switches(latency={"token": 2.0})
        errors: list[B2CopyError] = []

        def renew() -> None:
            try:
                session.renew(force=True, wait=8)
            except B2CopyError as error:
                errors.append(error)

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        until(lambda: sandbox.counters()["calls"].get("refreshtoken") == 1)
        broker.kill()

        try:
            until(lambda: errors)
        finally:
            broker.start()  # else a renewal that does not end would offer its pair for ever
            thread.join(20)

    def test_of_each_renewal_is_presented_by_the_process_that_got_it(
        self, member: Member, sandbox: SandboxControl
    ) -> None:
        session = member()
        session.current()

        assert [session.renew(force=True, wait=15).outcome for _ in range(3)] == ["refresh"] * 3
        assert sandbox.counters()["logins"] == 1

    @pytest.mark.failure_mode("F32")
    def test_of_an_older_snapshot_is_not_used(
        self, member: Member, sandbox: SandboxControl, broker: Broker, session_key: Callable[[], str]
    ) -> None:
        session = member()
        session.current()
        with redis.Redis.from_url(broker.url) as client:
            old = client.dump(session_key())
            newest = [session.renew(force=True, wait=15).generation for _ in range(2)][-1]
            session.current()
            client.restore(session_key(), 0, old, replace=True)

        assert session.renew(force=True, wait=15).outcome == "login"

        assert session.current().generation > newest
        assert sandbox.counters()["refresh_reuses"] == 0

    def test_that_outlived_its_access_token_is_not_used(
        self, member: Member, sandbox: SandboxControl, configure: Configure
    ) -> None:
        session = member(configure().model_copy(update={"token_ttl": 0.3}))
        session.current()
        until(lambda: (session.state().expires_in or 0) < 0)

        assert session.renew().outcome == "login"
        assert "refreshtoken" not in sandbox.counters()["calls"]
