"""What kombu's jobs of every second do while Redis refuses writes: they go on, and say so once."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from kombu.transport import redis as kombu_redis

from tests.odd_redis import ODD, redis_that_answers
from worker.errors import StoreUnavailable
from worker.messages import broker_transport
from worker.messages.broker_transport import Channel, Transport
from worker.queues import UNACKED, UNACKED_INDEX
from worker.redis_connection import redis_client
from worker.session import SharedSession
from worker.settings import Settings
from worker.watch.outage_log import OutageLog

QoS: Any = Channel.QoS


def a_qos() -> Any:
    """Return one whose Redis has no lock that it must remove."""
    qos = QoS.__new__(QoS)
    client = SimpleNamespace(pttl=lambda key: -2)
    qos.channel = SimpleNamespace(conn_or_acquire=lambda: nullcontext(client), unacked_mutex_key="")
    return qos


def restores(_: pytest.MonkeyPatch) -> tuple[type[Any], str, Callable[[], None]]:
    qos = a_qos()
    return kombu_redis.QoS, "restore_visible", qos.restore_visible


def refreshes(_: pytest.MonkeyPatch) -> tuple[type[Any], str, Callable[[], None]]:
    channel = Channel.__new__(Channel)
    channel._refreshing = OutageLog(broker_transport.log, "Redis refuses to keep the bindings of queues")
    return kombu_redis.Channel, "maybe_refresh_binding_expiry", channel.maybe_refresh_binding_expiry


@pytest.mark.parametrize("job", [restores, refreshes])
def test_a_job_goes_on_while_redis_refuses_writes_and_says_when_it_works_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, job: Callable[..., Any]
) -> None:
    owner, name, run = job(monkeypatch)
    outcomes: list[Exception | None] = [redis.ResponseError("OOM"), redis.ResponseError("OOM"), None]

    def does(_: Any) -> None:
        if (error := outcomes.pop(0)) is not None:
            raise error

    monkeypatch.setattr(owner, name, does)
    for _ in range(3):
        run()

    assert outcomes == []
    assert caplog.text.count("ResponseError: OOM") == 1
    assert "it works again after 2 failures" in caplog.text


def test_a_message_that_redis_refuses_to_note_counts_towards_the_prefetch_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> None:
        raise redis.ResponseError("OOM")

    monkeypatch.setattr(kombu_redis.QoS, "append", refuse)
    qos = QoS(SimpleNamespace(do_restore=False), prefetch_count=1)
    assert qos.can_consume()

    qos.append(SimpleNamespace(), "a tag")

    assert not qos.can_consume()


def test_another_error_reaches_kombu_which_connects_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: Any) -> None:
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(kombu_redis.QoS, "restore_visible", gone)

    with pytest.raises(redis.ConnectionError):
        a_qos().restore_visible()
    assert Transport.Channel is Channel


@pytest.fixture(params=ODD)
def odd_redis(request: pytest.FixtureRequest, configure: Callable[..., Settings]) -> Iterator[Settings]:
    """The settings of a process whose Redis, or a proxy in front of it, gives the same answer to everything."""
    with redis_that_answers(ODD[request.param]) as url:
        yield configure(redis_url=url)


def test_an_answer_that_is_none_is_an_error_of_redis_and_no_other(odd_redis: Settings) -> None:
    client: Any = broker_transport._Client(connection_pool=redis_client(odd_redis, 1.0).connection_pool)
    questions: list[Callable[[], Any]] = [
        lambda: client.execute_command("BRPOP", "b2copy.money", 1),
        lambda: client.pipeline().llen("b2copy.money").sadd("x", "y").execute(),
        lambda: client.zrange(UNACKED_INDEX, 0, 1, desc=True, withscores=True),
        lambda: client.hmget(UNACKED, "x", "y"),
    ]
    for question in questions:
        with suppress(redis.RedisError, OSError):
            question()


def test_a_session_takes_it_for_a_redis_that_does_not_answer(odd_redis: Settings) -> None:
    with pytest.raises(StoreUnavailable):
        SharedSession(odd_redis).current()
