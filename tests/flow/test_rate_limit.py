"""One rate limit for the whole fleet, counted in a real broker."""

import time

import pytest

from worker.flow import rate_limit
from worker.flow.rate_limit import Limiter
from worker.settings import Settings, worker_settings
from worker.testbed.environment import Stage

PATIENCE = 1.5


@pytest.fixture
def settings(in_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(rate_limit, "PATIENCE", PATIENCE)
    return worker_settings()


def limited(settings: Settings, rate: str) -> Limiter:
    return Limiter(settings.model_copy(update={"rate_limit": rate}))


def granted_at_once(limiter: Limiter, urgent: bool, most: int) -> int:
    """How many turns come without waiting."""
    for turns in range(most):
        asked = time.monotonic()
        if not limiter.wait(urgent) or time.monotonic() - asked > 0.2:
            return turns
    return most


def test_without_a_limit_nobody_waits_and_redis_is_not_asked(settings: Settings, in_stage: Stage) -> None:
    nowhere = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    limiter = limited(nowhere, "0")

    assert limiter.per_second is None
    assert all(limiter.wait(urgent=False) for _ in range(1000))


@pytest.mark.parametrize(("rate", "per_second"), [("10/second", 10.0), ("600/minute", 10.0), ("36000/hour", 10.0)])
def test_a_rate_is_known_in_calls_per_second(settings: Settings, rate: str, per_second: float) -> None:
    assert limited(settings, rate).per_second == per_second


def test_two_processes_share_one_limit(settings: Settings) -> None:
    one, other = limited(settings, "8/minute"), limited(settings, "8/minute")

    assert [one.wait(urgent=True) for _ in range(5)] == [True] * 5
    assert [other.wait(urgent=True) for _ in range(3)] == [True] * 3
    asked = time.monotonic()
    assert not other.wait(urgent=True)
    assert PATIENCE * 0.9 < time.monotonic() - asked < PATIENCE + 1


def test_the_last_fifth_is_for_what_is_urgent(settings: Settings) -> None:
    limiter = limited(settings, "10/minute")

    assert granted_at_once(limiter, urgent=False, most=20) == 8
    assert [limiter.wait(urgent=True) for _ in range(2)] == [True, True]


def test_a_turn_comes_with_the_next_window(settings: Settings) -> None:
    limiter = limited(settings, "5/second")

    began = time.monotonic()
    assert all(limiter.wait(urgent=True) for _ in range(9))
    assert time.monotonic() - began >= 0.7


def test_while_redis_is_away_nobody_gets_a_turn(settings: Settings, in_stage: Stage) -> None:
    limiter = limited(settings, "100/second")
    assert limiter.wait(urgent=True)

    in_stage.broker.kill()
    assert not limiter.wait(urgent=True)

    in_stage.broker.start()
    assert limiter.wait(urgent=True)
