"""What the fleet shares about a destination, in a real broker: the rate limit, the hold after a 429, the probe."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis

from tests.odd_redis import ODD, redis_that_answers
from tests.support import until
from worker.flow import circuit_breaker, fleet_limits
from worker.flow.circuit_breaker import FAILURES_TO_OPEN, PROBE_EVERY_S, CircuitBreaker
from worker.flow.fleet_limits import FleetLimits
from worker.settings import Settings, worker_settings
from worker.testbed.local_system import Environment
from worker.watch import metrics

NOWHERE = {"redis_url": "redis://127.0.0.1:1/0"}


@pytest.fixture
def settings(active_environment: Environment) -> Settings:
    return worker_settings()


class Clock:
    """What `fleet_limits` takes for the time: seconds, which a test lets pass. The limiter itself has the real one."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.wall


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(fleet_limits, "time", made)
    return made


def limit(settings: Settings, rate: str, destination: str = "b2copy", **changes: str) -> FleetLimits:
    return FleetLimits(destination, settings.model_copy(update={"rate_limit": rate, **changes}))


@pytest.mark.parametrize(("rate", "per_second"), [("10/second", 10.0), ("600/minute", 10.0), ("36000/hour", 10.0)])
def test_a_rate_is_known_in_calls_per_second(settings: Settings, rate: str, per_second: float) -> None:
    assert limit(settings, rate).per_second == per_second


def test_without_a_limit_every_permit_is_there_although_redis_is_not(settings: Settings) -> None:
    unlimited = limit(settings, "0", **NOWHERE)

    assert unlimited.per_second is None
    assert (unlimited.available(1000, urgent=False), unlimited.take(1000, urgent=False)) == (1000, 1000)


def test_without_a_limit_redis_is_asked_for_nothing_but_the_hold(
    settings: Settings, active_environment: Environment
) -> None:
    unlimited = limit(settings, "0")
    unlimited.take(1, urgent=True)
    with active_environment.broker.client as client:
        before = client.info("commandstats")
        began = time.monotonic()
        for _ in range(1000):
            assert unlimited.take(unlimited.available(5, urgent=True), urgent=True) == 5
        took_s = time.monotonic() - began
        after = client.info("commandstats")

    new = {name: after[name]["calls"] - before.get(name, {"calls": 0})["calls"] for name in after}
    asked = {name for name, calls in new.items() if calls and name != "cmdstat_info"}
    assert asked <= {"cmdstat_pttl"}
    assert new["cmdstat_pttl"] <= took_s / fleet_limits.HOLD_CHECK_S + 1


def test_asking_what_is_available_takes_no_permit(settings: Settings) -> None:
    limited = limit(settings, "10/minute")

    assert [limited.available(100, urgent=True) for _ in range(20)] == [10] * 20


def test_two_processes_share_one_limit(settings: Settings) -> None:
    one, other = limit(settings, "8/minute"), limit(settings, "8/minute")

    assert one.take(5, urgent=True) == 5
    assert other.take(5, urgent=True) == 3
    assert other.take(1, urgent=True) == 0
    assert one.available(1, urgent=True) == 0
    assert one.until_permit_s(urgent=True) > 0


def test_two_destinations_have_a_limit_each(settings: Settings) -> None:
    one, other = limit(settings, "8/minute"), limit(settings, "8/minute", destination="crm")

    assert one.take(8, urgent=True) == 8
    assert other.take(8, urgent=True) == 8


def test_a_fifth_is_for_urgent_calls_alone(settings: Settings) -> None:
    limited = limit(settings, "10/minute")

    assert limited.take(limited.available(20, urgent=False), urgent=False) == 8
    assert limited.available(20, urgent=False) == 0
    assert limited.take(limited.available(20, urgent=True), urgent=True) == 2


def test_a_call_that_is_not_urgent_takes_no_permit_of_the_reserve(settings: Settings) -> None:
    limited = limit(settings, "10/minute")

    assert [limited.take(1, urgent=False) for _ in range(10)] == [1] * 8 + [0] * 2
    assert limited.take(2, urgent=True) == 2


def test_the_last_permit_is_there_without_a_pause(settings: Settings) -> None:
    limited = limit(settings, "10/minute")
    assert limited.take(9, urgent=True) == 9

    assert limited.available(5, urgent=True) == 1
    assert limited.until_permit_s(urgent=True) == 0.0
    assert limited.take(1, urgent=True) == 1


