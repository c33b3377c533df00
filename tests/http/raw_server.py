"""The other end of the wire, byte by byte: for what no decent HTTP server can be made to do."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType

Answering = Callable[[socket.socket, bytes], bool | None]

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
PAIR = b'{"accessToken": "access-of-the-wire", "refreshToken": "refresh-of-the-wire"}'


class Wire:
    """Accepts connections and hands each whole request to `answer`, which returns True to close the connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self.connections = 0
        self.answer: Answering = lambda connection, request: connection.sendall(OK)
        self.login: Answering = _give_pair
        self.tls: ssl.SSLContext | None = None
        self._open: list[socket.socket] = []

    def __enter__(self) -> "Wire":
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._thread.join()

    def _accept(self) -> None:
        serving = []
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            thread.start()
            serving.append(thread)
        for thread in serving:
            thread.join()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            while request := _whole(connection):
                self.requests.append(request)
                if b"/authexternalcrm" in request.split(b"\r\n")[0]:
                    self.login(connection, request)
                elif self.answer(connection, request):
                    return
        except OSError:
            pass  # the client has closed the connection
        finally:
            connection.close()


def _give_pair(connection: socket.socket, request: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(PAIR), PAIR))


def _whole(connection: socket.socket) -> bytes:
    """Read one request, head and body; nothing if the connection was closed before."""
    received = b""
    while True:
        head, found, body = received.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        if found and len(body) >= length:
            return received
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        received += chunk
