"""A Redis, or a proxy in front of it, that gives the same answer to everything."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ODD = {
    "a word": b"+OK\r\n",
    "nothing": b"$-1\r\n",
    "no list": b"*-1\r\n",
    "a number": b":7\r\n",
    "a text": b"$1\r\nx\r\n",
    "other texts": b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n",
    "no number": b"$abc\r\n",
    "deep": b"*1\r\n" * 3000 + b":1\r\n",
    "of RESP3": b"%1\r\n+a\r\n:1\r\n",
    "of HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@contextmanager
def redis_that_answers(answer: bytes, port: int = 0) -> Iterator[str]:
    """Serve at `port`, any free one by default. Returns the URL."""
    listener = socket.create_server(("127.0.0.1", port))

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            while connection.recv(10_000):
                connection.sendall(answer)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