def test_as_many_permits_are_taken_as_are_left(settings: Settings) -> None:
    limited = limit(settings, "8/minute")
    assert limited.take(5, urgent=True) == 5

    assert limited.take(4, urgent=True) == 3


def test_a_refusal_is_counted_and_concerns_its_own_lanes_alone(settings: Settings) -> None:
    limited, refused = limit(settings, "10/minute"), metrics.PERMITS_REFUSED.labels("b2copy")
    assert limited.take(8, urgent=False) == 8
    before = refused._value.get()

    assert limited.available(1, urgent=False) == 0

    assert refused._value.get() == before + 1
    assert limited.until_permit_s(urgent=False) > 0
    assert limited.until_permit_s(urgent=True) == 0.0


def test_a_refused_permit_is_not_asked_for_again_at_once(settings: Settings, active_environment: Environment) -> None:
    limited = limit(settings, "1/minute")
    assert limited.take(1, urgent=True) == 1
    assert limited.take(1, urgent=True) == 0

    active_environment.broker.kill()  # the next answers come from memory
    assert limited.available(1, urgent=True) == 0
    assert 0 < limited.until_permit_s(urgent=True) <= 0.3


def test_permits_come_back_with_the_window(settings: Settings) -> None:
    limited = limit(settings, "5/second")
    began = time.monotonic()

    for _ in range(9):
        until(lambda: limited.take(1, urgent=True))

    assert time.monotonic() - began >= 0.7


def test_without_redis_there_are_no_permits(settings: Settings, active_environment: Environment) -> None:
    limited = limit(settings, "100/second")
    assert limited.take(1, urgent=True) == 1

    active_environment.broker.kill()
    assert (limited.available(1, urgent=True), limited.take(1, urgent=True)) == (0, 0)
    assert limited.until_permit_s(urgent=True) > 0

    active_environment.broker.start()
    until(lambda: limited.take(limited.available(1, urgent=True), urgent=True))


@pytest.mark.parametrize("ask", ["available", "take"])
def test_a_redis_that_does_not_answer_is_asked_for_permits_again_after_a_while(
    settings: Settings, clock: Clock, ask: str
) -> None:
    limited, refused = limit(settings, "10/second", **NOWHERE), metrics.PERMITS_REFUSED.labels("b2copy")
    assert getattr(limited, ask)(1, urgent=True) == 0
    assert limited.until_permit_s(urgent=True) == fleet_limits._RETRY_STORE_S
    asked = refused._value.get()

    assert limited.available(1, urgent=True) == 0
    assert refused._value.get() == asked
    clock.now += fleet_limits._RETRY_STORE_S
    assert limited.available(1, urgent=True) == 0
    assert refused._value.get() == asked + 1


@pytest.mark.parametrize(("wall", "pause_s"), [(0.0, fleet_limits._LATEST_S), (1e12, fleet_limits._SOONEST_S)])
def test_a_permit_is_asked_for_again_when_the_window_ends_but_not_too_soon_and_not_too_late(
    settings: Settings, clock: Clock, wall: float, pause_s: float
) -> None:
    limited, clock.wall = limit(settings, "1/minute"), wall
    assert limited.take(1, urgent=True) == 1

    assert limited.available(1, urgent=True) == 0

    assert limited.until_permit_s(urgent=True) == pytest.approx(pause_s)


def test_one_caller_reads_the_hold_and_another_one_if_the_first_does_not_come_back(
    settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_limits, "_TIMEOUT_S", 0.75)
    limited = limit(settings, "0")
    assert [limited.must_read_hold() for _ in range(3)] == [True, False, False]

    clock.now += 1.5

    assert [limited.must_read_hold() for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("redis", "valid_s"), [({}, fleet_limits.HOLD_CHECK_S), (NOWHERE, fleet_limits._RETRY_HOLD_S)], ids=["", "gone"]
)
def test_a_hold_that_was_read_is_valid_for_a_while(
    settings: Settings, clock: Clock, redis: dict[str, str], valid_s: float
) -> None:
    limited = limit(settings, "0", **redis)
    limited.read_hold()

    assert not limited.must_read_hold()
    clock.now += valid_s
    assert limited.must_read_hold()


