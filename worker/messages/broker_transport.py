"""kombu's Redis transport, with eight changes. It uses kombu's inner names: kombu is pinned, and tests hold each one.

* TLS connections verify certificate and host name, and no error shows the password (`worker.redis_connection`).
* Each item taken from a queue is checked before kombu reads it (`worker.messages.safe_envelope`).
* A message that Redis handed out, but whose note it refuses (out of memory, read-only, gone), is still delivered. kombu
  would lose it.
* A message whose acknowledgement fails does not count towards the prefetch limit. In kombu it counts until the worker
  connects again, and a worker that has as many of such messages as slots takes no further message.
* The jobs that repeat every second log a Redis that refuses writes once, not as a traceback each time.
* If Redis' answer cannot be read as one to the command that was sent (a proxy's, or a late one), the connection counts
  as lost. kombu would end the worker.
* A value of another type under one of kombu's keys, or a lock that never expires, is removed. Otherwise the queue, or
  the return of messages that lost workers had taken, would stand still for ever.
* Broadcasts are questions only (`worker.messages.remote_control`).
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from worker.messages.remote_control import is_allowed
from worker.messages.safe_envelope import deliverable, restorable
from worker.queues import UNACKED, UNACKED_INDEX, UNACKED_MUTEX
from worker.redis_connection import Client, QuietConnection, VerifiedTlsConnection, odd_answers_end_connections
from worker.watch.outage_log import OutageLog

log = logging.getLogger(__name__)
_restoring = OutageLog(log, "Redis refuses to restore the messages of lost workers, which is tried again")


_TYPES = (
    ("b2copy.*", b"list"),
    (UNACKED, b"hash"),
    (UNACKED_INDEX, b"zset"),
    (UNACKED_MUTEX, b"string"),
    ("_kombu.binding.*", b"set"),
    ("_kombu.binding_permanent.*", b"set"),
    ("_kombu.binding_deadlines", b"zset"),
)
"""Patterns of kombu's keys, and the type of each."""


def _remove_values_of_another_type(pool: redis.ConnectionPool) -> None:
    """Remove values of another type under kombu's keys. A process that lacks the right (a CRM's) leaves them."""
    client = Client(connection_pool=pool)
    with suppress(redis.RedisError, OSError):
        for pattern, type_ in _TYPES:
            for key in client.scan_iter(match=pattern, count=1000):
                found: Any = client.type(key)
                if found not in {type_, b"none"}:
                    client.delete(key)
                    log.error("a %s that is not ours stood under %s in Redis: removed", found.decode(), key.decode())


class _Client(Client):
    """Replaces an item of a queue by what kombu can deliver."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        try:
            answer = super().parse_response(connection, command_name, **options)
        except redis.ResponseError as error:
            if "WRONGTYPE" in str(error):
                _remove_values_of_another_type(self.connection_pool)
            raise
        if command_name != "BRPOP" or not answer:
            return answer
        with odd_answers_end_connections(self.connection_pool):
            key, item = answer
            queue = key.decode().partition(kombu_redis.Channel.sep)[0]
            return key, deliverable(item, queue)


class _QoS(kombu_redis.QoS):
    """Notes which messages were handed out and not acknowledged."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._without_note: dict[str, Any] = {}  # delivery tag -> message that Redis has no note of

    def append(self, message: Any, delivery_tag: str) -> None:
        try:
            super().append(message, delivery_tag)
        except (redis.RedisError, OSError) as error:
            log.warning(
                "Redis does not note that this worker took a message. The message is handled, but it is lost if the"
                " worker is killed before. Is Redis full or read-only? %s", error,
            )  # fmt: skip
            self._without_note[delivery_tag] = message
            virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        self._without_note.pop(delivery_tag, None)
        with self._free_slot_on_error(delivery_tag):
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if requeue and delivery_tag in self._without_note:
            # Redis does not have this message. So it must stay here if Redis does not take it back.
            super().reject(delivery_tag, requeue)
            return
        self._without_note.pop(delivery_tag, None)
        with self._free_slot_on_error(delivery_tag):
            super().reject(delivery_tag, requeue)

    @contextmanager
    def _free_slot_on_error(self, delivery_tag: str) -> Iterator[None]:
        """Count a message as handled although Redis did not remove its note. Raises what the block raises.

        Nobody acknowledges it again under this tag: after the visibility timeout Redis delivers it under another one.
        """
        try:
            yield
        except Exception as error:
            virtual.QoS.ack(self, delivery_tag)
            if self.channel.connection is None:  # closed since. kombu's AttributeError would end the worker.
                raise redis.ConnectionError("the connection to Redis was closed") from error
            raise

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put a message back into its queue. A note that is not kombu's goes to the inbox instead of ending us."""

        def move(pipe: Any) -> None:
            stored = pipe.hget(self.unacked_key, tag)
            pipe.multi()
            self._remove_from_indices(tag, pipe)
            if stored is None and tag in self._without_note:
                message = self._without_note[tag]
                stored = json.dumps([message._raw, "", message.delivery_info["routing_key"]]).encode()
            if stored is not None:
                queue, item = restorable(stored)
                (pipe.lpush if leftmost else pipe.rpush)(queue, item)

        with self.channel.conn_or_acquire(client) as connected:
            connected.transaction(move, self.unacked_key)
        self._without_note.pop(tag, None)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Put back what lost workers had taken. kombu calls this every second."""
        try:
            with self.channel.conn_or_acquire() as client:
                if client.pttl(self.unacked_mutex_key) == -1:
                    client.delete(self.unacked_mutex_key)
            super().restore_visible(*args, **kwargs)
        except redis.ResponseError as error:
            _restoring.failed(error)
        else:
            _restoring.succeeded()


class Channel(kombu_redis.Channel):
    QoS = _QoS
    connection_class = QuietConnection
    connection_class_ssl = VerifiedTlsConnection

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._refreshing = OutageLog(log, "Redis refuses to keep the bindings of queues, which is tried again")
        super().__init__(*args, **kwargs)

    def maybe_refresh_binding_expiry(self) -> None:
        """Keep the bindings from expiring. kombu calls this every second, and after a failure it tries each time."""
        try:
            super().maybe_refresh_binding_expiry()
        except redis.ResponseError as error:
            self._refreshing.failed(error)
        else:
            self._refreshing.succeeded()

    def _handle_message(self, client: Any, message: Any) -> Any:
        with odd_answers_end_connections(client.connection_pool):
            return super()._handle_message(client, message)

    def _get_client(self) -> Any:
        super()._get_client()  # checks the version of redis-py
        return _Client

    def _deliver_fanout_message(self, message: Any, exchange: str) -> bool:
        if not is_allowed(message):
            log.warning("a remote command was ignored: a worker only answers questions such as `inspect ping`")
            return False
        return bool(super()._deliver_fanout_message(message, exchange))


class Transport(kombu_redis.Transport):
    Channel = Channel
