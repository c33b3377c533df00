"""While B2COPY is away it is asked once in a while, by one call."""

import pytest

from tests.support import until
from worker.flow import circuit_breaker
from worker.flow.circuit_breaker import FAILURES_TO_OPEN, CircuitBreaker


@pytest.fixture
def closed() -> list[str]:
    return []


@pytest.fixture
def breaker(closed: list[str], monkeypatch: pytest.MonkeyPatch) -> CircuitBreaker:
    monkeypatch.setattr(circuit_breaker, "PROBE_EVERY", 0.1)
    return CircuitBreaker(lambda: closed.append("closed"))


def fail(breaker: CircuitBreaker, times: int = FAILURES_TO_OPEN) -> None:
    for _ in range(times):
        breaker.failed()


def test_closed_it_lets_everything_through(breaker: CircuitBreaker) -> None:
    assert breaker.allowance(50) == 50
    assert breaker.until_probe() == 0.0


def test_some_failures_do_not_open_it(breaker: CircuitBreaker) -> None:
    fail(breaker, FAILURES_TO_OPEN - 1)
    breaker.succeeded()
    fail(breaker, FAILURES_TO_OPEN - 1)

    assert not breaker.open
    assert breaker.allowance(50) == 50


def test_failures_in_a_row_open_it(breaker: CircuitBreaker) -> None:
    fail(breaker)

    assert breaker.open
    assert breaker.allowance(50) == 0
    assert 0 < breaker.until_probe() <= 0.1


def test_open_it_lets_one_probe_through_per_interval(breaker: CircuitBreaker) -> None:
    fail(breaker)
    until(lambda: breaker.until_probe() == 0.0)

    assert [breaker.allowance(50) for _ in range(3)] == [1, 0, 0]
    breaker.failed()
    assert breaker.open
    until(lambda: breaker.until_probe() == 0.0)
    assert [breaker.allowance(50) for _ in range(3)] == [1, 0, 0]


def test_nobody_who_wants_nothing_uses_up_the_probe(breaker: CircuitBreaker) -> None:
    fail(breaker)
    until(lambda: breaker.until_probe() == 0.0)

    assert breaker.allowance(0) == 0
    assert breaker.allowance(1) == 1


def test_one_success_closes_it_and_releases_what_waited(breaker: CircuitBreaker, closed: list[str]) -> None:
    fail(breaker)
    breaker.succeeded()

    assert not breaker.open
    assert breaker.allowance(50) == 50
    breaker.succeeded()
    assert closed == ["closed"]


def test_a_success_while_closed_releases_nothing(breaker: CircuitBreaker, closed: list[str]) -> None:
    fail(breaker, FAILURES_TO_OPEN - 1)
    breaker.succeeded()

    assert closed == []


def test_each_opening_is_told_from_the_last(breaker: CircuitBreaker) -> None:
    for opening in (1, 2):
        fail(breaker, FAILURES_TO_OPEN * 2)
        assert breaker.epoch == opening
        breaker.succeeded()
