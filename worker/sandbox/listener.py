"""The listening socket. It can be closed for some time; then the kernel refuses connections."""

import asyncio
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary

from aiohttp import web

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Listener:
    def __init__(self, handle: Handle) -> None:
        self._server = web.Server(handle, access_log=None, keepalive_timeout=3600.0)
        self._socket: asyncio.Server | None = None
        self._host, self._port = "", 0
        self._requests_on: WeakKeyDictionary[asyncio.BaseTransport, int] = WeakKeyDictionary()

    async def open(self, host: str, port: int) -> int:
        """Listen on the port, 0 for any free one, and return it."""
        loop = asyncio.get_running_loop()
        self._socket = await loop.create_server(self._server, host, port, backlog=1024, reuse_address=True)
        self._host, self._port = host, self._socket.sockets[0].getsockname()[1]
        return self._port

    async def go_away(self, seconds: float) -> None:
        """Close all connections and refuse new ones for `seconds`, then listen again."""
        self.close()
        await asyncio.sleep(seconds)
        await self.open(self._host, self._port)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        for connection in list(self._server.connections):
            if connection.transport is not None:
                connection.transport.abort()

    def accepts(self, request: web.BaseRequest, drop_reused: bool, idle_timeout: float | None) -> bool:
        """Return whether the connection may carry this request. Close it after `idle_timeout` s without another."""
        transport = request.transport
        if transport is None:
            return False
        count = self._requests_on[transport] = self._requests_on.get(transport, 0) + 1
        if idle_timeout:
            asyncio.get_running_loop().call_later(idle_timeout, self._close_idle, transport, count)
        return count == 1 or not drop_reused

    def _close_idle(self, transport: asyncio.BaseTransport, count: int) -> None:
        if self._requests_on.get(transport) == count:
            transport.close()
