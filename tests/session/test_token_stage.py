"""When a session is renewed: one table."""

from collections.abc import Callable
from functools import partial

import pytest

from worker.session.redis_store import Stored
from worker.session.timings import Timings
from worker.session.token_stage import Stage, stage

LIFE_S = 600
STORED = Stored(
    generation=1,
    blob=b"",
    obtained_at=1_000_000,
    life=LIFE_S * 1000,
    renew_after=1_000_000 + 400_000,
    expires_at=1_000_000 + LIFE_S * 1000,
    origin="login",
    credential="key",
    written_by="ada",
    fingerprint="0",
    refresh_token_used_by=None,
)


@pytest.mark.parametrize(
    ("age_s", "beat", "worker"),
    [
        (-5, Stage.FRESH, Stage.FRESH),
        (0, Stage.FRESH, Stage.FRESH),
        (399.999, Stage.FRESH, Stage.FRESH),
        (400, Stage.EARLY, Stage.FRESH),
        (429.999, Stage.EARLY, Stage.FRESH),
        (430, Stage.EARLY, Stage.EARLY),
        (569.999, Stage.EARLY, Stage.EARLY),
        (570, Stage.BLOCKING, Stage.BLOCKING),
        (599.999, Stage.BLOCKING, Stage.BLOCKING),
        (600, Stage.GONE, Stage.GONE),
        (10_000, Stage.GONE, Stage.GONE),
    ],
)
def test_beat_renews_early_and_workers_a_little_later(age_s: float, beat: Stage, worker: Stage) -> None:
    now = STORED.obtained_at + round(age_s * 1000)
    timings = Timings()

    assert STORED.life_s == LIFE_S
    assert stage(STORED, now, timings) is beat
    assert stage(STORED, now, timings, grace_s=timings.grace(LIFE_S)) is worker


@pytest.mark.parametrize(("life_s", "blocking_s"), [(3, 0.6), (60, 12), (150, 30), (86_400, 30)])
def test_callers_wait_in_the_last_fifth_of_a_life_or_its_last_30_seconds(life_s: float, blocking_s: float) -> None:
    assert Timings().blocking_for(life_s) == pytest.approx(blocking_s)


@pytest.mark.parametrize("life_s", [0.6, 3, 60, 600, 86_400])
def test_a_renewal_begins_before_anybody_has_to_wait_for_it(life_s: float) -> None:
    timings = Timings()

    latest = max(timings.renew_after(life_s) for _ in range(100)) + timings.grace(life_s)

    assert latest <= life_s - timings.blocking_for(life_s)


def test_each_wait_is_a_part_of_the_tokens_life_and_has_a_bound() -> None:
    timings = Timings()

    assert (timings.grace(100.0), timings.grace(600.0)) == (5.0, 30.0)
    assert (timings.recheck_for(5.0), timings.recheck_for(600.0)) == (0.5, 1.0)
    assert (timings.pace_for(1.0), timings.pace_for(600.0)) == (0.5, 2.0)
    assert timings.session_ttl == 86_400.0  # within a day: `SharedSession.sessions`
    assert timings.login_attempts == 3
    assert timings.checked() is timings


def test_waits_of_many_processes_are_drawn_apart() -> None:
    timings = Timings()

    def drawn(wait: Callable[[], float], least: float, most: float) -> bool:
        found = [wait() for _ in range(200)]
        assert least <= min(found)
        assert max(found) <= most
        return max(found) - min(found) > (most - least) / 2

    assert drawn(lambda: timings.renew_after(100.0), 60.0, 75.0)
    assert drawn(timings.poll_pause, 0.02, 0.06)
    for failures, longest in [(0, 0.5), (1, 1.0), (2, 2.0), (3, 4.0), (4, 4.0), (10**6, 4.0)]:
        assert drawn(partial(timings.cooldown_for, failures), longest / 2, longest)
