"""What B2COPY's answer to a login makes the fleet do."""

import re
import socket
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Configure, Member
from tests.http.raw_server import Wire
from tests.session.fleet import together, token_calls
from tests.support import until
from worker.errors import (
    B2CopyError,
    CredentialsRejected,
    RateLimited,
    SessionUnavailable,
    Transient,
    Unavailable,
)
from worker.sandbox.control_client import SandboxControl
from worker.session.shared_session import SharedSession
from worker.testbed.broker import Broker
from worker.testbed.keys import new_key_pair


class TestLoggingIn:
    @pytest.mark.failure_mode("F44")
    @pytest.mark.parametrize(
        ("fault", "error", "kind"),
        [
            ({"what": "status", "status": 400}, CredentialsRejected, "terminal"),
            ({"what": "status", "status": 401}, CredentialsRejected, "terminal"),
            ({"what": "status", "status": 403}, CredentialsRejected, "terminal"),
            ({"what": "status", "status": 429}, RateLimited, "rate_limited"),
            ({"what": "status", "status": 500}, Unavailable, "unavailable"),
            ({"what": "status", "status": 503}, Unavailable, "unavailable"),
            ({"what": "silence"}, Unavailable, "unavailable"),
            ({"what": "html"}, Unavailable, "unavailable"),
            ({"what": "huge"}, Unavailable, "unavailable"),
        ],
        ids=lambda value: " ".join(str(part) for part in value.values()) if isinstance(value, dict) else None,
    )
    def test_what_b2copy_says_decides_what_we_do(
        self, member: Member, sandbox: SandboxControl, fault: dict[str, Any], error: type[B2CopyError], kind: str
    ) -> None:
        session = member(token_deadline=0.3, login_attempts=2)
        sandbox.faults({"route": "authexternalcrm", **fault})

        with pytest.raises(error):
            session.renew()

        cooldown = session.state().cooldown
        assert cooldown is not None
        assert cooldown.kind == kind

    @pytest.mark.failure_mode("F45")
    def test_a_refused_login_is_not_repeated(self, member: Member, sandbox: SandboxControl) -> None:
        sandbox.faults({"what": "status", "status": 401, "route": "authexternalcrm"})
        members = [member() for _ in range(4)]

        for session in members:
            for _ in range(3):
                with pytest.raises(CredentialsRejected, match="401"):
                    session.current()

        assert token_calls(sandbox) == 1
        sandbox.faults()
        assert members[0].renew(force=True, wait=15).outcome == "login"  # a person says: now

    @pytest.mark.failure_mode("F45")
    def test_a_refused_login_is_not_repeated_when_another_host_meets_an_outage(
        self, member: Member, configure: Configure, sandbox: SandboxControl, tmp_path: Path
    ) -> None:
        other_host = member()
        refused = member(configure(private_key_file=new_key_pair(tmp_path, "test-key").private_file))
        with pytest.raises(CredentialsRejected) as first:
            refused.current()
        sandbox.faults({"what": "status", "status": 503, "route": "authexternalcrm"})
        with pytest.raises(Unavailable):
            other_host.renew()
        until(lambda: other_host.state().cooldown is None)
        calls = token_calls(sandbox)

        renewal = refused.renew()
        with pytest.raises(CredentialsRejected) as again:
            refused.current()

        assert (renewal.outcome, renewal.cooldown and renewal.cooldown.kind) == ("cooldown", "terminal")
        assert again.value.server_message == first.value.server_message
        assert token_calls(sandbox) == calls

    @pytest.mark.failure_mode("F26")
    def test_a_repeated_login_carries_another_assertion(self, member: Member, sandbox: SandboxControl) -> None:
        sandbox.switches(assertion_single_use=True)
        sandbox.faults({"what": "status", "status": 503, "route": "authexternalcrm", "next": 1, "effect": "done"})

        assert member().current().generation
        assert sandbox.counters()["calls"]["authexternalcrm"] == 2

    @pytest.mark.failure_mode("F40")
    def test_a_silent_server_is_given_up_on_within_the_lease(self, member: Member, sandbox: SandboxControl) -> None:
        sandbox.faults({"what": "silence", "route": "authexternalcrm"})
        session = member(token_deadline=0.3, login_attempts=1)

        started = time.monotonic()
        with pytest.raises(Unavailable):
            session.renew()
        assert time.monotonic() - started < 10

    @pytest.mark.failure_mode("F16", "F43")
    def test_while_b2copy_is_down_the_fleet_asks_as_rarely_as_one(
        self, member: Member, sandbox: SandboxControl, due: Callable[[], None]
    ) -> None:
        old = member().current()
        due()
        sandbox.faults({"what": "status", "status": 503, "route": "token"})
        members = [member(cooldown=0.5, cooldown_max=1.0) for _ in range(8)]
        ends = time.monotonic() + 1.0

        def hammer(session: SharedSession) -> set[object]:
            seen: set[object] = set()
            while time.monotonic() < ends:
                seen.add(session.current().generation)
                time.sleep(0.005)
            return seen

        seen = together(*[lambda session=session: hammer(session) for session in members])

        assert seen == [{old.generation}] * 8  # and all went on with the token they had
        assert token_calls(sandbox) <= 1 + 1 + 4 * 3  # login, refresh, and at most four leaders with three tries each

    def test_callers_who_keep_asking_during_a_rest_cost_redis_nothing(
        self, member: Member, sandbox: SandboxControl, broker: Broker
    ) -> None:
        sandbox.faults({"what": "status", "status": 503, "route": "token", "retry_after": "20"})
        session = member()
        with pytest.raises(SessionUnavailable):
            session.current()

        with broker.client as client:
            before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
            for _ in range(100):
                with pytest.raises(SessionUnavailable):
                    session.current()
            after = client.info("commandstats")["cmdstat_evalsha"]["calls"]

        assert after - before <= 2

    @pytest.mark.failure_mode("F41")
    def test_the_error_is_ours_and_says_when_to_come_back(self, member: Member, sandbox: SandboxControl) -> None:
        sandbox.faults({"what": "status", "status": 503, "route": "token", "retry_after": "20"})
        session = member()

        with pytest.raises(SessionUnavailable, match="503") as raised:
            session.current()

        assert 15 < (raised.value.retry_after or 0) <= 20
        assert token_calls(sandbox) == 1
        assert isinstance(raised.value, Transient)
        assert raised.value.__cause__ is None

    def test_a_caller_waits_as_long_as_it_said(self, member: Member, sandbox: SandboxControl) -> None:
        sandbox.switches(latency={"token": 1.0})
        session, started = member(), time.monotonic()

        with pytest.raises(SessionUnavailable, match="its renewal takes long"):
            session.current(wait=0.5)

        assert time.monotonic() - started >= 0.5
        assert session.current(wait=20.0).generation

    def test_a_caller_waits_out_a_short_rest(self, member: Member, sandbox: SandboxControl) -> None:
        sandbox.faults({"what": "status", "status": 503, "route": "token", "next": 1})

        assert member(login_attempts=1).current(wait=20.0).generation

        assert sandbox.counters()["statuses"]["authexternalcrm"] == {"503": 1, "200": 1}

    @pytest.mark.failure_mode("F48")
    def test_one_failed_refresh_does_not_end_all_later_ones(
        self, member: Member, sandbox: SandboxControl, due: Callable[[], None]
    ) -> None:
        session = member()
        session.current()
        due()
        sandbox.faults({"what": "status", "status": 503, "route": "token"})
        with pytest.raises(Unavailable):
            session.renew()
        assert session.renew().outcome == "cooldown"
        sandbox.faults()

        assert until(lambda: session.renew().outcome == "login")

    @pytest.mark.failure_mode("F24")
    @pytest.mark.parametrize("ahead", [3600.0, -3600.0])
    def test_a_clock_of_ours_an_hour_off_costs_one_refused_login(
        self, member: Member, sandbox: SandboxControl, ahead: float
    ) -> None:
        session = member(wall=lambda: time.time() + ahead)

        assert session.current().generation

        assert sandbox.counters()["statuses"]["authexternalcrm"] == {"401": 1, "200": 1}

    @pytest.mark.failure_mode("F24")
    @pytest.mark.parametrize("ahead", [600.0, -600.0])
    def test_a_clock_of_b2copys_ten_minutes_off_is_followed(
        self, member: Member, sandbox: SandboxControl, ahead: float, caplog: pytest.LogCaptureFixture
    ) -> None:
        sandbox.switches(clock_offset=ahead)

        assert member().current().generation

        assert sandbox.counters()["statuses"]["authexternalcrm"] == {"401": 1, "200": 1}
        way = "behind" if ahead > 0 else "ahead of"
        assert re.search(rf"our clock is (599|600|601) s {way} B2COPY's", caplog.text)

    def test_a_date_that_neither_clock_of_ours_confirms_is_not_believed(
        self, member: Member, sandbox: SandboxControl, caplog: pytest.LogCaptureFixture
    ) -> None:
        sandbox.switches(clock_offset=365 * 86400.0)

        with pytest.raises(CredentialsRejected):
            member().current()

        assert sandbox.counters()["statuses"]["authexternalcrm"] == {"401": 1}
        assert "B2COPY_CLOCK_TOLERANCE" in caplog.text

    def test_a_server_whose_clock_jumps_is_followed_once(
        self, wire: Wire, member: Member, configure: Configure
    ) -> None:
        """A login that is refused again and again may lock the account."""

        def refuse(connection: socket.socket, request: bytes) -> None:
            date = formatdate(time.time() + 100 * len(wire.requests), usegmt=True)
            head = f"HTTP/1.1 401 X\r\nDate: {date}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode() + b"{}")

        wire.login = refuse
        session = member(configure(host=wire.url))

        with pytest.raises(CredentialsRejected):
            session.renew()

        assert len(wire.requests) == 2

    def test_a_login_on_demand_gives_the_fleet_the_new_pair_where_one_session_is_allowed(
        self, member: Member, sandbox: SandboxControl
    ) -> None:
        sandbox.switches(one_session=True)
        worker, doctor = member(), member()
        ended = worker.current()

        renewal = doctor.renew("doctor", force=True, with_login=True)

        assert renewal.outcome == "login"
        assert worker.rejected(ended).generation == renewal.generation
        assert sandbox.counters()["logins"] == 2

    @pytest.mark.failure_mode("F58")
    def test_leaders_do_not_log_each_other_out(self, member: Member, sandbox: SandboxControl) -> None:
        sandbox.switches(one_session=True, latency={"token": 0.4})
        members = [member(lease=0.1, pace=2.0) for _ in range(4)]

        tokens = together(*[session.current for session in members])

        assert len(set(tokens)) == 1
        assert sandbox.counters()["logins"] == 1
