"""What kombu's jobs of every second do while Redis refuses writes: they go on, and say so once."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from kombu.transport import redis as kombu_redis

from worker.messages import broker_transport
from worker.messages.broker_transport import Channel, Transport
from worker.watch.outage_log import OutageLog

QoS: Any = Channel.QoS


def restores(_: pytest.MonkeyPatch) -> tuple[type[Any], str, Callable[[], None]]:
    qos = QoS.__new__(QoS)
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
        QoS.__new__(QoS).restore_visible()
    assert Transport.Channel is Channel
