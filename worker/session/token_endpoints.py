"""B2COPY's two token endpoints, and the one function that talks to them.

Source: B2COPY's "Integrate your external CRM system with B2COPY API". Nothing here repeats a call: whoever calls holds
the lease, and decides.
"""

import json
from collections.abc import Callable
from typing import Any

import requests

from worker.errors import CredentialsRejected, RateLimited, Unavailable, UnknownOutcome
from worker.http import USER_AGENT, Answer, Transport
from worker.session.timings import Timings
from worker.session.tokens import Pair, life_of
from worker.settings import Settings
from worker.watch import metrics
from worker.watch.redact import redacted

LOGIN = "/api/admin/auth/v2/admin/adminservice/authexternalcrm"
REFRESH = "/api/admin/auth/v2/admin/adminservice/refreshtoken"
_READ = 16 * 1024  # bytes read of what B2COPY said
_WORDS = 200  # characters kept of it


class Endpoints:
    """Exchanges an assertion, or a refresh token, for a token pair. Each call is a fresh connection."""

    def __init__(self, settings: Settings, timings: Timings, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._host = settings.host
        self._deadline = timings.token_deadline
        self._retry_after_max = timings.retry_after_max
        self._transport = Transport(str(settings.ca_file) if settings.ca_file else None, size=0)
        self.ahead: float | None = None  # B2COPY's clock minus ours, from the last answer that told

    def log_in(self, assertion: str) -> Pair:
        """Exchange a signed assertion. Raises as `_exchange`."""
        body = json.dumps({"external_token": assertion}).encode()
        return self._exchange(LOGIN, assertion, body, {"Content-Type": "application/json"})

    def refresh(self, refresh_token: str) -> Pair:
        """Exchange a refresh token, which is spent by that whatever comes back. Raises as `_exchange`."""
        return self._exchange(REFRESH, refresh_token, b"", {"Authorization": f"Bearer {refresh_token}"})

    def _exchange(self, path: str, secret: str, body: bytes, headers: dict[str, str]) -> Pair:
        """The only place from which a token endpoint is called.

        Raises `RateLimited` for 429, `CredentialsRejected` when B2COPY refuses what was presented (any other 4xx), and
        `Unavailable` for everything else: no answer, 5xx, a redirect, a 200 that is not a token pair.
        """
        request = requests.Request(
            "POST",
            self._host + path,
            data=body,
            headers={"User-Agent": USER_AGENT, "Accept": "application/json", **headers},
        ).prepare()
        try:
            answer = self._transport.send(request, self._deadline)
        except UnknownOutcome as error:
            raise Unavailable(error.message) from None
        server_time = answer.server_time
        if server_time is not None:
            self.ahead = server_time - self._wall()
            metrics.CLOCK_OFFSET.set(self.ahead)
        if answer.status == 200:
            return _pair(path, answer, server_time)
        what, words = f"POST {path}", _said(answer, secret)
        if answer.status == 429:
            raise RateLimited(what, 429, words, _retry_after(answer, self._retry_after_max))
        if 400 <= answer.status < 500 and answer.status != 408:
            raise CredentialsRejected(what, answer.status, words)
        raise Unavailable(what, answer.status, words, _retry_after(answer, self._retry_after_max))


def _pair(path: str, answer: Answer, server_time: float | None) -> Pair:
    """Read a token pair. Raises `Unavailable` when it is not one: what was said is not kept, it may hold a token."""
    said = _json(answer.body)
    if not isinstance(said, dict):
        raise Unavailable(f"POST {path}: the answer is not a JSON object", 200)
    access = said.get("accessToken") or said.get("access_token")
    refresh = said.get("refreshToken") or said.get("refresh_token")
    told = said.get("expiresIn") or said.get("expires_in")
    if not isinstance(access, str) or not access or not access.isascii() or not access.isprintable():
        raise Unavailable(f"POST {path}: the answer holds no access token", 200)
    usable = isinstance(refresh, str) and refresh.isascii() and refresh.isprintable()
    return Pair(access, refresh if usable and refresh else None, life_of(access, server_time, told))


def _json(body: bytes) -> Any:
    """None if it is no JSON: the error would hold all of what it could not read."""
    try:
        return json.loads(body)
    except ValueError:
        return None


def _retry_after(answer: Answer, longest: float) -> float | None:
    return None if answer.retry_after is None else min(longest, answer.retry_after)


def _said(answer: Answer, secret: str) -> str | None:
    """B2COPY's own words, shortened to one line, without what was presented: some servers repeat it."""
    text = " ".join(answer.body[:_READ].decode("utf-8", "replace").replace(secret, "[redacted]").split())
    return redacted(text)[:_WORDS] or None
