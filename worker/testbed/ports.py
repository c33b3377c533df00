"""A free loopback port that no other program takes while our server is down."""

import random
import socket
import time

from worker.testbed.processes import Process, ProcessFailed

# Below the ports that a kernel gives to clients (from 32768 on Linux, from 49152 elsewhere). A client that retries
# while the server is down could otherwise get the server's port as its own and connect to itself.
_RANGE = range(15_000, 32_000)


def free_port() -> int:
    for port in random.sample(_RANGE, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free loopback port between 15000 and 32000")


def wait_for_port(port: int, process: Process, within: float = 30.0) -> None:
    """Wait until the port accepts connections. Raises ProcessFailed if `process` ends first, or after `within` s."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if not process.running and process.returncode is not None:
            break
        time.sleep(0.01)
    raise ProcessFailed(f"{process.name} did not start:\n{process.tail()}")
