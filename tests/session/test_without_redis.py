"""What a process does while Redis does not answer, or has lost everything."""

import time
from collections.abc import Iterator
from functools import partial

import pytest
from prometheus_client import REGISTRY

from tests.conftest import Configure, Member
from tests.session.fleet import above, token_calls
from tests.slow_redis import redis_behind_a_slow_line
from tests.support import until
from worker.errors import (
    StoreUnavailable,
)
from worker.sandbox.control_client import SandboxControl
from worker.testbed.broker import Broker


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
        before = REGISTRY.get_sample_value("b2copy_session_store_unavailable_total") or 0.0
        with pytest.raises(StoreUnavailable):
            newcomer.current()
        assert REGISTRY.get_sample_value("b2copy_session_store_unavailable_total") == before + 1
        assert time.monotonic() - started < 5

        with pytest.raises(StoreUnavailable):
            session.rejected(token)
        assert session.current() == token, "another route may take the token that one route refused"
        assert token_calls(sandbox) == 1

    def test_a_copy_is_used_to_its_end_and_not_beyond(
        self, member: Member, configure: Configure, broker: Broker
    ) -> None:
        session = member(configure(token_ttl=1.2), store_pause=0.01)
        token = session.current()
        life = session.state().expires_in or 0
        ends = time.monotonic() + life  # at the latest
        broker.kill()

        until(lambda: time.monotonic() > ends - 0.4)
        assert session.current() == token
        until(lambda: time.monotonic() > ends)
        with pytest.raises(StoreUnavailable):
            session.current()

    def test_a_lost_session_is_replaced_while_the_copy_is_used(
        self, member: Member, sandbox: SandboxControl, broker: Broker
    ) -> None:
        session = member(recheck=0.0)
        token = session.current()
        sandbox.switches(latency={"token": 1.0})
        broker.flush()

        started = time.monotonic()
        assert session.current() == token
        assert time.monotonic() - started < 0.9
        assert until(lambda: session.current().generation > token.generation)

    @pytest.mark.failure_mode("F31")
    def test_each_loss_costs_one_login(self, member: Member, sandbox: SandboxControl, broker: Broker) -> None:
        members = [member(recheck=0.01) for _ in range(4)]
        generations: list[int] = []
        for _ in range(3):
            newest = max([0, *generations])
            broker.flush()
            generations.append(until(partial(above, newest, members)))

        assert generations == sorted(generations)
        assert sandbox.counters()["logins"] == 3


@pytest.fixture
def slow_url(broker: Broker) -> Iterator[str]:
    with redis_behind_a_slow_line(broker.port, delay_s=0.4) as port:
        yield broker.url.replace(str(broker.port), str(port))


class TestASlowRedis:
    def test_gives_and_renews_a_session(self, member: Member, configure: Configure, slow_url: str) -> None:
        session = member(configure(redis_url=slow_url), store_timeout=0.25)

        token = session.current(wait=30)

        assert session.renew(force=True, wait=30).outcome == "refresh"
        assert session.rejected(token, wait=30).generation > token.generation

    @pytest.mark.failure_mode("F30")
    def test_does_not_delay_a_caller_that_has_a_token(
        self, member: Member, configure: Configure, slow_url: str
    ) -> None:
        session = member(configure(redis_url=slow_url), store_timeout=0.05, recheck=0.0)
        token = session.current(wait=30)

        started = time.monotonic()
        assert [session.current() for _ in range(10)] == [token] * 10
        assert time.monotonic() - started < 0.4
        assert session.state().generation == token.generation  # who has no token is not kept from asking
