"""A Redis far away: each request to it takes its time."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def redis_behind_a_slow_line(port: int, delay_s: float) -> Iterator[int]:
    """Serve what the Redis at `port` answers, `delay_s` later. Returns the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def copy(source: socket.socket, target: socket.socket, pause_s: float) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                time.sleep(pause_s)
                target.sendall(data)

    def serve(client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", port)) as server:
            threading.Thread(target=copy, args=(server, client, 0.0), daemon=True).start()
            copy(client, server, delay_s)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
