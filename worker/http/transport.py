"""HTTP with one deadline for all of it, and failures sorted by whether the request left."""

import http.client
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import requests
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.util import Timeout

from worker.errors import B2CopyError, Unavailable, UnknownOutcome
from worker.http.answer import Answer
from worker.http.connection import Adapter, StaleError

USER_AGENT = f"b2copy-sync/{version('b2copy-sync')}"
LARGEST = 1024 * 1024  # bytes of an answer, decoded


class StaleConnection(UnknownOutcome):
    """A kept-alive connection was closed before any byte of the answer came: most likely never read."""


class Transport:
    """Connections to one host, kept alive for as many calls at once as `size`, or not at all with `size=0`."""

    def __init__(self, ca_file: str | None, size: int) -> None:
        self._adapter = Adapter(size)
        self._verify: bool | str = ca_file or True
        self._keep = size > 0

    def send(self, request: requests.PreparedRequest, deadline: float) -> Answer:
        """Send `request` and read the whole answer in `deadline` seconds; no redirect is followed, nothing repeated.

        Raises `Unavailable` when the request surely did not leave, `StaleConnection` or `UnknownOutcome` when it
        may have. No error holds the request.
        """
        what = f"{request.method} {request.path_url}"
        try:
            countdown: Any = Timeout(total=deadline)  # accepted by requests, unknown to its types
            response = self._adapter.send(request, stream=True, timeout=countdown, verify=self._verify)
            body: bytes = response.raw.read(LARGEST + 1, decode_content=True)
            if len(body) <= LARGEST:
                return Answer(response.status_code, response.headers, body)
            response.raw.close()
            failure: B2CopyError = UnknownOutcome(f"{what}: the answer is longer than {LARGEST} bytes")
        except (requests.RequestException, HTTPError, OSError, http.client.HTTPException) as error:
            failure = _sorted(what, error)
        finally:
            if not self._keep:
                self._adapter.close()
        raise failure  # out here, so that not even its context holds the request


def _sorted(what: str, error: BaseException) -> Unavailable | UnknownOutcome:
    causes = list(_causes(error))
    told = f"{type(causes[-1]).__name__}: {causes[-1]}"[:200]
    if any(isinstance(cause, NewConnectionError) for cause in causes):
        return Unavailable(f"{what}: no connection ({told})")
    if any(isinstance(cause, StaleError) for cause in causes):
        return StaleConnection(f"{what}: the connection was closed before an answer came")
    return UnknownOutcome(f"{what}: no whole answer ({told})")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Walk down what requests and urllib3 wrapped: a cause, a reason, or an error among the arguments."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        inner = [seen.__cause__, getattr(seen, "reason", None), *reversed(seen.args)]
        seen = next((cause for cause in inner if isinstance(cause, BaseException)), None)