def test_a_hold_ends_at_its_instant(settings: Settings, clock: Clock) -> None:
    held = limit(settings, "0")
    held.hold(60.0)
    held.hold(1.0)
    assert held.hold_left_s() == held.until_permit_s(urgent=True) == 60.0

    clock.now += 60.0

    assert held.hold_left_s() == 0.0
    assert held.take(1, urgent=True) == 1


def test_a_hold_is_for_the_whole_fleet_and_ends(settings: Settings) -> None:
    one, other = limit(settings, "0"), limit(settings, "0")

    one.hold(0.5)
    one.share_hold()

    assert (one.take(5, urgent=True), other.take(5, urgent=True), other.available(5, urgent=True)) == (0, 0, 0)
    assert 0 < other.hold_left_s() <= 0.5
    assert 0 < other.until_permit_s(urgent=True) <= 0.5
    until(lambda: other.take(5, urgent=True) == 5)
    assert one.take(5, urgent=True) == 5


def test_a_process_notices_the_hold_of_another_within_the_check_interval(settings: Settings) -> None:
    one, other = limit(settings, "0"), limit(settings, "0")
    assert other.take(1, urgent=True) == 1  # it has just looked

    one.hold(5.0)
    one.share_hold()

    until(lambda: other.take(1, urgent=True) == 0, within=fleet_limits.HOLD_CHECK_S * 5)


def hold_key(environment: Environment, name: str = "b2copy") -> str:
    """Return the hold's key, which is in Redis."""
    key = f"b2copy:gate:{name}:hold"
    with environment.broker.client as client:
        assert client.exists(key)
    return key


def delete(environment: Environment, *keys: str) -> None:
    with environment.broker.client as client:
        assert client.delete(*keys) == len(keys)


def test_a_hold_whose_key_a_person_deletes_ends_in_every_process(
    settings: Settings, active_environment: Environment
) -> None:
    one, other = limit(settings, "0"), limit(settings, "0")
    one.hold(3600.0)
    one.share_hold()
    other.read_hold()
    assert min(one.hold_left_s(), other.hold_left_s()) > 3500

    delete(active_environment, hold_key(active_environment))
    for held in (one, other):
        held.read_hold()

    assert (one.hold_left_s(), other.hold_left_s()) == (0.0, 0.0)
    one.hold(60.0)  # the next 429
    one.read_hold()
    assert one.hold_left_s() > 50


def test_a_hold_that_redis_has_not_got_yet_does_not_end(settings: Settings, clock: Clock) -> None:
    held, alone = limit(settings, "0"), limit(settings, "0", **NOWHERE)
    for one in (held, alone):
        one.hold(60.0)
    alone.share_hold()
    for one in (held, alone):
        one.read_hold()
    assert [held.hold_left_s(), alone.hold_left_s()] == [60.0, 60.0]

    held.share_hold()
    held.hold(3600.0)  # a further 429 that is not shared yet
    clock.now += 61.0
    with Redis.from_url(settings.redis_url) as client:
        client.flushdb()
    held.read_hold()

    assert held.hold_left_s() == 3539.0


def test_a_hold_that_is_shared_while_redis_answers_does_not_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, left_ms = limit(settings, "0"), FleetLimits._left_ms

    def answer_and_share(self: FleetLimits, key: str) -> int:
        answer = left_ms(self, key)
        held.hold(60.0)
        held.share_hold()
        return answer

    monkeypatch.setattr(FleetLimits, "_left_ms", answer_and_share)
    held.read_hold()

    assert held.hold_left_s() > 50


@pytest.mark.parametrize(("retry_after", "operations_s"), [(3600.0, 60.0), (20.0, 20.0)])
def test_a_hold_of_reads_holds_operations_for_a_minute_at_most(
    settings: Settings, clock: Clock, retry_after: float, operations_s: float
) -> None:
    reads, other_reads = (FleetLimits("b2copy", settings, "b2copy.reads", ["b2copy.reads", "b2copy"]) for _ in range(2))
    operations = limit(settings, "0")

    reads.hold(retry_after)
    reads.share_hold()
    for other in (other_reads, operations):
        other.read_hold()

    assert reads.hold_left_s() == retry_after
    assert other_reads.hold_left_s() == pytest.approx(retry_after, abs=5)
    assert operations.hold_left_s() == pytest.approx(operations_s, abs=5)
    assert operations.hold_left_s() <= operations_s


