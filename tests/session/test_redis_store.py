"""The scripts, one step at a time, on a real server."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import redis
from redis.crc import key_slot

from tests.conftest import quick
from tests.session.fleet import store_of
from tests.support import until
from worker.errors import StoreUnavailable
from worker.session import redis_store
from worker.session.redis_store import NoLease, RenewalLease, Store, Stored
from worker.session.renewal_leader import Leader
from worker.session.service_admin_login import ServiceAdmin
from worker.session.timings import Timings
from worker.settings import Settings
from worker.testbed.broker import Broker

TIMINGS = quick()
KEYS = "fingerprint-of-the-keys"


@pytest.fixture
def store(settings: Settings) -> Store:
    return store_of(settings, TIMINGS)


@pytest.fixture
def client(broker: Broker) -> Iterator[redis.Redis]:
    with broker.client as client:
        yield client


def lead(store: Store, owner: str = "ada", expected: int = 0) -> RenewalLease:
    lease = store.acquire(owner, expected, KEYS)
    assert isinstance(lease, RenewalLease)
    return lease


def commit(store: Store, lease: RenewalLease, blob: bytes = b"sealed") -> tuple[bool, Stored | None]:
    store.look()
    return store.commit(lease, blob, store.now(), 3.0, 2.0, "login", "key", "fp")


def stored(store: Store) -> Stored:
    session = store.look().session
    assert session is not None
    return session


def test_one_holds_the_lease_and_the_others_learn_for_how_long(store: Store) -> None:
    lead(store, "ada")

    refused = store.acquire("bob", 0, KEYS)

    assert isinstance(refused, NoLease)
    assert refused.reason == "busy"
    assert 0 < refused.left <= TIMINGS.lease


def test_who_comes_late_is_given_what_is_stored(store: Store) -> None:
    commit(store, lead(store))

    assert store.acquire("bob", 0, KEYS) == NoLease("newer")


@pytest.mark.failure_mode("F4")
def test_freeing_a_lease_that_lapsed_does_not_free_the_next_ones(settings: Settings, client: redis.Redis) -> None:
    short, long = store_of(settings, replace(TIMINGS, lease=0.03)), store_of(settings, TIMINGS)
    late = lead(short, "ada")
    until(lambda: not client.exists(f"{long.key_prefix}:renewal_lease"))
    lease = lead(long, "bob")

    short.fail(late, "unavailable", "", 5.0, KEYS)

    assert long.extend(lease, 1.0) == 0
    assert long.look().leader == "bob"
    assert long.look().cooldown is None


@pytest.mark.failure_mode("F5", "F34")
def test_a_leader_that_was_overtaken_cannot_overwrite(store: Store, client: redis.Redis) -> None:
    late = lead(store, "ada")
    client.delete(f"{store.key_prefix}:renewal_lease")  # lapsed, or lost with a primary
    commit(store, lead(store, "bob"), b"bob's")

    committed, session = commit(store, late, b"ada's")

    assert not committed
    assert session is not None
    assert session.blob == b"bob's"
    assert store.extend(late, 1.0) is None


def test_a_leader_that_lost_its_lease_but_to_nobody_may_still_store(store: Store, client: redis.Redis) -> None:
    lease = lead(store)
    client.delete(f"{store.key_prefix}:renewal_lease")

    assert commit(store, lease)[0]


@pytest.mark.failure_mode("F6")
def test_a_refresh_token_is_marked_as_used_by_one_owner_only(store: Store, client: redis.Redis) -> None:
    commit(store, lead(store))
    generation = stored(store).generation
    first = lead(store, "ada", generation)

    assert store.mark_refresh_token_used(first, generation)
    client.delete(f"{store.key_prefix}:renewal_lease")
    assert not store.mark_refresh_token_used(first, generation)
    second = lead(store, "bob", generation)
    assert not store.mark_refresh_token_used(second, generation)
    assert second.session is not None
    assert second.session.refresh_token_used_by == "ada"


def test_a_refresh_token_of_an_older_generation_is_not_marked_as_used(store: Store) -> None:
    commit(store, lead(store))
    generation = stored(store).generation

    assert not store.mark_refresh_token_used(lead(store, "ada", generation), generation - 1)


@pytest.mark.failure_mode("F29")
def test_every_script_may_run_twice_for_the_same_owner(store: Store, client: redis.Redis) -> None:
    def dump() -> dict[str, object]:
        return {
            key: client.hgetall(key) if client.type(key) == "hash" else client.get(key) for key in client.scan_iter()
        }

    def twice(step: object) -> object:
        answers, states = [], []
        for _ in range(2):
            answers.append(step())  # type: ignore[operator]
            states.append(dump())
        assert answers[0] == answers[1]
        assert states[0] == states[1]
        return answers[0]

    lease = twice(lambda: store.acquire("ada", 0, KEYS))
    assert isinstance(lease, RenewalLease)
    assert twice(lambda: store.extend(lease, 1.0)) == 0
    asked = store.now()
    committed = twice(lambda: store.commit(lease, b"sealed", asked, 3.0, 2.0, "login", "k", "fp"))
    assert committed == (True, stored(store))
    assert stored(store).generation == lease.generation
    client.delete(f"{store.key_prefix}:pace")
    again = lead(store, "bob", lease.generation)
    assert twice(lambda: store.mark_refresh_token_used(again, lease.generation)) is True
    store.fail(again, "unavailable", "why", 5.0, KEYS)
    before = dump()
    store.fail(again, "unavailable", "why", 5.0, KEYS)
    assert dump() == before
    client.delete(f"{store.key_prefix}:cooldown")
    store.invalidate(lease.generation)
    first = stored(store)
    store.invalidate(lease.generation)
    assert stored(store) == first
    twice(store.forget)


@pytest.mark.failure_mode("F31")
def test_generations_rise_even_when_redis_lost_everything(store: Store, client: redis.Redis) -> None:
    generations = []
    for _ in range(3):
        commit(store, lead(store))
        generations.append(stored(store).generation)
        time.sleep(0.002)  # fences are made of milliseconds
        client.flushall()

    assert generations == sorted(set(generations))


def test_a_generation_is_above_what_the_process_remembers(store: Store) -> None:
    far_ahead = store.acquire("ada", 9_000_000_000_000, KEYS)

    assert isinstance(far_ahead, RenewalLease)
    assert far_ahead.generation == 9_000_000_000_001


@pytest.mark.failure_mode("F36")
def test_all_keys_live_in_one_slot_of_a_cluster(store: Store, client: redis.Redis) -> None:
    commit(store, lead(store, "ada"))
    store.extend(lead(store, "ada", stored(store).generation), 5.0)
    store.fail(lead(store, "ada", stored(store).generation), "unavailable", "", 5.0, KEYS)
    lead_after = store.acquire("ada", stored(store).generation, KEYS, forced=True)
    assert isinstance(lead_after, RenewalLease)
    store.extend(lead_after, 5.0)

    names = [str(name) for name in client.scan_iter()]

    assert sorted(name.rpartition(":")[2] for name in names) == [
        "cooldown",
        "last_generation",
        "pace",
        "renewal_lease",
        "session",
    ]
    assert len({key_slot(name.encode()) for name in names}) == 1


@pytest.mark.failure_mode("F3", "F28")
def test_nothing_but_the_fence_lives_for_ever(store: Store, client: redis.Redis) -> None:
    commit(store, lead(store, "ada"))
    lease = lead(store, "bob", stored(store).generation)
    store.extend(lease, 0.0)
    store.fail(lease, "unavailable", "", 0.0001, KEYS)
    lead_after = store.acquire("eve", stored(store).generation, KEYS, forced=True)
    assert isinstance(lead_after, RenewalLease)

    immortal = [str(name) for name in client.scan_iter() if client.ttl(name) < 0]

    assert immortal == [f"{store.key_prefix}:last_generation"]


def test_after_a_failure_nobody_asks_for_a_while(store: Store) -> None:
    store.fail(lead(store, "ada"), "unavailable", "503", 5.0, KEYS)

    refused = store.acquire("bob", 0, KEYS)

    assert isinstance(refused, NoLease)
    assert (refused.reason, round(refused.left)) == ("cooldown", 5)
    cooldown = store.look().cooldown
    assert cooldown is not None
    assert (cooldown.kind, cooldown.reason) == ("unavailable", "503")
    assert isinstance(store.acquire("bob", 0, KEYS, forced=True), RenewalLease)


def test_a_short_cooldown_is_shown_too(store: Store) -> None:
    store.fail(lead(store), "unavailable", "503", 0.9, KEYS)

    assert store.look().cooldown is not None


def test_a_refused_login_is_repeated_only_with_keys_that_were_not_refused(store: Store) -> None:
    store.fail(lead(store, "ada"), "terminal", "401", 60.0, "old keys")

    assert isinstance(store.acquire("bob", 0, "old keys"), NoLease)
    store.fail(lead_with(store, "eve", "new keys"), "terminal", "401", 60.0, "new keys")
    assert isinstance(store.acquire("bob", 0, "old keys"), NoLease)
    assert isinstance(store.acquire("bob", 0, "new keys"), NoLease)


def test_a_failure_of_others_does_not_end_the_cooldown_of_refused_keys(store: Store, client: redis.Redis) -> None:
    store.fail(lead(store, "ada"), "terminal", "401", 60.0, KEYS)
    store.fail(lead_with(store, "eve", "other keys"), "unavailable", "503", 0.5, "other keys")

    others = store.acquire("eve", 0, "other keys")
    assert isinstance(others, NoLease)
    assert others.cooldown is not None
    assert (others.cooldown.kind, others.cooldown.reason) == ("unavailable", "503")

    until(lambda: store.look().cooldown is None)
    refused = store.acquire("ada", 0, KEYS)
    assert isinstance(refused, NoLease)
    assert refused.cooldown is not None
    assert (refused.cooldown.kind, refused.cooldown.reason) == ("terminal", "401")
    assert 50 < refused.left == refused.cooldown.left <= 60
    assert client.pttl(f"{store.key_prefix}:cooldown") > 60_000
    assert isinstance(store.acquire("ada", 0, KEYS, forced=True), RenewalLease)


def test_a_cooldown_that_lacks_its_reason_is_one_all_the_same(store: Store, client: redis.Redis) -> None:
    store.look()
    client.hset(f"{store.key_prefix}:cooldown", "until", store.now() + 5_000)

    refused = store.acquire("ada", 0, KEYS)

    assert isinstance(refused, NoLease)
    assert refused.cooldown is not None
    assert (refused.cooldown.kind, refused.cooldown.reason) == ("", "")


def test_a_value_of_another_type_under_the_cooldown_is_replaced(store: Store, client: redis.Redis) -> None:
    lease = lead(store)
    client.set(f"{store.key_prefix}:cooldown", "x")

    store.fail(lease, "unavailable", "503", 5.0, KEYS)

    assert store.look().cooldown is not None


def lead_with(store: Store, owner: str, keys: str) -> RenewalLease:
    lease = store.acquire(owner, 0, keys)
    assert isinstance(lease, RenewalLease)
    return lease


def test_only_the_generation_that_was_rejected_is_ended(store: Store) -> None:
    commit(store, lead(store))
    session = stored(store)

    store.invalidate(session.generation - 1)
    assert stored(store) == session

    store.invalidate(session.generation)
    assert stored(store).expires_at <= store.now()


def test_two_leaders_do_not_call_b2copy_right_after_each_other(store: Store, client: redis.Redis) -> None:
    lease = lead(store, "ada")
    store.extend(lease, 5.0)
    client.delete(f"{store.key_prefix}:renewal_lease")

    refused = store.acquire("bob", 0, KEYS)

    assert isinstance(refused, NoLease)
    assert refused.reason == "busy"


@pytest.mark.failure_mode("F30")
def test_a_redis_that_is_gone_costs_next_to_nothing(store: Store, broker: Broker) -> None:
    store.look()
    broker.kill()

    started = time.monotonic()
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            store.look()

    assert time.monotonic() - started < 1.0


@pytest.mark.failure_mode("F30")
def test_a_silent_redis_costs_one_timeout_and_then_nothing_for_a_while(store: Store, broker: Broker) -> None:
    store.look()
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        for _ in range(20):
            with pytest.raises(StoreUnavailable):
                store.look()
        taken = time.monotonic() - started
    finally:
        os.kill(broker.pid, signal.SIGCONT)

    assert TIMINGS.store_patience <= taken < 2 * TIMINGS.store_patience
    assert until(lambda: looked(store))


@pytest.mark.parametrize("silent", [True, False])
def test_a_redis_that_did_not_answer_is_asked_again_after_a_pause_and_sooner_if_it_refused_the_connection(
    store: Store, broker: Broker, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    now = [1000.0]
    monkeypatch.setattr(redis_store, "time", SimpleNamespace(monotonic=lambda: now[0]))
    pause_s = TIMINGS.store_pause if silent else TIMINGS.store_pause / 5

    def was_asked() -> bool:
        with pytest.raises(StoreUnavailable) as caught:
            store.look()
        assert caught.value.retry_after == TIMINGS.store_pause
        return "Error)" in str(caught.value)  # of the client

    if silent:
        store.look()
        os.kill(broker.pid, signal.SIGSTOP)
    else:
        broker.kill()
    try:
        assert was_asked()
        now[0] += pause_s - 0.001
        assert not was_asked()
        now[0] += 0.001
        assert was_asked()
    finally:
        if silent:
            os.kill(broker.pid, signal.SIGCONT)


def test_the_text_of_a_redis_that_refuses_is_bounded() -> None:
    refused = redis_store._unavailable(redis.ResponseError("x" * 1000), 1.0)

    assert refused.server_message == "x" * 200


def test_the_latest_hundred_that_had_a_session_are_listed(store: Store, client: redis.Redis) -> None:
    store.look()
    now_s = store.now() / 1000
    had = {replace(store._identity, account=str(number)).as_json(): now_s - number for number in range(150)}
    client.zadd(redis_store.IDENTITIES, had)

    assert [one.account for one in store.identities()] == [str(number) for number in range(100)]


def looked(store: Store) -> bool:
    try:
        store.look()
    except StoreUnavailable:
        return False
    return True


def test_the_error_message_of_a_redis_that_refuses_is_shown(store: Store, client: redis.Redis) -> None:
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailable, match="used memory"):
            lead(store)
    finally:
        client.config_set("maxmemory", "0")


def test_a_demoted_primary_is_left(store: Store, client: redis.Redis, broker: Broker) -> None:
    def connections() -> set[str]:
        return {connection["id"] for connection in client.client_list()}

    others = connections()
    store.look()
    before = connections() - others
    client.replicaof("127.0.0.1", broker.port)
    try:
        with pytest.raises(StoreUnavailable, match="replica"):
            lead(store)
    finally:
        client.replicaof("no", "one")

    lead(store)
    assert before
    assert not connections() & before


def test_the_lease_must_outlast_the_call() -> None:
    with pytest.raises(ValueError, match="log each other out"):
        replace(TIMINGS, lease=TIMINGS.token_deadline).checked()
    Timings().checked()


def test_its_clock_is_redis_clock_between_two_bounds(store: Store, client: redis.Redis) -> None:
    store.look()

    def redis_ms() -> float:
        seconds, microseconds = client.time()
        return float(seconds) * 1000 + float(microseconds) / 1000

    before_ms = redis_ms()
    latest_ms = store.now()
    earliest_ms = store.at_least()
    after_ms = redis_ms()

    assert before_ms - 1 <= latest_ms
    assert earliest_ms <= after_ms
    assert latest_ms - earliest_ms < 2000


LONG_S = 80_000.0  # so long that a thousandth of it shows


def test_a_cooldown_comes_back_as_long_as_it_went(store: Store, client: redis.Redis) -> None:
    started = time.monotonic()
    store.fail(lead(store), "unavailable", "503", 300.0, KEYS)

    def left_s() -> float:
        seconds, microseconds = client.time()
        ends = float(client.hget(f"{store.key_prefix}:cooldown", "until") or 0)
        return ends / 1000 - float(seconds) - float(microseconds) / 1_000_000

    most_s = left_s()
    refused, cooldown = store.acquire("bob", 0, KEYS), store.look().cooldown
    least_s = left_s()

    assert isinstance(refused, NoLease)
    assert cooldown is not None
    assert 300.0 - (time.monotonic() - started) - 0.01 <= most_s <= 300.0
    assert least_s - 0.01 <= cooldown.left <= refused.left <= most_s + 0.01
    assert (cooldown.kind, cooldown.reason) == ("unavailable", "503")


def test_a_lease_comes_back_as_long_as_it_went(settings: Settings) -> None:
    store = store_of(settings, replace(TIMINGS, lease=500.0))
    lead(store)

    refused = store.acquire("bob", 0, KEYS)

    assert isinstance(refused, NoLease)
    assert 470.0 < refused.left <= 500.0


@pytest.mark.parametrize("expires_in_s", [None, 300 * 86400])
def test_a_lease_that_does_not_expire_in_time_is_nobodys(
    store: Store, client: redis.Redis, expires_in_s: int | None
) -> None:
    """As copied by a tool without its time to live, or after Redis' clock was set back by months."""
    store.extend(lead(store), 1.0)
    for name in ("renewal_lease", "pace"):
        key = f"{store.key_prefix}:{name}"
        client.persist(key)
        if expires_in_s is not None:
            client.expire(key, expires_in_s)

    assert isinstance(store.acquire("bob", 0, KEYS), RenewalLease)


