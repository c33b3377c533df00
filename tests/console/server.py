"""A console that listens, in a thread of this process: for a real browser."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from worker.console.app import make_app
from worker.console.process_state import Console
from worker.testbed.ports import free_port


@contextmanager
def listening(console: Console, port: int | None = None) -> Iterator[str]:
    """Serve a console on a free loopback port. Yields its address."""
    port = port or free_port()
    config = uvicorn.Config(
        make_app(console), host="127.0.0.1", port=port, proxy_headers=False, access_log=False, log_level="warning"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="console", daemon=True)
    thread.start()
    ends = time.monotonic() + 10
    while not server.started and time.monotonic() < ends:
        time.sleep(0.01)
    assert server.started
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
