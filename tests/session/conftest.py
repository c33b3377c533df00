"""Fixtures of the session's tests: what Redis holds of it."""

from collections.abc import Callable

import pytest

from worker.testbed.broker import Broker


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
            client.hset(session_key(), "renew_after", 0)
            client.delete(session_key().replace(":session", ":pace"))

    return make
