"""Looking at the session, and forgetting it."""

import time

from tests.conftest import Member
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