def test_a_429_to_each_read_does_not_hold_operations_all_the_time(settings: Settings) -> None:
    """Only a route of the reads is limited, and pages ask again and again."""
    all_reads = [FleetLimits("b2copy", settings, "b2copy.reads", ["b2copy.reads", "b2copy"]) for _ in range(3)]
    operations = limit(settings, "0")
    all_reads[0].hold(1.0)
    all_reads[0].share_hold()
    operations.read_hold()
    assert operations.hold_left_s() > 0

    def has_ended() -> bool:
        for reads in all_reads:
            reads.hold(1.0)
            reads.share_hold()
        operations.read_hold()
        return operations.hold_left_s() == 0

    until(has_ended, within=5.0)
    assert has_ended()


def test_a_hold_of_operations_holds_reads(settings: Settings) -> None:
    reads, operations = FleetLimits("b2copy", settings, holds=["b2copy.reads", "b2copy"]), limit(settings, "0")

    operations.hold(3600.0)
    operations.share_hold()
    reads.read_hold()

    assert reads.hold_left_s() > 3500
    assert reads.take(1, urgent=False) == 0


def test_a_hold_is_shared_to_the_second(settings: Settings) -> None:
    one, other = limit(settings, "0"), limit(settings, "0")

    one.hold(80_000.0)
    one.share_hold()
    other.read_hold()

    assert 79_980 < other.hold_left_s() <= 80_000


def test_a_shorter_hold_does_not_end_a_longer_one_of_another_process(settings: Settings) -> None:
    one, other, third = (limit(settings, "0") for _ in range(3))

    one.hold(60.0)
    one.share_hold()
    other.hold(1.0)
    other.share_hold()
    third.read_hold()

    assert third.hold_left_s() > 50


def test_a_longer_hold_replaces_a_shorter_one_of_another_process(settings: Settings) -> None:
    one, other, third = (limit(settings, "0") for _ in range(3))

    one.hold(20.0)
    one.share_hold()
    other.hold(60.0)
    other.share_hold()
    third.read_hold()

    assert third.hold_left_s() > 50


