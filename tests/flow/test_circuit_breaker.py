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
    assert (breaker.available(50, urgent=True), breaker.take(50, urgent=True)) == (50, 50)
    assert breaker.until_probe_s(urgent=True) == 0.0


def test_failures_with_a_success_between_them_do_not_open_it(breaker: CircuitBreaker) -> None:
    assert not any(fail(breaker, FAILURES_TO_OPEN - 1))
    assert not breaker.record_success()
    assert not any(fail(breaker, FAILURES_TO_OPEN - 1))

    assert not breaker.is_open
    assert breaker.take(50, urgent=True) == 50


def test_failures_in_a_row_open_it(breaker: CircuitBreaker) -> None:
    opened = fail(breaker, FAILURES_TO_OPEN + 3)

    assert breaker.is_open
    assert (breaker.available(50, urgent=True), breaker.take(50, urgent=True)) == (0, 0)
    assert 0 < breaker.until_probe_s(urgent=True) <= 0.1
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
        until(lambda: breaker.until_probe_s(urgent=True) == 0.0)

        assert breaker.available(50, urgent=True) == 1
        assert [breaker.take(50, urgent=True) for _ in range(3)] == [1, 0, 0]
        breaker.record_failure()
        assert breaker.is_open


def test_asking_what_is_available_takes_no_probe(breaker: CircuitBreaker) -> None:
    fail(breaker)
    until(lambda: breaker.until_probe_s(urgent=True) == 0.0)

    assert [breaker.available(1, urgent=True) for _ in range(3)] == [1, 1, 1]
    assert breaker.take(0, urgent=True) == 0
    assert breaker.take(1, urgent=True) == 1


def test_a_process_that_may_not_probe_asks_again_when_it_is_told_to() -> None:
    answers = [1.0, 0.0]
    breaker = CircuitBreaker(reserve_probe=lambda: answers.pop(0))
    fail(breaker)
    until(lambda: breaker.until_probe_s(urgent=True) == 0.0)

    assert breaker.available(1, urgent=True) == 1
    assert breaker.take(1, urgent=True) == 0
    assert 0.5 < breaker.until_probe_s(urgent=True) <= 1.0
    until(lambda: breaker.until_probe_s(urgent=True) == 0.0)
    assert breaker.take(1, urgent=True) == 1


def test_one_success_closes_it(breaker: CircuitBreaker) -> None:
    fail(breaker)

    assert breaker.record_success()
    assert not breaker.record_success()
    assert not breaker.is_open
    assert breaker.take(50, urgent=True) == 50


def test_times_opened_counts_the_openings(breaker: CircuitBreaker) -> None:
    for opening in (1, 2):
        fail(breaker, FAILURES_TO_OPEN * 2)
        assert breaker.times_opened == opening
        breaker.record_success()


class Clock:
    """What the breakers take for the time, in seconds."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def probes_of(monkeypatch: pytest.MonkeyPatch, *asking: tuple[bool, ...]) -> list[tuple[int, bool]]:
    """Return who made the probes in two seconds: the number of the process, and whether the probe was urgent.

    `asking`: of each process, which probes it asks for, urgent or not, in this order.
    """
    clock, reserved_until, made = Clock(), 0.0, list[tuple[int, bool]]()
    monkeypatch.setattr(circuit_breaker, "time", clock)

    def reserve() -> float:
        nonlocal reserved_until
        if clock.now < reserved_until:
            return reserved_until - clock.now
        reserved_until = clock.now + circuit_breaker.RESERVED * circuit_breaker.PROBE_EVERY_S
        return 0.0

    fleet = [CircuitBreaker(reserve) for _ in asking]
    for breaker in fleet:
        fail(breaker)
    for _ in range(2000):
        clock.now += 0.001
        for number, breaker in enumerate(fleet):
            for urgent in asking[number]:
                made += [(number, urgent)] * breaker.take(breaker.available(1, urgent), urgent)
    return made


def test_urgent_probes_go_first_and_leave_others_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = probes_of(monkeypatch, (False, True), (False,), (False,))

    assert [urgent for _, urgent in made[:6]] == [True, False] * 3


def test_other_probes_are_made_although_urgent_ones_are_asked_for_by_every_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = probes_of(monkeypatch, *[(True, False)] * 3)

    assert [urgent for _, urgent in made].count(False) >= len(made) / 4


@pytest.mark.parametrize("urgent", [True, False])
def test_processes_that_ask_for_the_same_take_turns(monkeypatch: pytest.MonkeyPatch, urgent: bool) -> None:
    made = probes_of(monkeypatch, (urgent,), (urgent,))

    assert [number for number, _ in made[:6]] == [0, 1] * 3


@pytest.mark.parametrize("urgent", [True, False])
def test_a_single_process_probes_once_an_interval(monkeypatch: pytest.MonkeyPatch, urgent: bool) -> None:
    assert 18 <= len(probes_of(monkeypatch, (urgent,))) <= 20


def test_a_probe_that_has_shown_nothing_is_followed_soon_by_an_urgent_one_first(
    monkeypatch: pytest.MonkeyPatch, breaker: CircuitBreaker
) -> None:
    clock = Clock()
    monkeypatch.setattr(circuit_breaker, "time", clock)
    monkeypatch.setattr(circuit_breaker, "PROBE_EVERY_S", 60.0)
    fail(breaker)
    clock.now += 70.0
    assert breaker.take(1, urgent=False) == 1

    breaker.allow_next_probe()

    waits_s = [breaker.until_probe_s(urgent) for urgent in (True, False)]
    assert waits_s == pytest.approx([circuit_breaker.NEXT_PROBE_S / 2, circuit_breaker.NEXT_PROBE_S])
    clock.now += 1.0
    breaker.allow_next_probe()
    assert [breaker.available(1, urgent) for urgent in (True, False)] == [1, 1]  # it makes no probe later
