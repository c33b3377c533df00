"""PollSpacing of pending runs take at most half of the capacity."""

import pytest
from sqlalchemy.exc import OperationalError

from worker.flow.poll_spacing import PollSpacing


def test_under_a_rate_limit_half_of_it_polls() -> None:
    polls = PollSpacing(lambda: 10_000, concurrency=10, per_second=10.0)

    assert polls.apart(0.05) == pytest.approx(10_000 / 5)


def test_without_one_the_capacity_is_what_the_calls_were_measured_to_take() -> None:
    polls = PollSpacing(lambda: 1_000, concurrency=10, per_second=None)

    assert polls.apart(0.1) == pytest.approx(1_000 / 50)  # 10 at once, 0.1 s each: 100/s, half of it polls
    for _ in range(100):
        slower = polls.apart(0.4)
    assert slower == pytest.approx(1_000 / 12.5, rel=0.01)


def test_a_few_pending_runs_are_not_stretched() -> None:
    assert PollSpacing(lambda: 3, concurrency=10, per_second=None).apart(0.01) < 0.01


def test_an_answer_that_took_no_time_is_no_endless_capacity() -> None:
    assert PollSpacing(lambda: 10_000, concurrency=10, per_second=None).apart(0.0) > 1


def test_the_ledger_is_asked_once_a_second_however_many_polls_there_are() -> None:
    asked: list[int] = []

    def pending() -> int:
        asked.append(1)
        return 100

    polls = PollSpacing(pending, concurrency=10, per_second=10.0)
    assert {polls.apart(0.01) for _ in range(1000)} == {20.0}
    assert len(asked) == 1


def test_while_the_ledger_is_away_the_last_count_stands() -> None:
    def away() -> int:
        raise OperationalError("SELECT", {}, Exception("gone"))

    assert PollSpacing(away, concurrency=10, per_second=10.0).apart(0.01) == 0.0


def test_a_process_that_was_frozen_does_not_take_b2copy_for_slow() -> None:
    polls = PollSpacing(lambda: 100, concurrency=10, per_second=None)
    usual = polls.apart(0.2)

    for _ in range(10):  # in flight when it was frozen
        frozen = polls.apart(15.0)

    assert frozen < usual * 2