@pytest.mark.parametrize("kind", ["unavailable", "terminal"])
def test_a_cooldown_from_before_redis_clock_was_set_back_binds_nobody(
    store: Store, client: redis.Redis, kind: str
) -> None:
    key, set_back_ms = f"{store.key_prefix}:cooldown", 60_000
    store.fail(lead(store), kind, "503", 4.0, KEYS)
    assert isinstance(store.acquire("bob", 0, KEYS), NoLease)
    for name in {"until", f"refused:{KEYS}"} & set(client.hkeys(key)):
        ends, _, rest = str(client.hget(key, name)).partition(" ")
        client.hset(key, name, f"{int(ends) + set_back_ms} {rest}".strip())

    assert store.look().cooldown is None
    assert isinstance(store.acquire("bob", 0, KEYS), RenewalLease)


def test_a_lease_from_before_redis_clock_was_set_back_is_nobodys(store: Store, client: redis.Redis) -> None:
    store.extend(lead(store), 1.0)
    for name in ("renewal_lease", "pace"):
        key = f"{store.key_prefix}:{name}"
        client.pexpire(key, client.pttl(key) + 60_000)

    assert isinstance(store.acquire("bob", 0, KEYS), RenewalLease)


def test_a_clock_that_is_set_back_a_little_ends_nothing(store: Store, client: redis.Redis) -> None:
    lead(store)
    key = f"{store.key_prefix}:renewal_lease"
    client.pexpire(key, round(TIMINGS.lease * 1000) + 4_000)
    refused = store.acquire("bob", 0, KEYS)

    assert isinstance(refused, NoLease)
    assert refused.left > TIMINGS.lease


