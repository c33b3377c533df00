"""A leader that dies or fails frees its lease, and its error is the one that surfaces."""

import os
import signal
import threading
import time
from contextlib import suppress

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from tests.conftest import Configure, Member, quick
from tests.session.fleet import store_of
from tests.support import until
from worker.errors import StoreUnavailable
from worker.sandbox.control_client import SandboxControl
from worker.session.redis_store import RenewalLease
from worker.session.service_admin_login import ServiceAdmin
from worker.session.shared_session import SharedSession
from worker.session.timings import Timings
from worker.testbed.broker import Broker


class TestLeadersThatFail:
    @pytest.mark.failure_mode("F3")
    def test_a_lease_nobody_frees_lapses(self, member: Member, configure: Configure) -> None:
        dead = store_of(configure(), Timings(lease=0.5))
        assert isinstance(dead.acquire("the dead", 0, "keys"), RenewalLease)

        started = time.monotonic()
        assert member().current().generation
        assert time.monotonic() - started < 10

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
            member(wall=clock).renew(force=True, wait=15)

        state = session.state()
        assert state.leader is None
        assert state.refresh_token_used
        assert sandbox.counters()["calls"] == {"authexternalcrm": 1, "refreshtoken": 1}
        assert session.renew(force=True, wait=15).outcome == "login"

    @pytest.mark.failure_mode("F35")
    def test_its_error_is_not_hidden_by_a_lease_that_lapsed(self, member: Member, broker: Broker) -> None:
        def clock() -> float:
            with broker.client as client:
                client.flushall()
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            member(wall=clock).renew()

    def test_a_leader_that_redis_does_not_answer_for_a_moment_frees_the_lease_afterwards(
        self, member: Member, sandbox: SandboxControl, broker: Broker
    ) -> None:
        """Its login is answered with 503, and Redis hangs just when the leader extends the lease for another login."""
        sandbox.faults({"what": "status", "status": 503, "route": "authexternalcrm", "next": 1})
        resumes = threading.Timer(1.0, os.kill, [broker.pid, signal.SIGCONT])
        calls: list[float] = []

        def clock() -> float:
            calls.append(time.time())
            if len(calls) == 1:
                os.kill(broker.pid, signal.SIGSTOP)
                resumes.start()
            return calls[-1]

        leader = member(wall=clock, store_patience=0.6, store_pause=0.1)
        with pytest.raises(StoreUnavailable):
            leader.renew()

        resumes.join()
        assert leader.state().leader is None
        assert leader.state().cooldown is None
        assert member().current().generation
        assert sandbox.counters()["logins"] == 1

    def test_a_lease_whose_answer_was_lost_is_used_by_the_process_that_asked_for_it(
        self, member: Member, configure: Configure, sandbox: SandboxControl, broker: Broker
    ) -> None:
        """Redis hangs just when the lease is requested, and gives it when the process no longer waits."""
        before = member()
        assert before.renew().outcome == "login"  # Redis knows the scripts now
        before.forget()
        frozen: list[int] = []

        class Freezing(ServiceAdmin):
            def fingerprint(self) -> str:
                """Called after the session was read, and before the lease is requested."""
                if not frozen:
                    frozen.append(broker.pid)
                    os.kill(broker.pid, signal.SIGSTOP)
                return super().fingerprint()

        session = SharedSession(configure(), quick(store_patience=0.6, store_pause=0.1), login=Freezing)
        try:
            with pytest.raises(StoreUnavailable):
                session.renew()
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        until(lambda: before.state().leader)

        def is_served() -> bool:
            with suppress(StoreUnavailable):  # Redis is not asked again at once
                return session.current().generation > 0
            return False

        until(is_served, within=5.0)
        assert session.state().leader is None
        assert sandbox.counters()["logins"] == 2
