"""What kombu's jobs do while Redis refuses writes: they go on, say so once, and cost no slot of a worker."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from kombu.connection import Connection
from kombu.transport import redis as kombu_redis

from tests.odd_redis import ODD, redis_that_answers
from worker.errors import StoreUnavailable
from worker.messages import broker_transport
from worker.messages.broker_transport import Channel, Transport
from worker.queues import INBOX, UNACKED, UNACKED_INDEX
from worker.redis_connection import redis_client
from worker.session import SharedSession
from worker.settings import Settings
from worker.testbed.broker import Broker
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


@pytest.fixture
def consumer(broker: Broker) -> Iterator[Any]:
    """A channel that may hold one message of the inbox, which has one."""
    made: Any = Connection(broker.url, transport=Transport)  # type: ignore[no-untyped-call]
    with made as connection:
        connection.Producer().publish({}, exchange="", routing_key=INBOX)
        channel: Any = connection.channel()
        channel.qos.prefetch_count = 1
        with broker.client as client:
            yield channel
            client.config_set("min-replicas-to-write", 0)


@contextmanager
def refusing(broker: Broker) -> Iterator[None]:
    """Let Redis refuse every write."""
    with broker.client as client:
        client.config_set("min-replicas-to-write", 3)
        yield
        client.config_set("min-replicas-to-write", 0)


@contextmanager
def killed(broker: Broker) -> Iterator[None]:
    broker.kill()
    yield
    broker.start()


DISPOSALS: dict[str, Callable[[Any], None]] = {
    "ack": lambda message: message.ack(),
    "reject": lambda message: message.reject(),
    "requeue": lambda message: message.requeue(),
}


@pytest.mark.parametrize("unavailable", [refusing, killed])
@pytest.mark.parametrize("disposal", DISPOSALS)
def test_an_acknowledgement_that_fails_costs_no_slot_and_the_message_comes_back(
    broker: Broker, consumer: Any, disposal: str, unavailable: Callable[[Broker], AbstractContextManager[None]]
) -> None:
    message = consumer.basic_get(INBOX)
    assert not consumer.qos.can_consume()

    with unavailable(broker), pytest.raises(redis.RedisError):
        DISPOSALS[disposal](message)

    assert consumer.qos.can_consume()
    with broker.client as client:
        assert client.hkeys(consumer.unacked_key) == [message.delivery_tag]
    consumer.qos.restore_by_tag(message.delivery_tag)
    assert consumer.basic_get(INBOX).body == message.body


@pytest.mark.parametrize("disposal", ["ack", "reject"])
def test_a_message_that_nobody_needs_any_more_costs_no_slot_although_redis_has_no_note(
    broker: Broker, consumer: Any, disposal: str
) -> None:
    message = take_without_note(broker, consumer)

    with refusing(broker), pytest.raises(redis.RedisError):
        DISPOSALS[disposal](message)

    assert consumer.qos.can_consume()
    assert consumer.qos._without_note == {}


@pytest.mark.parametrize("disposal", ["ack", "reject"])
def test_an_acknowledgement_after_the_connection_was_closed_is_an_error_that_celery_handles(
    consumer: Any, monkeypatch: pytest.MonkeyPatch, disposal: str
) -> None:
    """Celery logs an error of the connection. It ends the worker for any other one."""
    message = consumer.basic_get(INBOX)
    monkeypatch.setattr(consumer, "connection", None)  # as after the close of the channel
    monkeypatch.setattr(consumer, "_pool", None)

    with pytest.raises(redis.ConnectionError):
        DISPOSALS[disposal](message)

    assert consumer.qos.can_consume()


def test_a_message_that_exists_here_alone_stays_until_redis_takes_it_back(broker: Broker, consumer: Any) -> None:
    message = take_without_note(broker, consumer)

    with refusing(broker), pytest.raises(redis.RedisError):
        message.requeue()
    assert not consumer.qos.can_consume()

    consumer.qos.restore_unacked_once()  # as when the worker connects again
    assert consumer.basic_get(INBOX, no_ack=True).body == message.body


def take_without_note(broker: Broker, consumer: Any) -> Any:
    """Take the message, which Redis then refuses to note."""
    message = consumer.basic_get(INBOX, no_ack=True)
    with refusing(broker):
        consumer.qos.append(message, message.delivery_tag)
    assert not consumer.qos.can_consume()
    return message


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
