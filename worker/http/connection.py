"""Connections that keep one deadline.

`requests` bounds each wait, not their sum: a server that sends a byte now and then holds a call for ever. Here a
connection's `timeout` counts down from the start of a call, and every connect, send and receive gets what is left.
"""

import http.client
import io
import socket
import time
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import ConnectionPool
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError

IDLE = 1.0  # seconds: an older kept-alive connection is not trusted, as servers close them from 2 s on


class StaleError(http.client.RemoteDisconnected):
    """A kept-alive connection turned out to be closed before any byte of the answer came."""


class _Reader(io.RawIOBase):
    """A socket read with what is left of the deadline before each receive."""

    def __init__(self, stream: io.RawIOBase, sock: socket.socket, ends: float) -> None:
        # The stream keeps the socket open where the server says `Connection: close`, until the body is read.
        self._stream, self._sock, self._ends = stream, sock, ends
        self.received = 0
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        self._sock.settimeout(left)
        count = self._stream.readinto(buffer) or 0
        self.received += count
        self.ended = count == 0
        return count

    def close(self) -> None:
        super().close()
        self._stream.close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, ends: float, method: str | None) -> None:
        super().__init__(sock, method=method)
        self.reader = _Reader(self.fp.detach(), sock, ends)
        self.fp = io.BufferedReader(self.reader)

    def begin(self) -> None:
        super().begin()
        if self.reader.ended:
            # http.client takes the end of the stream for the end of the headers, and the answer for an empty one.
            raise http.client.IncompleteRead(b"")


if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection as _Connection
else:
    _Connection = object


class _Countdown(_Connection):
    """What both kinds of connection share; mixed in before urllib3's class."""

    _ends: float | None = None
    _used: float = 0.0  # when an answer last began on this connection; 0 on a fresh one
    _reader: _Reader | None = None
    _outbox: list[bytes] | None = None

    @property
    def timeout(self) -> float | None:
        """What is left. urllib3 sets it when a call begins, and again, to what is left, when it has been sent."""
        return None if self._ends is None else max(0.001, self._ends - time.monotonic())

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        self._ends = time.monotonic() + seconds if isinstance(seconds, int | float) else None

    def response_class(self, sock: socket.socket, *_: Any, method: str | None = None) -> _Response:  # type: ignore[override]
        """Make the response that http.client asks for, with this call's deadline."""
        response = _Response(sock, self._ends or 0.0, method)
        self._reader = response.reader
        return response

    def _new_conn(self) -> socket.socket:
        """Try each address with what is left; urllib3 would give each of them the whole time."""
        host, port = self._dns_host, self.port
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(host, self, error) from error
        reason: OSError = OSError("no address")
        for family, kind, protocol, _, address in addresses:
            sock = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                sock.settimeout(self.timeout)
                sock.connect(address)
            except OSError as error:
                sock.close()
                reason = error
            else:
                return sock
        raise NewConnectionError(self, type(reason).__name__) from reason

    def connect(self) -> None:
        self._used = 0.0
        try:
            super().connect()
        except (OSError, HTTPError, http.client.HTTPException) as error:  # TLS too: nothing has been sent yet
            raise NewConnectionError(self, type(error).__name__) from error

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None and self._used and time.monotonic() - self._used > IDLE:
            self.close()
        self._outbox = []
        super().request(*args, **kwargs)
        whole, self._outbox = b"".join(self._outbox), None
        self.send(whole)

    def send(self, data: Any) -> None:
        """Send, with what is left; head and body of a request as one, which saves both ends a system call."""
        if self._outbox is not None:
            self._outbox.append(data)
            return
        if self.sock is not None:
            self.sock.settimeout(self.timeout)
        try:
            super().send(data)
        except ConnectionError as error:
            if self._used:
                raise StaleError(type(error).__name__) from error
            raise

    def getresponse(self) -> Any:
        self._reader = None
        try:
            response = super().getresponse()
        except ConnectionError as error:
            if self._used and self._reader is not None and not self._reader.received:
                raise StaleError(type(error).__name__) from error
            raise
        self._used = time.monotonic()
        return response


class _HTTPConnection(_Countdown, HTTPConnection):
    pass


class _HTTPSConnection(_Countdown, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class Adapter(HTTPAdapter):
    """What requests sends through, to one host."""

    def __init__(self, size: int) -> None:
        super().__init__(pool_connections=1, pool_maxsize=max(1, size), max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        self.poolmanager = PoolManager(num_pools=connections, maxsize=maxsize, block=block, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        self._pool: ConnectionPool | None = None

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> ConnectionPool:
        """Find the pool once: there is one host, and looking it up costs a tenth of a call."""
        if self._pool is None:
            self._pool = super().get_connection_with_tls_context(*args, **kwargs)
        return self._pool

    def close(self) -> None:
        self._pool = None
        super().close()
