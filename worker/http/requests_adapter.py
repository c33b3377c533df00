"""Requests as `requests` prepares them, for code that waits for its answer in a thread: login, refresh."""

from collections.abc import Mapping
from typing import Any

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers

from worker.errors import B2CopyError
from worker.http.answer import Answer
from worker.http.connections import Connections
from worker.http.curl import Request
from worker.http.event_loop_thread import event_loop
from worker.per_process import PerProcess


class CurlAdapter(BaseAdapter):
    """Sends each request on a connection of its own. Mounted on a `requests.Session`.

    `timeout` is one deadline in seconds for all of the request. Raises as `Connections.send`, not as `requests`.
    """

    def __init__(self, ca_file: str | None) -> None:
        super().__init__()
        self._connections = PerProcess(lambda: Connections(ca_file, 1))

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        answer = event_loop().run(self._send(_converted(request), float(timeout)))
        response = requests.Response()
        response.status_code, response.url, response.request = answer.status, str(request.url), request
        response.headers = CaseInsensitiveDict(answer.headers)
        response.encoding = get_encoding_from_headers(response.headers)
        response._content = answer.body
        return response

    async def _send(self, request: Request, deadline_s: float) -> Answer:
        return await self._connections().send(request, deadline_s)

    def close(self) -> None:
        pass


def _converted(request: requests.PreparedRequest) -> Request:
    """Return the request as libcurl gets it. A function of its own, so that no frame of an error holds the body."""
    method, url = str(request.method), str(request.url)
    name = f"{method} {request.path_url.partition('?')[0]}"
    headers = {str(name): str(value) for name, value in request.headers.items()}
    return Request(method, url, name, headers, request.body.encode() if isinstance(request.body, str) else request.body)


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """A redirect is an answer. `requests` would parse its address even when it does not follow it."""


class Transport:
    """A `requests` session over libcurl. Safe to share between threads and across a fork."""

    def __init__(self, ca_file: str | None) -> None:
        self._session = _Session()
        self._session.trust_env = False
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, CurlAdapter(ca_file))

    def send(self, request: requests.PreparedRequest, deadline: float) -> Answer:
        """Send `request` and read the whole answer in `deadline` seconds. Raises as `Connections.send`.

        The error is raised without the frames below, because they hold the request's body and headers.
        """
        try:
            response = self._session.send(request, timeout=deadline, allow_redirects=False)
        except B2CopyError as error:
            failure = error.with_traceback(None)
        else:
            return Answer(response.status_code, response.headers, response.content)
        raise failure from None
