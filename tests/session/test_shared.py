"""The protocol as the members of a fleet live it: who renews, who waits, and what B2COPY gets to see."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.exceptions import SoftTimeLimitExceeded

from tests.conftest import Configure, Member
from tests.support import until
from worker.errors import (
    B2CopyError,
    CredentialsRejected,
    RateLimited,
    SessionUnavailable,
    StoreUnavailable,
    Transient,
    Unavailable,
)
from worker.sandbox.control_client import SandboxControl
from worker.session import key_files
from worker.session.redis_store import Lease, Store
from worker.session.shared import SharedSession
from worker.session.timings import Timings
from worker.session.token_encryption import Secrets, seal
from worker.session.tokens import fingerprint
from worker.testbed.broker import Broker
from worker.testbed.keys import new_key_pair, new_storage_key


@pytest.fixture
def redis_now(broker: Broker) -> Callable[[], float]:
    def now() -> float:
        with broker.client as client:
            seconds, micros = client.time()
            return float(seconds) + float(micros) / 1e6

    return now


@pytest.fixture
def session_key(broker: Broker) -> Callable[[], str]:
    def find() -> str:
        with broker.client as client:
            return str(next(client.scan_iter("b2copy:*:session")))

    return find


@pytest.fixture
def due(broker: Broker, session_key: Callable[[], str]) -> Callable[[], None]:
    """Make the stored token due for renewal now, though good for long."""

    def make() -> None:
        with broker.client as client:
            client.hset(session_key(), "refresh_after", 0)
            client.delete(session_key().replace(":session", ":pace"))

    return make


def token_calls(sandbox: SandboxControl) -> int:
    calls = sandbox.counters()["calls"]
    return int(calls.get("authexternalcrm", 0) + calls.get("refreshtoken", 0))


def together(*work: Callable[[], Any]) -> list[Any]:
    """Do all at once, each in a thread; return what each returned or raised."""
    barrier = threading.Barrier(len(work))

    def run(one: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return one()
        except B2CopyError as error:
            return error

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(run, work))


class TestRenewing:
    @pytest.mark.failure_mode("F1", "F12")
    def test_beat_and_workers_on_one_generation_make_one_token_call(
        self, member: Member, sandbox: SandboxControl, due: Callable[[], None]
    ) -> None:
        first = member().current()
        due()
        sandbox.switches(latency={"token": 0.1})
        members = [member() for _ in range(8)]

        together(*[m.renew for m in members[:4]], *[m.current for m in members[4:]])

        until(lambda: member().current().generation > first.generation)
        counters = sandbox.counters()
        assert (counters["logins"], counters["refreshes"], counters["token_calls_at_once_max"]) == (1, 1, 1)

    @pytest.mark.failure_mode("F47")
    def test_fifty_refresh_tasks_make_one_token_call(
        self, member: Member, sandbox: SandboxControl, due: Callable[[], None]
    ) -> None:
        session = member()
        session.current()
        due()

        outcomes = [session.renew().outcome for _ in range(50)]

        assert outcomes == ["refresh"] + ["fresh"] * 49
        assert token_calls(sandbox) == 2

    def test_a_fresh_token_is_left_alone_unless_forced(self, member: Member, sandbox: SandboxControl) -> None:
        session = member()
        session.current()

        assert session.renew().outcome == "fresh"
        assert session.renew(force=True, wait=1).outcome == "refresh"

    @pytest.mark.failure_mode("F46")
    def test_without_beat_callers_renew_in_time(
        self, member: Member, sandbox: SandboxControl, configure: Configure
    ) -> None:
        sandbox.switches(access_lifetime=0.6)
        session = member(configure(token_ttl=0.6))
        generations = set()

        ends = time.monotonic() + 1.2
        while time.monotonic() < ends:
            generations.add(session.current().generation)
            time.sleep(0.01)

        assert len(generations) >= 3
        counters = sandbox.counters()
        assert (counters["logins"], counters["unauthorized"]) == (1, 0)

    @pytest.mark.failure_mode("F14")
    def test_all_who_wait_get_the_token_at_once(self, member: Member, sandbox: SandboxControl) -> None:
        sandbox.switches(latency={"token": 0.5})
        members = [member() for _ in range(8)]

        def ask(session: SharedSession) -> float:
            started = time.monotonic()
            session.current()
            return time.monotonic() - started

        waited = together(*[lambda session=session: ask(session) for session in members * 8])

        assert max(waited) < 0.5 + 0.7
        assert token_calls(sandbox) == 1

    def test_while_a_token_is_good_for_long_nobody_waits_for_the_next(
        self, member: Member, sandbox: SandboxControl, due: Callable[[], None]
    ) -> None:
        old = member().current()
        due()
        sandbox.switches(latency={"token": 0.3})
        session = member(recheck=0.01)

        started = time.monotonic()
        assert session.current() == old
        assert time.monotonic() - started < 0.2
        assert until(lambda: session.current() != old)

    def test_shortly_before_its_end_callers_wait_for_the_next(
        self,
        member: Member,
        sandbox: SandboxControl,
        broker: Broker,
        due: Callable[[], None],
        session_key: Callable[[], str],
    ) -> None:
        old = member().current()
        due()
        with broker.client as client:
            client.hset(session_key(), "at_exp", int(client.time()[0]) * 1000 + 20_000)
        sandbox.switches(latency={"token": 0.3})

        assert member().current() != old
        assert token_calls(sandbox) == 2

    def test_shortly_before_its_end_a_token_is_still_better_than_none(
        self,
        member: Member,
        sandbox: SandboxControl,
        broker: Broker,
        due: Callable[[], None],
        session_key: Callable[[], str],
    ) -> None:
        old = member().current()
        due()
        with broker.client as client:
            client.hset(session_key(), "at_exp", int(client.time()[0]) * 1000 + 20_000)
        sandbox.switches(latency={"token": 0.6})
        session = member()

        assert session.current(wait=0.2) == old
        assert session.current() != old

    def test_nobody_waits_longer_than_told_and_the_leader_goes_on(
        self, member: Member, sandbox: SandboxControl
    ) -> None:
        sandbox.switches(latency={"token": 0.6})
        session = member()

        started = time.monotonic()
        with pytest.raises(SessionUnavailable) as late:
            session.current(wait=0.2)

        assert time.monotonic() - started < 0.4
        assert late.value.retry_after
        assert session.current(wait=2.0).generation
        assert token_calls(sandbox) == 1

    @pytest.mark.failure_mode("F27")
    def test_a_life_counts_from_before_the_call_and_on_redis_clock(
        self, member: Member, sandbox: SandboxControl, configure: Configure, redis_now: Callable[[], float]
    ) -> None:
        clock = {"ahead": 0.0}
        session = member(configure(token_ttl=30), wall=lambda: time.time() + clock["ahead"])
        sandbox.switches(latency={"token": 0.4})
        asked = redis_now()
        session.current()
        answered = redis_now()

        left = session.state().expires_in or 0
        clock["ahead"] = 3600.0

        assert left <= asked + 30 - answered + 0.05
        assert session.renew().outcome == "fresh"
        assert token_calls(sandbox) == 1

    def test_a_jwt_tells_its_own_life(self, member: Member, sandbox: SandboxControl, configure: Configure) -> None:
        sandbox.switches(access_format="jwt", access_lifetime=120)
        session = member(configure(token_ttl=600))
        session.current()

        assert 115 < (session.state().expires_in or 0) <= 120

    @pytest.mark.failure_mode("F21")
    def test_a_reader_never_sees_a_token_of_one_generation_under_another(
        self, member: Member, configure: Configure, sandbox: SandboxControl
    ) -> None:
        settings = configure()
        store = Store(settings, Timings(pace=0.001))
        fernet = key_files.storage_keys(settings)
        done = threading.Event()
        torn: list[str] = []

        def read() -> None:
            reader = member(settings, recheck=0.0)
            while not done.is_set():
                token = reader.current()
                if token.access != f"access {token.generation}":
                    torn.append(f"{token!r}")

        def commit(expected: int) -> int:
            lease = store.acquire("writer", expected, "keys")
            assert isinstance(lease, Lease)
            blob = seal(fernet, store.place, lease.fence, Secrets(f"access {lease.fence}", None))
            store.commit(
                lease,
                blob,
                store.now(),
                60.0,
                50.0,
                "jwt",
                "k",
                fingerprint(f"access {lease.fence}"),
            )
            return lease.fence

        generation = commit(0)
        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for _ in range(200):
            generation = commit(generation)
        done.set()
        for reader in readers:
            reader.join()

        assert torn == []


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

        assert session.renew(force=True, wait=1).outcome == "jwt"
        assert session.current().generation

        counters = sandbox.counters()
        assert counters["calls"] == {"authexternalcrm": 2, "refreshtoken": 1}
        assert counters["refresh_presented_max"] <= 1

    @pytest.mark.failure_mode("F10")
    def test_may_be_missing_from_an_answer(self, member: Member, sandbox: SandboxControl) -> None:
        session = member()
        session.current()
        sandbox.faults({"what": "lacks", "route": "refreshtoken", "field": "refreshToken"})

        assert session.renew(force=True, wait=1).outcome == "refresh"
        assert session.renew(force=True, wait=1).outcome == "jwt"

        assert sandbox.counters()["refresh_presented_max"] == 1

    @pytest.mark.failure_mode("F44", "F45")
    def test_429_rests_first_and_logs_in_after(self, member: Member, sandbox: SandboxControl) -> None:
        session = member()
        before = session.current()
        sandbox.faults({"what": "status", "status": 429, "route": "refreshtoken", "retry_after": "1"})

        with pytest.raises(RateLimited):
            session.renew(force=True, wait=1)

        cooldown = session.state().cooldown
        assert cooldown is not None
        assert (cooldown.kind, 0.5 < cooldown.left <= 1) == ("rate_limited", True)
        assert session.renew(force=False).outcome == "fresh"
        assert member().current() == before
        assert session.renew(force=True, wait=1).outcome == "jwt"
        assert sandbox.counters()["calls"]["refreshtoken"] == 1

    @pytest.mark.failure_mode("F2")
    def test_survives_a_lease_that_is_too_short(self, member: Member, sandbox: SandboxControl) -> None:
        slow, other = member(lease=0.1, pace=0.001), member(lease=0.1, pace=0.001)
        slow.current()
        sandbox.switches(latency={"token": 0.5})

        def late() -> str:
            until(lambda: sandbox.counters()["calls"].get("refreshtoken") == 1)
            return other.renew(force=True, wait=2).outcome

        outcomes = together(lambda: slow.renew(force=True, wait=1).outcome, late)

        assert outcomes[1] == "jwt"
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
                client.delete(session_key().replace(":session", ":lease"))
            return other.renew(force=True, wait=1).outcome

        outcomes = together(lambda: slow.renew(force=True, wait=1).outcome, overtake)

        assert outcomes == ["conflict", "jwt"]
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
                client.delete(session_key().replace(":session", ":lease"))
            return other.renew(force=True, wait=1).outcome

        outcomes = together(lambda: slow.renew(force=True, wait=1).outcome, overtake)

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

        renewal, _ = together(lambda: session.renew(force=True, wait=1), strike)

        assert renewal.outcome == "refresh"  # the pair was kept until Redis was back
        assert member().current().generation == renewal.generation
        assert sandbox.counters()["refresh_presented_max"] == 1

    @pytest.mark.failure_mode("F32")
    def test_of_an_older_snapshot_is_not_used(
        self, member: Member, sandbox: SandboxControl, broker: Broker, session_key: Callable[[], str]
    ) -> None:
        session = member()
        session.current()
        with redis.Redis.from_url(broker.url) as client:
            old = client.dump(session_key())
            newest = [session.renew(force=True, wait=1).generation for _ in range(2)][-1]
            session.current()
            client.restore(session_key(), 0, old, replace=True)

        assert session.renew(force=True, wait=1).outcome == "jwt"

        assert session.current().generation > newest
        assert sandbox.counters()["refresh_reuses"] == 0

    def test_that_outlived_its_access_token_is_not_used(
        self, member: Member, sandbox: SandboxControl, configure: Configure
    ) -> None:
        session = member(configure(token_ttl=0.3))
        session.current()
        until(lambda: (session.state().expires_in or 0) < 0)

        assert session.renew().outcome == "jwt"
        assert "refreshtoken" not in sandbox.counters()["calls"]


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
        assert members[0].renew(force=True, wait=1).outcome == "jwt"  # a person says: now

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
        assert time.monotonic() - started < 0.6

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
            seen = set()
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

        assert until(lambda: session.renew().outcome == "jwt")

    @pytest.mark.failure_mode("F24")
    @pytest.mark.parametrize("ahead", [3600.0, -3600.0])
    def test_a_clock_an_hour_off_costs_one_refused_login(
        self, member: Member, sandbox: SandboxControl, ahead: float
    ) -> None:
        session = member(wall=lambda: time.time() + ahead)

        assert session.current().generation

        assert sandbox.counters()["statuses"]["authexternalcrm"] == {"401": 1, "200": 1}
        assert abs((session.state().clock_ahead or 0) + ahead) < 5

    @pytest.mark.failure_mode("F58")
    def test_leaders_do_not_log_each_other_out(self, member: Member, sandbox: SandboxControl) -> None:
        sandbox.switches(one_session=True, latency={"token": 0.4})
        members = [member(lease=0.1, pace=2.0) for _ in range(4)]

        tokens = together(*[session.current for session in members])

        assert len(set(tokens)) == 1
        assert sandbox.counters()["logins"] == 1


class TestRejectedTokens:
    @pytest.mark.failure_mode("F17")
    def test_sixteen_401s_make_one_renewal(self, member: Member, sandbox: SandboxControl) -> None:
        members = [member() for _ in range(16)]
        rejected = [session.current() for session in members]
        sandbox.revoke_all()

        tokens = together(*[lambda s=s, t=t: s.rejected(t) for s, t in zip(members, rejected, strict=True)])

        assert len(set(tokens)) == 1
        assert tokens[0].generation > rejected[0].generation
        assert sandbox.counters()["logins"] == 2

    def test_a_late_401_uses_what_is_there(self, member: Member, sandbox: SandboxControl) -> None:
        session, other = member(), member()
        old = session.current()
        other.renew(force=True, wait=1)
        calls = token_calls(sandbox)

        assert session.rejected(old) == other.current()
        assert token_calls(sandbox) == calls

    def test_a_rejected_token_is_used_by_nobody_during_a_cooldown(
        self, member: Member, sandbox: SandboxControl
    ) -> None:
        session, other = member(recheck=0.0), member(recheck=0.0)
        token = session.current()
        other.current()
        sandbox.faults({"what": "status", "status": 503, "route": "token", "retry_after": "30"})

        for asks in (lambda: session.rejected(token), session.current, other.current):
            with pytest.raises(SessionUnavailable):
                asks()

    def test_a_guessed_life_grows_back(self, member: Member, configure: Configure, sandbox: SandboxControl) -> None:
        session = member(configure(token_ttl=100))
        session.rejected(session.current())
        assert (session.state().expires_in or 0) <= 10

        session.renew(force=True, wait=1)

        assert 10 < (session.state().expires_in or 0) <= 12.5


class TestLeadersThatFail:
    @pytest.mark.failure_mode("F3")
    def test_a_lease_nobody_frees_lapses(self, member: Member, configure: Configure) -> None:
        dead = Store(configure(), Timings(lease=0.5))
        assert isinstance(dead.acquire("the dead", 0, "keys"), Lease)

        started = time.monotonic()
        assert member().current().generation
        assert time.monotonic() - started < 2.5

    @pytest.mark.failure_mode("F15", "F35", "F42")
    @pytest.mark.parametrize("fatal", [SystemExit, KeyboardInterrupt, SoftTimeLimitExceeded, MemoryError])
    def test_whatever_ends_a_leader_surfaces_and_frees_the_lease(
        self, member: Member, sandbox: SandboxControl, fatal: type[BaseException]
    ) -> None:
        session = member()
        session.current()
        sandbox.faults({"what": "status", "status": 503, "route": "refreshtoken"})

        def clock() -> float:
            raise fatal

        with pytest.raises(fatal):
            member(wall=clock).renew(force=True, wait=1)

        state = session.state()
        assert state.leader is None
        assert state.refresh_token_spent
        assert sandbox.counters()["calls"] == {"authexternalcrm": 1, "refreshtoken": 1}
        assert session.renew(force=True, wait=1).outcome == "jwt"

    @pytest.mark.failure_mode("F35")
    def test_its_error_is_not_hidden_by_a_lease_that_lapsed(self, member: Member, broker: Broker) -> None:
        def clock() -> float:
            with broker.client as client:
                client.flushall()
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            member(wall=clock).renew()


class TestWithoutRedis:
    @pytest.mark.failure_mode("F30")
    def test_a_copy_of_ones_own_is_used_and_nothing_renewed(
        self, member: Member, sandbox: SandboxControl, broker: Broker
    ) -> None:
        session, newcomer = member(recheck=0.0), member()
        token = session.current()
        broker.kill()

        started = time.monotonic()
        assert all(session.current() == token for _ in range(50))
        with pytest.raises(StoreUnavailable):
            newcomer.current()
        assert time.monotonic() - started < 0.6

        with pytest.raises(StoreUnavailable):
            session.rejected(token)
        assert token_calls(sandbox) == 1

    def test_a_copy_is_used_to_its_end_and_not_beyond(
        self, member: Member, configure: Configure, broker: Broker
    ) -> None:
        session = member(configure(token_ttl=0.8), store_pause=0.01)
        token = session.current()
        ends = time.monotonic() + (session.state().expires_in or 0)
        broker.kill()

        until(lambda: time.monotonic() > ends - 0.03, every=0.002)
        assert session.current() == token
        until(lambda: time.monotonic() > ends + 0.01, every=0.002)
        with pytest.raises(StoreUnavailable):
            session.current()

    def test_a_lost_session_is_replaced_while_the_copy_is_used(
        self, member: Member, sandbox: SandboxControl, broker: Broker
    ) -> None:
        session = member(recheck=0.0)
        token = session.current()
        sandbox.switches(latency={"token": 0.2})
        broker.flush()

        started = time.monotonic()
        assert session.current() == token
        assert time.monotonic() - started < 0.15
        assert until(lambda: session.current().generation > token.generation)

    @pytest.mark.failure_mode("F31")
    def test_each_loss_costs_one_login(self, member: Member, sandbox: SandboxControl, broker: Broker) -> None:
        members = [member(recheck=0.01) for _ in range(4)]
        generations = []
        for _ in range(3):
            newest = max([0, *generations])
            broker.flush()
            generations.append(until(lambda newest=newest: above(newest, members)))

        assert generations == sorted(generations)
        assert sandbox.counters()["logins"] == 3


def above(generation: int, members: list[SharedSession]) -> int:
    """The generation all members have come to use, if it is a newer one."""
    found = {token.generation for token in together(*[member.current for member in members])}
    return min(found) if len(found) == 1 and min(found) > generation else 0


class TestKeyRotation:
    @pytest.mark.failure_mode("F56")
    def test_a_rehearsal_without_a_restart_and_without_a_failed_call(
        self, member: Member, configure: Configure, sandbox: SandboxControl, tmp_path: Path
    ) -> None:
        settings = configure()
        old_id, old_file = settings.key_id[0], settings.private_key_file[0]
        session = member(configure(key_id=f"new,{old_id}", private_key_file=f"{tmp_path}/new.pem,{old_file}"))
        session.current()
        assert session.state().key_id == old_id

        new = new_key_pair(tmp_path, "new")  # written, and not yet registered
        session.forget()
        assert session.current().generation
        assert session.state().key_id == old_id

        sandbox.register_key("new", new.public_key)
        session.forget()
        assert session.current().generation
        assert session.state().key_id == "new"

        sandbox.withdraw_key(old_id)
        Path(old_file).rename(tmp_path / "old.pem")
        try:
            session.forget()
            assert session.current().generation
        finally:
            (tmp_path / "old.pem").rename(old_file)

    @pytest.mark.failure_mode("F56")
    def test_a_new_key_ends_the_rest_after_a_refused_login(
        self, member: Member, configure: Configure, sandbox: SandboxControl, tmp_path: Path
    ) -> None:
        wrong = new_key_pair(tmp_path, "test-key")
        session = member(configure(private_key_file=wrong.private_file), recheck=0.05)
        with pytest.raises(CredentialsRejected):
            session.current()

        wrong.private_file.unlink()
        sandbox.register_key("test-key", new_key_pair(tmp_path, "test-key").public_key)

        assert until(lambda: token_or_none(session))

    @pytest.mark.failure_mode("F57")
    def test_a_session_no_storage_key_opens_costs_one_login(
        self, member: Member, configure: Configure, sandbox: SandboxControl, tmp_path: Path
    ) -> None:
        member().current()
        other = member(configure(storage_key_file=new_storage_key(tmp_path)))

        assert not other.state().readable
        assert other.current().generation
        assert other.state().readable
        assert sandbox.counters()["logins"] == 2


def token_or_none(session: SharedSession) -> object:
    try:
        return session.current()
    except CredentialsRejected:
        return None


class TestKeysThatGoBadAtWork:
    """They were checked at start: later on they are a login that cannot be made, and no operation fails for it."""

    @pytest.mark.parametrize("setting", ["private_key_file", "storage_key_file"])
    def test_nobody_may_log_in_until_they_are_mended(
        self, member: Member, configure: Configure, tmp_path: Path, setting: str
    ) -> None:
        settings = configure()
        original = settings.storage_key_file if setting == "storage_key_file" else settings.private_key_file[0]
        copy = tmp_path / "copy"
        copy.write_bytes(original.read_bytes())
        copy.chmod(0o644)
        session = member(configure(**{setting: copy}), recheck=0.05, terminal=0.2)

        with pytest.raises(CredentialsRejected, match="chmod 600"):
            session.current()

        copy.chmod(0o600)
        assert until(lambda: token_or_none(session))


class TestLookingAtIt:
    def test_the_state_tells_all_but_the_token(self, member: Member) -> None:
        session = member()
        assert session.state().generation == 0

        token = session.current()

        state = session.state()
        assert (state.generation, state.fingerprint) == (token.generation, token.fingerprint)
        assert (state.origin, state.key_id, state.readable) == ("jwt", "test-key", True)
        assert 0 < (state.renews_in or 0) < (state.expires_in or 0) <= 600
        assert token.access not in repr(state)

    def test_forgetting_costs_one_login_and_generations_go_on(self, member: Member, sandbox: SandboxControl) -> None:
        session = member()
        before = session.current()

        session.forget()

        assert session.state().generation == 0
        assert session.current().generation > before.generation
        assert sandbox.counters()["logins"] == 2

    def test_looking_costs_a_process_one_round_trip_a_second(self, member: Member, broker: Broker) -> None:
        session = member()
        session.current()
        with broker.client as client:
            before = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
            ends = time.monotonic() + 1.2
            while time.monotonic() < ends:
                session.current()
            after = client.info("commandstats")["cmdstat_evalsha"]["calls"]

        assert after - before <= 2
