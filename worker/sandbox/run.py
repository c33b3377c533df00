"""Run the sandbox until SIGTERM or Ctrl-C."""

import asyncio
import ipaddress
import signal
from collections.abc import Callable, Mapping

from worker.sandbox.assertion import Keys
from worker.sandbox.b2copy import B2Copy
from worker.sandbox.server import Server
from worker.sandbox.switches import Switches


def serve(
    switches: Switches,
    public_keys: Mapping[str, str],
    host: str = "127.0.0.1",
    port: int = 0,
    anywhere: bool = False,
    ready: Callable[[str], None] = print,
) -> None:
    """Serve until SIGTERM or Ctrl-C; `ready` is called with the base URL. `public_keys`: PEM text by key id.

    Raises ValueError for an unusable key, and without `anywhere` for a host that is not loopback, because anybody who
    can reach the sandbox can control it.
    """
    if host == "localhost":
        host = "127.0.0.1"
    if not anywhere and not ipaddress.ip_address(host).is_loopback:
        raise ValueError(f"{host} is not a loopback address, and anybody who can reach the sandbox can control it")
    keys = Keys()
    for key_id, pem in public_keys.items():
        keys.register(key_id, pem)
    asyncio.run(_serve(B2Copy(switches, keys), host, port, ready))


async def _serve(b2copy: B2Copy, host: str, port: int, ready: Callable[[str], None]) -> None:
    server = Server(b2copy)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    port = await server.listener.open(host, port)
    ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    await stop.wait()
    server.listener.close()
