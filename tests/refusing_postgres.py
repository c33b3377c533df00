"""A PostgreSQL server that asks for the password and refuses it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress


@contextmanager
def refusing_server() -> Iterator[tuple[int, list[bytes]]]:
    """Serve on loopback. Gives the port and a list of what came as passwords.

    Its messages: https://www.postgresql.org/docs/current/protocol-message-formats.html
    """

    def refuse(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while (size := int.from_bytes(connection.recv(4), "big")) == 8:  # asks for TLS or GSS encryption
                connection.recv(4)
                connection.sendall(b"N")
            if not size:  # the client needs TLS, and has ended the connection
                return
            connection.recv(size - 4)
            connection.sendall(b"R" + (8).to_bytes(4, "big") + (3).to_bytes(4, "big"))
            seen.append(connection.recv(200))
            fields = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed\0\0"
            connection.sendall(b"E" + (4 + len(fields)).to_bytes(4, "big") + fields)

    def serve() -> None:
        with suppress(OSError):
            while True:
                refuse(server.accept()[0])

    seen: list[bytes] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], seen
        server.shutdown(socket.SHUT_RDWR)