@pytest.mark.parametrize(("life_s", "kept_s"), [(LONG_S, 86_400.0), (200_000.0, 200_000.0)])
def test_a_session_comes_back_as_it_went_and_is_kept_for_its_life_or_a_day(
    store: Store, client: redis.Redis, life_s: float, kept_s: float
) -> None:
    store.look()
    made_ms = store.now()

    committed, session = store.commit(lead(store), b"sealed", made_ms, life_s, 60_000.0, "login", "key", "fp")

    assert committed
    assert session is not None
    assert session == stored(store)
    assert (session.obtained_at, session.life, session.life_s) == (made_ms, life_s * 1000, life_s)
    assert session.expires_at == session.expected_end == made_ms + life_s * 1000
    assert session.renew_after == made_ms + 60_000_000
    assert (session.blob, session.origin, session.credential, session.fingerprint) == (b"sealed", "login", "key", "fp")
    assert (session.written_by, session.refresh_token_used_by) == ("ada", None)
    assert kept_s - 30 < client.pttl(f"{store.key_prefix}:session") / 1000 <= kept_s


@pytest.mark.parametrize(
    ("expires_after_s", "life_s", "guess_s"),
    [
        (None, None, 600.0),  # the setting
        (600.0, 600.0, 600.0),  # lived as long as we guessed: longer, but never beyond the setting
        (300.0, 300.0, 375.0),
        (100.0, 300.0, 100.0),  # refused after 100 s
        (7.0, 300.0, 60.0),  # at least a tenth of the setting
    ],
)
def test_the_life_of_an_opaque_token_is_guessed_from_the_last_one(
    settings: Settings, store: Store, expires_after_s: float | None, life_s: float | None, guess_s: float
) -> None:
    leader = Leader(settings, TIMINGS, store, ServiceAdmin(settings, TIMINGS, time.time))
    before = None
    if life_s is not None and expires_after_s is not None:
        commit(store, lead(store))
        before = replace(
            stored(store),
            obtained_at=1_000,
            life=round(life_s * 1000),
            expires_at=1_000 + round(expires_after_s * 1000),
        )

    assert settings.token_ttl == 600.0
    assert leader._guessed_life(before) == pytest.approx(guess_s)
