"""Every connection to Redis is made with these: Celery's, the shared session's, the rate limit's and doctor's.

TLS verifies the certificate and the host name. SSLKEYLOGFILE is not obeyed, because a person who can set it
could decrypt the traffic that carries the tokens.
"""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.errors import comes_from_caller, without_frames
from worker.redis_url import uses_tls, verifies_certificate, without_query
from worker.settings import CrmSettings


class QuietConnection(redis.Connection):
    """redis-py's connection. The frames of its errors do not hold the password, which error trackers would store.

    A primary that becomes a replica keeps its connections. Only a new connection finds the new primary, so one that is
    refused a write is closed.
    """

    _is_connecting = False

    def connect_check_health(self, *args: Any, **options: Any) -> None:
        """Connect and log in."""
        self._is_connecting = True
        try:
            super().connect_check_health(*args, **options)
        except Exception as error:
            raise without_frames(_error_of_redis(error)) from None
        finally:
            self._is_connecting = False

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)
        except redis.ReadOnlyError:
            if not self._is_connecting:
                self.disconnect()  # type: ignore[no-untyped-call]
            raise


class VerifiedTlsConnection(redis.SSLConnection, QuietConnection):
    """redis-py's TLS connection on a context of our own: `ssl.create_default_context` obeys SSLKEYLOGFILE."""

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = bool(self.check_hostname)
        context.verify_mode = ssl.VerifyMode(self.cert_reqs)
        if self.ca_certs is not None:
            context.load_verify_locations(cafile=self.ca_certs)
        else:
            context.load_default_certs()
        return context.wrap_socket(sock, server_hostname=self.host)


@contextmanager
def odd_answers_end_connections(pool: redis.ConnectionPool) -> Iterator[None]:
    """Raise `redis.ConnectionError` for an answer that cannot be read, and close all connections.

    It may be a proxy's, or the answer to another command, and then so are all that follow it.
    """
    try:
        yield
    except (redis.RedisError, OSError):
        raise
    except Exception as error:
        pool.disconnect()
        raise _error_of_redis(error) from None


def _error_of_redis(error: Exception) -> Exception:
    """Return the error, or if redis-py could not read an answer, what it means: that the connection is lost."""
    if isinstance(error, redis.RedisError | OSError) or comes_from_caller(error):
        return error
    return redis.ConnectionError(f"Redis gave an answer that cannot be read: {type(error).__name__}: {error}")


class _Pipeline(redis.client.Pipeline):
    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        with odd_answers_end_connections(self.connection_pool):
            return super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        with odd_answers_end_connections(self.connection_pool):
            return super().execute(raise_on_error)


class _PubSub(redis.client.PubSub):
    def parse_response(self, *args: Any, **options: Any) -> Any:
        with odd_answers_end_connections(self.connection_pool):
            return super().parse_response(*args, **options)  # type: ignore[no-untyped-call]


class Client(redis.Redis):
    """redis-py's client. An answer that cannot be read raises `redis.ConnectionError`, and not whatever error."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        with odd_answers_end_connections(self.connection_pool):
            return super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> _Pipeline:
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    def pubsub(self, **options: Any) -> _PubSub:
        return _PubSub(self.connection_pool, **options)


def tls_options(settings: CrmSettings) -> dict[str, Any]:
    """Return redis-py's TLS arguments; empty for a plain connection."""
    if not uses_tls(settings.redis_url):
        return {}
    verified = verifies_certificate(settings.redis_url)
    return {
        "ssl_cert_reqs": "required" if verified else "none",
        "ssl_check_hostname": verified,
        "ssl_ca_certs": str(settings.redis_ca_file) if settings.redis_ca_file else None,
    }


def connection_pool(
    settings: CrmSettings, timeout_s: float, connect_timeout_s: float | None = None, retries: int = 0
) -> redis.ConnectionPool:
    """Return a pool of connections that fail after `timeout_s`. `retries` counts those after a broken connection.

    A Redis without the command CLIENT is served too, because connections carry no name.
    """
    return redis.ConnectionPool.from_url(
        without_query(settings.redis_url),
        socket_timeout=timeout_s,
        socket_connect_timeout=connect_timeout_s or timeout_s,
        retry=Retry(NoBackoff(), retries, supported_errors=(redis.ConnectionError,)),
        protocol=2,
        **_connection_class(settings),
    )


def redis_client(
    settings: CrmSettings, timeout_s: float, connect_timeout_s: float | None = None, retries: int = 0
) -> redis.Redis:
    """Return a client with a pool of its own: see `connection_pool`."""
    return Client(connection_pool=connection_pool(settings, timeout_s, connect_timeout_s, retries))


def _connection_class(settings: CrmSettings) -> dict[str, Any]:
    options = tls_options(settings)
    return {"connection_class": VerifiedTlsConnection if options else QuietConnection, **options}
