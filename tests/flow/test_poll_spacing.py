"""Polls of pending operations take at most half of the capacity."""

import asyncio
import threading

import pytest
from sqlalchemy.exc import OperationalError

from worker.flow import poll_spacing
from worker.flow.poll_spacing import PollSpacing


def counted(spacing: PollSpacing) -> PollSpacing:
    asyncio.run(spacing.recount())
    return spacing


def test_under_a_rate_limit_polls_take_half_of_it() -> None:
    spacing = counted(PollSpacing(lambda: 10_000, concurrency=10, per_second=10.0))

    assert spacing.between_polls_s(0.05) == pytest.approx(10_000 / 5)


def test_without_a_limit_the_capacity_is_measured_from_the_calls() -> None:
    spacing = counted(PollSpacing(lambda: 1_000, concurrency=10, per_second=None))

    assert spacing.between_polls_s(0.1) == pytest.approx(1_000 / 50)  # 10 at once, 0.1 s each: 100/s, half of it polls
    for _ in range(100):
        slower = spacing.between_polls_s(0.4)
    assert slower == pytest.approx(1_000 / 12.5, rel=0.01)


def test_a_few_pending_operations_are_polled_as_scheduled() -> None:
    assert counted(PollSpacing(lambda: 3, concurrency=10, per_second=None)).between_polls_s(0.01) < 0.01


def test_an_answer_that_took_no_time_does_not_mean_endless_capacity() -> None:
    assert counted(PollSpacing(lambda: 10_000, concurrency=10, per_second=None)).between_polls_s(0.0) > 1


def test_the_ledger_counts_once_a_second_however_many_polls_there_are() -> None:
    counts: list[int] = []

    def count_pending() -> int:
        counts.append(1)
        return 100

    spacing = PollSpacing(count_pending, concurrency=10, per_second=10.0)

    async def poll_at_once() -> set[float]:
        async def poll() -> float:
            await spacing.recount()
            return spacing.between_polls_s(0.01)

        return set(await asyncio.gather(*[poll() for _ in range(1000)]))

    asyncio.run(poll_at_once())
    assert asyncio.run(poll_at_once()) == {20.0}
    assert len(counts) == 1


def test_a_count_that_takes_long_holds_one_thread_and_no_other_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll_spacing, "COUNT_VALID_S", 0.0)
    counts, may_end = list[int](), threading.Event()

    def count_pending() -> int:
        counts.append(1)
        assert may_end.wait(10)
        return 100

    spacing = PollSpacing(count_pending, concurrency=10, per_second=10.0)

    async def poll() -> None:
        first = asyncio.create_task(spacing.recount())
        await asyncio.sleep(0)
        await spacing.recount()
        assert not first.done()
        may_end.set()
        await first

    asyncio.run(poll())
    assert len(counts) == 1
    assert spacing.between_polls_s(0.01) == 20.0


def test_the_last_count_is_used_while_the_ledger_is_unavailable() -> None:
    def count() -> int:
        if counts:
            return counts.pop()
        raise OperationalError("SELECT", {}, Exception("gone"))

    counts = [100]
    spacing = counted(PollSpacing(count, concurrency=10, per_second=10.0))
    usual_s = spacing.between_polls_s(0.01)
    assert usual_s > 0

    spacing._count_again_at = 0.0
    assert counted(spacing).between_polls_s(0.01) == usual_s


def test_calls_that_were_in_flight_while_the_process_was_suspended_do_not_make_b2copy_slow() -> None:
    spacing = counted(PollSpacing(lambda: 100, concurrency=10, per_second=None))
    usual_s = spacing.between_polls_s(0.2)

    for _ in range(10):
        after_suspension_s = spacing.between_polls_s(15.0)

    assert after_suspension_s < usual_s * 2