def test_of_two_holds_that_are_shared_at_the_same_time_the_longer_one_stays(
    settings: Settings, active_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis answers who reads and lets who writes wait, until both are there. Whoever reads first reads too early."""
    monkeypatch.setattr(fleet_limits, "_TIMEOUT_S", 60.0)  # seconds; nobody gives up while Redis lets them wait
    longer, shorter, third = (limit(settings, "0") for _ in range(3))
    longer.hold(600.0)
    shorter.hold(200.0)

    with active_environment.broker.client as client, ThreadPoolExecutor(2) as threads:
        others = count_blocked(client)
        client.client_pause(50_000, all=False)
        try:
            first = threads.submit(longer.share_hold)
            until(lambda: count_blocked(client) == others + 1)
            second = threads.submit(shorter.share_hold)
            until(lambda: count_blocked(client) == others + 2)
        finally:
            client.client_unpause()
        first.result(20)
        second.result(20)
    third.read_hold()

    assert third.hold_left_s() > 500


def count_blocked(client: Redis) -> int:
    """Return how many clients wait for Redis."""
    return sum("b" in each["flags"] for each in client.client_list())


def test_a_hold_does_not_concern_another_destination(settings: Settings) -> None:
    one, other = limit(settings, "0"), limit(settings, "0", destination="crm")

    one.hold(60.0)
    one.share_hold()

    assert other.take(1, urgent=True) == 1


def test_a_process_holds_by_itself_if_redis_does_not_answer(settings: Settings) -> None:
    alone = limit(settings, "0", **NOWHERE)

    alone.hold(60.0)
    alone.share_hold()

    assert alone.take(1, urgent=True) == 0


def test_one_process_of_the_fleet_probes(settings: Settings, active_environment: Environment) -> None:
    one, other = limit(settings, "0"), limit(settings, "0")

    assert one.reserve_probe() == 0.0
    assert all(0 < process.reserve_probe() < PROBE_EVERY_S for process in (other, one))
    with active_environment.broker.client as client:  # the next one in time, and not one interval later
        assert 0 < client.pttl("b2copy:gate:b2copy:probe") < 1000 * PROBE_EVERY_S


def test_the_next_process_may_probe_once_a_probe_was_answered(settings: Settings) -> None:
    one, other = limit(settings, "0"), limit(settings, "0")
    assert one.reserve_probe() == 0.0

    one.allow_next_probe()

    assert other.reserve_probe() == 0.0


def test_a_process_whose_probes_fail_leaves_others_their_turn(
    settings: Settings, active_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a host whose address B2COPY refuses, beside one that it would serve."""
    for module in (circuit_breaker, fleet_limits):
        monkeypatch.setattr(module, "PROBE_EVERY_S", 0.4)
    refused, served = (CircuitBreaker(limit(settings, "0").reserve_probe) for _ in range(2))
    for _ in range(FAILURES_TO_OPEN):
        refused.record_failure()
    until(lambda: refused.take(1, urgent=True) == 1)
    until(
        lambda: refused.take(1, urgent=True) == 1 or refused.until_probe_s(urgent=True) < 0.2
    )  # it asks at other times than the other one
    for _ in range(FAILURES_TO_OPEN):
        served.record_failure()

    def probes() -> bool:
        refused.take(1, urgent=True)  # in vain
        return served.take(1, urgent=True) == 1

    until(probes, within=2.0)


def test_every_process_may_probe_if_redis_does_not_answer(settings: Settings) -> None:
    assert limit(settings, "0", **NOWHERE).reserve_probe() == 0.0


def test_the_pace_is_one_callers_until_it_is_released(settings: Settings) -> None:
    one, other = limit(settings, "0"), limit(settings, "0")

    assert one.reserve_pace(80_000.0) == 0.0
    assert 79_980 < other.reserve_pace(1.0) <= 80_000
    one.release_pace(60_000.0)
    assert 59_980 < other.reserve_pace(1.0) <= 60_000
    one.release_pace(0.0)
    assert until(lambda: other.reserve_pace(60.0) == 0.0)
    assert one.reserve_pace(60.0) > 0


@pytest.mark.parametrize("expires_in_s", [None, 1800, 300 * 86400])
def test_a_key_that_does_not_expire_in_time_stops_nobody(
    settings: Settings, active_environment: Environment, expires_in_s: int | None
) -> None:
    """As copied by a tool without its time to live, or after Redis' clock was set back by minutes or months."""
    with active_environment.broker.client as client:
        for name in ("hold", "probe", "pace"):
            client.set(f"b2copy:gate:b2copy:{name}", "1", ex=expires_in_s)
    one, other = limit(settings, "0"), limit(settings, "0")

    assert one.take(1, urgent=False) == 1
    assert one.reserve_probe() == 0.0
    assert 0 < other.reserve_probe() <= PROBE_EVERY_S
    assert one.reserve_pace(60.0) == 0.0
    assert 59 < other.reserve_pace(60.0) <= 60
    one.hold(60.0)
    one.share_hold()
    assert other.take(1, urgent=False) == 0 or until(lambda: other.take(1, urgent=False) == 0)


@pytest.mark.parametrize("value", ["1000", "abc", "", "a list"])
def test_a_hold_that_lasts_longer_than_it_was_set_for_is_none_and_the_next_429_replaces_it(
    settings: Settings, active_environment: Environment, value: str
) -> None:
    """As a hold of one second after Redis' clock was set back by half an hour, or a key that is not ours."""
    one, other, key = limit(settings, "0"), limit(settings, "0"), "b2copy:gate:b2copy:hold"
    with active_environment.broker.client as client:
        if value == "a list":
            client.rpush(key, "x")
        else:
            client.set(key, value)
        client.pexpire(key, 1_800_000)

    one.read_hold()
    assert one.hold_left_s() == 0.0
    one.hold(60.0)
    one.share_hold()
    other.read_hold()
    assert 50 < other.hold_left_s() <= 60


def test_a_list_under_the_key_of_the_probe_is_replaced(settings: Settings, active_environment: Environment) -> None:
    one, other = limit(settings, "0"), limit(settings, "0")
    with active_environment.broker.client as client:
        client.rpush("b2copy:gate:b2copy:probe", "x")
        client.pexpire("b2copy:gate:b2copy:probe", 1_800_000)

    assert one.reserve_probe() == 0.0
    assert other.reserve_probe() > 0


def window_keys(client: Any) -> list[str]:
    """Return the keys of the rate limit's windows in Redis. There is at least one."""
    names: list[str] = client.keys("b2copy:rate*")
    assert names
    return names


@pytest.mark.parametrize("urgent", [True, False])
@pytest.mark.parametrize("ends_in_s", [None, 3600, 300 * 86400])
@pytest.mark.parametrize("is_earlier_alone", [True, False])
def test_windows_that_do_not_end_in_time_refuse_no_permit(
    settings: Settings, active_environment: Environment, ends_in_s: int | None, urgent: bool, is_earlier_alone: bool
) -> None:
    """As after Redis' clock was set back: the limiter computes with the time to live of its windows."""
    limited = limit(settings, "10/second")
    assert limited.take(1, urgent=True) == 1
    with active_environment.broker.client as client:
        names = window_keys(client)
        for name in {*(name + "/-1" for name in names), *([] if is_earlier_alone else names)}:
            client.set(name, "10", ex=ends_in_s)

    assert until(lambda: limited.take(1, urgent) == 1, within=0.7)


@pytest.mark.parametrize("urgent", [True, False])
@pytest.mark.parametrize("answer", ODD)
def test_an_answer_that_is_none_gives_no_permit_and_raises_nothing(
    settings: Settings, answer: str, urgent: bool
) -> None:
    with redis_that_answers(ODD[answer]) as url:
        limited = limit(settings, "10/second", redis_url=url)

        assert limited.take(limited.available(5, urgent), urgent) == 0
        assert limited.until_permit_s(urgent) > 0


@pytest.mark.parametrize("value", ["a list", "abc", "1.5", "9" * 400])
@pytest.mark.parametrize("urgent", [True, False])
def test_a_value_that_is_no_count_under_a_window_is_removed(
    settings: Settings, active_environment: Environment, caplog: pytest.LogCaptureFixture, value: str, urgent: bool
) -> None:
    """Whoever put it there, the limiter fails at each question about it."""
    limited = limit(settings, "10/second")
    assert limited.take(1, urgent=True) == 1
    with active_environment.broker.client as client:
        names = window_keys(client)
        for name in {*names, *(name + "/-1" for name in names)}:
            client.delete(name)
            if value == "a list":
                client.rpush(name, "x")
            else:
                client.set(name, value)

    assert until(lambda: limited.take(limited.available(1, urgent), urgent) == 1, within=2)
    assert "removed" in caplog.text


def test_a_value_that_is_no_count_is_removed_although_nobody_asks_what_is_available(
    settings: Settings, active_environment: Environment
) -> None:
    limited = limit(settings, "10/second")
    assert limited.take(1, urgent=True) == 1
    with active_environment.broker.client as client:
        [name] = client.keys("b2copy:rate*")
        client.delete(name)
        client.rpush(name, "x")

    assert until(lambda: limited.take(1, urgent=True) == 1, within=2)


def test_a_connection_to_a_demoted_primary_is_left(settings: Settings, active_environment: Environment) -> None:
    """It stays open and answers reads, and only a new connection finds the new primary."""
    with active_environment.broker.client as client:

        def connections() -> set[str]:
            return {connection["id"] for connection in client.client_list()}

        others, limited = connections(), limit(settings, "10/second")
        assert limited.take(1, urgent=True) == 1
        before = connections() - others
        client.replicaof("127.0.0.1", active_environment.broker.port)
        try:
            assert limited.take(1, urgent=True) == 0
        finally:
            client.replicaof("no", "one")

        assert until(lambda: limited.take(1, urgent=True) == 1)
        assert before
        assert not connections() & before


def test_a_reserved_pace_expires(settings: Settings) -> None:
    one, other = limit(settings, "0"), limit(settings, "0")
    assert one.reserve_pace(0.0) == 0.0

    assert until(lambda: other.reserve_pace(60.0) == 0.0)


def test_without_redis_nobody_has_the_pace(settings: Settings) -> None:
    alone = limit(settings, "0", **NOWHERE)

    assert alone.reserve_pace(60.0) > 0
    alone.release_pace(1.0)  # and nothing is raised
    alone.allow_next_probe()
