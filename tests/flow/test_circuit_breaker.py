"""While a destination is unavailable, one call per interval probes it."""

import pytest

from tests.support import until
from worker.flow import circuit_breaker
from worker.flow.circuit_breaker import FAILURES_TO_OPEN, CircuitBreaker


@pytest.fixture(autouse=True)
def _probe_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "PROBE_EVERY_S", 0.1)


@pytest.fixture
def breaker() -> CircuitBreaker:
    return CircuitBreaker(reserve_probe=lambda: 0.0)


def fail(breaker: CircuitBreaker, times: int = FAILURES_TO_OPEN) -> list[bool]:
    """Record failures; return for each of them whether it opened the breaker."""
    return [breaker.record_failure() for _ in range(times)]


def test_a_closed_breaker_lets_everything_pass(breaker: CircuitBreaker) -> None:
    assert (breaker.available(50), breaker.take(50)) == (50, 50)
    assert breaker.until_probe_s() == 0.0


def test_failures_with_a_success_between_them_do_not_open_it(breaker: CircuitBreaker) -> None:
    assert not any(fail(breaker, FAILURES_TO_OPEN - 1))
    assert not breaker.record_success()
    assert not any(fail(breaker, FAILURES_TO_OPEN - 1))

    assert not breaker.is_open
    assert breaker.take(50) == 50


def test_failures_in_a_row_open_it(breaker: CircuitBreaker) -> None:
    opened = fail(breaker, FAILURES_TO_OPEN + 3)

    assert breaker.is_open
    assert (breaker.available(50), breaker.take(50)) == (0, 0)
    assert 0 < breaker.until_probe_s() <= 0.1
    assert opened.count(True) == 1
    assert opened.index(True) == FAILURES_TO_OPEN - 1


def test_five_failures_open_it_and_four_do_not(breaker: CircuitBreaker) -> None:
    assert not any(fail(breaker, 4))
    assert breaker.record_failure()


def test_one_failure_opens_a_breaker_that_is_made_so() -> None:
    breaker = CircuitBreaker(lambda: 0.0, failures_to_open=1)

    assert breaker.record_failure()

    assert breaker.is_open


def test_an_open_breaker_lets_one_probe_pass_per_interval(breaker: CircuitBreaker) -> None:
    fail(breaker)
    for _ in range(2):
        until(lambda: breaker.until_probe_s() == 0.0)

        assert breaker.available(50) == 1
        assert [breaker.take(50) for _ in range(3)] == [1, 0, 0]
        breaker.record_failure()
        assert breaker.is_open


def test_asking_what_is_available_takes_no_probe(breaker: CircuitBreaker) -> None:
    fail(breaker)
    until(lambda: breaker.until_probe_s() == 0.0)

    assert [breaker.available(1) for _ in range(3)] == [1, 1, 1]
    assert breaker.take(0) == 0
    assert breaker.take(1) == 1


def test_a_process_that_may_not_probe_asks_again_when_it_is_told_to() -> None:
    answers = [1.0, 0.0]
    breaker = CircuitBreaker(reserve_probe=lambda: answers.pop(0))
    fail(breaker)
    until(lambda: breaker.until_probe_s() == 0.0)

    assert breaker.available(1) == 1
    assert breaker.take(1) == 0
    assert 0.5 < breaker.until_probe_s() <= 1.0
    until(lambda: breaker.until_probe_s() == 0.0)
    assert breaker.take(1) == 1


def test_one_success_closes_it(breaker: CircuitBreaker) -> None:
    fail(breaker)

    assert breaker.record_success()
    assert not breaker.record_success()
    assert not breaker.is_open
    assert breaker.take(50) == 50


def test_times_opened_counts_the_openings(breaker: CircuitBreaker) -> None:
    for opening in (1, 2):
        fail(breaker, FAILURES_TO_OPEN * 2)
        assert breaker.times_opened == opening
        breaker.record_success()
