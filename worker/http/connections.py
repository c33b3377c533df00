"""libcurl's connections of one process, as coroutines of its event loop."""

import time
from collections.abc import Callable
from pathlib import Path

import certifi
import pycurl

from worker.certificates import checked_certificates
from worker.errors import SettingsError
from worker.http.answer import Answer
from worker.http.curl import Ends, Handle, NothingSent, Request

_SOCKETS_MAX = 1000  # entries of `_sockets`, closed connections included; with more, all entries are removed


class Connections:
    """Up to `size` idle connections. Every method must be called on the event loop of this process.

    `refuses` returns whether no connection may be made to an address; see `Handle`.
    """

    def __init__(self, ca_file: str | None, size: int, refuses: Callable[[str], bool] | None = None) -> None:
        self._ca_file, self._refuses = ca_file, refuses
        self._multi = pycurl.AsyncCurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, max(1, size))
        self._sockets: dict[Ends, int] = {}
        self._idle: dict[tuple[str, bool], list[Handle]] = {}

    async def send(self, request: Request, deadline_s: float) -> Answer:
        """Send `request` once and return the whole answer. No redirect is followed.

        Everything together may take `deadline_s` seconds. Raises `Unavailable` when nothing was sent,
        `StaleConnection` or `UnknownOutcome` when something may have been, and what `request.before_send` raises.
        """
        request.before_send()
        ends = time.monotonic() + deadline_s
        key = request.method, request.body is not None
        idle = self._idle.setdefault(key, [])
        handle = idle.pop() if idle else Handle(*key, self._ca_file, self._sockets, self._refuses)
        if len(self._sockets) > _SOCKETS_MAX:
            self._sockets.clear()
        try:
            handle.start(request, deadline_s, reuse=request.may_reuse)
            answer = await self._perform(handle)
        except NothingSent:
            request.before_send()
            handle.start(request, ends - time.monotonic(), reuse=False)
            answer = await self._perform(handle)
        # After a failure or a cancellation the handle is given up: libcurl may still be busy with it.
        idle.append(handle)
        return answer

    async def _perform(self, handle: Handle) -> Answer:
        failure: pycurl.error | None = None
        try:
            await self._multi.perform(handle.curl)
        except pycurl.error as error:
            failure = error
        return handle.answer(failure)


def check() -> None:
    """Check that requests can be sent at all. Raises `SettingsError`, so that a worker does not start."""
    features = pycurl.version_info()[4]
    missing = [
        name
        for name, is_there in (
            ("TLS", features & pycurl.VERSION_SSL),
            ("names resolved in a thread", features & pycurl.VERSION_ASYNCHDNS),
            ("AsyncCurlMulti", hasattr(pycurl, "AsyncCurlMulti")),
            ("PREREQFUNCTION", hasattr(pycurl, "PREREQFUNCTION")),
        )
        if not is_there
    ]
    if missing:
        raise SettingsError(
            f"pycurl {pycurl.version} lacks {', '.join(missing)}: install the wheel from PyPI, pycurl 7.49 or later"
        )
    try:
        checked_certificates(Path(certifi.where()))
    except ValueError as error:
        raise SettingsError(f"the file of certifi's certificates {error}") from None
