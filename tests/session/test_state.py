"""Looking at the session, and forgetting it."""

import os
import time
from collections.abc import Callable

import pytest

from tests.conftest import Member
from worker.errors import SessionUnavailable
from worker.sandbox.control_client import SandboxControl
from worker.testbed.broker import Broker


class TestLookingAtIt:
    def test_the_state_tells_all_but_the_token(self, member: Member) -> None:
        session = member()
        assert session.state().generation == 0

        token = session.current()

        state = session.state()
        assert (state.generation, state.fingerprint) == (token.generation, token.fingerprint)
        assert (state.origin, state.credential, state.readable) == ("login", "test-key", True)
        assert 0 < (state.renews_in or 0) < (state.expires_in or 0) <= 600
        assert not state.refresh_token_used
        assert state.written_by is not None
        assert state.written_by.startswith(f"{os.uname().nodename}:{os.getpid()}:")
        assert (state.leader, state.cooldown) == (None, None)
        assert token.access not in repr(state)

    def test_its_durations_are_in_seconds_from_now(
        self, member: Member, broker: Broker, session_key: Callable[[], str]
    ) -> None:
        session = member()
        session.current()
        with broker.client as client:
            due_ms = int(client.hget(session_key(), "renew_after") or 0)
            client.hset(session_key(), "refresh_token_used_by", "ada")

        state = session.state()

        made_ms = session.clock() - (state.age or 0) * 1000
        assert (state.age or 0) + (state.expires_in or 0) == pytest.approx(600, abs=0.01)
        assert (state.renews_in or 0) + (state.age or 0) == pytest.approx((due_ms - made_ms) / 1000, abs=0.2)
        assert state.refresh_token_used

    def test_a_copy_is_used_without_waiting_for_whoever_reads_redis(self, member: Member) -> None:
        session, newcomer = member(recheck=0.0), member()
        token = session.current()
        assert session.cached() is None
        assert (newcomer.current(), newcomer.cached()) == (token, token)

        with session._member()._lock:
            assert session.current(wait=20.0) == token
            with pytest.raises(SessionUnavailable, match="no access token yet"):
                session.rejected(token, wait=0.05)

    def test_a_token_that_was_refused_is_replaced_by_the_newer_copy(
        self, member: Member, sandbox: SandboxControl
    ) -> None:
        session = member()
        old = session.current()
        session.renew(force=True, wait=15)
        new = session.current()

        assert session.rejected(old) == new
        assert session.current() == new
        assert sandbox.counters()["logins"] == 1

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
