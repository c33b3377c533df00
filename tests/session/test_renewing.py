"""Who renews and when: early by one process, late with everybody waiting."""

import threading
import time
from collections.abc import Callable

import pytest

from tests.conftest import Configure, Member
from tests.session.fleet import store_of, together, token_calls
from tests.support import until
from worker.errors import (
    SessionUnavailable,
)
from worker.sandbox.control_client import SandboxControl
from worker.session import key_files
from worker.session.redis_store import RenewalLease
from worker.session.secret import Secret
from worker.session.shared_session import SharedSession
from worker.session.timings import Timings
from worker.session.token_encryption import seal
from worker.session.tokens import Pair, fingerprint
from worker.testbed.broker import Broker


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
        assert session.renew(force=True, wait=15).outcome == "refresh"

    @pytest.mark.failure_mode("F46")
    def test_without_beat_callers_renew_in_time(
        self, member: Member, sandbox: SandboxControl, configure: Configure
    ) -> None:
        sandbox.switches(access_lifetime=0.6)
        session = member(configure().model_copy(update={"token_ttl": 0.6}))
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

        assert max(waited) < 0.5 + 5
        assert token_calls(sandbox) == 1

    def test_while_a_token_is_valid_for_long_nobody_waits_for_the_next(
        self, member: Member, sandbox: SandboxControl, due: Callable[[], None]
    ) -> None:
        old = member().current()
        due()
        sandbox.switches(latency={"token": 1.0})
        session = member(recheck=0.01)

        started = time.monotonic()
        assert session.current() == old
        assert time.monotonic() - started < 0.9
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
            client.hset(session_key(), "expires_at", int(client.time()[0]) * 1000 + 20_000)
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
            client.hset(session_key(), "expires_at", int(client.time()[0]) * 1000 + 20_000)
        sandbox.switches(latency={"token": 0.6})
        session = member()

        assert session.current(wait=0.2) == old
        assert session.current() != old

    def test_nobody_waits_longer_than_asked_for_and_the_leader_continues(
        self, member: Member, sandbox: SandboxControl
    ) -> None:
        sandbox.switches(latency={"token": 1.5})
        session = member()

        started = time.monotonic()
        with pytest.raises(SessionUnavailable) as late:
            session.current(wait=0.2)

        assert time.monotonic() - started < 1.4
        assert late.value.retry_after
        assert session.current(wait=15).generation
        assert token_calls(sandbox) == 1

    def test_who_waits_for_another_leader_asks_redis_a_few_times(
        self, member: Member, configure: Configure, broker: Broker
    ) -> None:
        leading = store_of(configure(), Timings())
        assert isinstance(leading.acquire("another", 0, "keys"), RenewalLease)
        session = member()

        with broker.client as client:
            before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
            assert session.renew(wait=0.5).outcome == "busy"
            with pytest.raises(SessionUnavailable):
                session.current(wait=0.5)
            after = client.info("commandstats")["cmdstat_evalsha"]["calls"]

        assert after - before <= 2 * 2 * 0.5 / 0.02 + 10

    @pytest.mark.failure_mode("F27")
    def test_a_life_counts_from_before_the_call_and_on_redis_clock(
        self, member: Member, sandbox: SandboxControl, configure: Configure
    ) -> None:
        clock = {"ahead": 0.0}
        session = member(configure(token_ttl=30), wall=lambda: time.time() + clock["ahead"])
        sandbox.switches(latency={"token": 0.4})
        session.current()

        left = session.state().expires_in or 0
        clock["ahead"] = 3600.0

        assert left <= 30 - 0.4  # the call is part of the life, however long all else took
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
        store = store_of(settings, Timings(pace=0.001))
        fernet = key_files.storage_keys(settings)
        done = threading.Event()
        torn: list[str] = []

        def read() -> None:
            reader = member(settings, recheck=0.0)
            while not done.is_set():
                token = reader.current()
                if token.access != f"access-{token.generation}":
                    torn.append(f"{token!r}")

        def commit(expected: int) -> int:
            lease = store.acquire("writer", expected, "keys")
            assert isinstance(lease, RenewalLease)
            access = Secret(f"access-{lease.generation}")
            blob = seal(fernet, store.key_prefix, lease.generation, Pair(access, None))
            store.commit(
                lease,
                blob,
                store.now(),
                60.0,
                50.0,
                "login",
                "k",
                fingerprint(access),
            )
            return lease.generation

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
