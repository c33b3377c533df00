"""Authenticated requests to one host."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import urlencode

import requests
from requests.auth import AuthBase

from worker.errors import AccessRejected, BadPayload, Unavailable
from worker.http.answer import Answer
from worker.http.transport import USER_AGENT, StaleConnection, Transport
from worker.operation import OnUnknown
from worker.process import PerProcess
from worker.settings import Settings

_PATH = re.compile(r"/(?!/)[A-Za-z0-9._~%/-]*")
_RESENT = frozenset({OnUnknown.START_OR_GET, OnUnknown.REPEAT})


class Token(Protocol):
    """An access token, and the generation of the session it belongs to."""

    @property
    def access(self) -> str: ...

    @property
    def generation(self) -> int: ...


class TokenSource(Protocol):
    """A shared session, as far as a request needs it."""

    def current(self) -> Any: ...

    def rejected(self, token: Any) -> Any: ...

    def clock(self) -> int: ...


class Bearer(AuthBase):
    """Puts the access token on a request as it is sent. This is `auth=` and no header, so no `.netrc` replaces it."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token.access}"
        return request


class Http:
    """Sends requests to `settings.host`. Safe to share between threads and across a fork."""

    def __init__(self, logins: Mapping[str, TokenSource], settings: Settings, connections: int | None = None) -> None:
        """`logins` by name. Up to `connections` are kept alive, `settings.concurrency` by default."""
        self._logins = logins
        self._settings = settings
        size = connections or settings.concurrency
        ca_file = str(settings.ca_file) if settings.ca_file else None
        self._transport = PerProcess(lambda: Transport(ca_file, size))
        self._template = lru_cache(maxsize=256)(self._prepared)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        json: Mapping[str, Any] | None = None,
        login: str | None = "service_admin",
        on_unknown: OnUnknown = OnUnknown.STOP,
    ) -> Answer:
        """Send a request and return the answer, whatever its status, except a 401: that renews the token, once.

        A 401 is final only for a token made after the first 401. A token that existed already may have been ended by
        the same revocation, so it is replaced once more.

        `on_unknown` says whether sending twice does harm. If it does not, a kept-alive connection that turns out to be
        closed is replaced, once. Raises `Unavailable` (not sent), `UnknownOutcome` (sent, no whole answer),
        `AccessRejected` (401 twice), `BadPayload`, and what `SharedSession.current` raises.
        """
        url = path + (f"?{urlencode(query)}" if query else "")
        body = None if json is None else _encoded(json)
        resend = on_unknown in _RESENT
        if login is None:
            return self._send(method, path, url, body, None, resend)
        session = self._logins[login]
        token = session.current()
        answer = self._send(method, path, url, body, token, resend)
        if answer.status != 401:
            return answer
        refused_at = session.clock()
        for _ in range(2):
            token = session.rejected(token)
            answer = self._send(method, path, url, body, token, resend)
            if answer.status != 401:
                return answer
            if token.generation >= refused_at:
                break
        raise AccessRejected(f"{method} {path}: a new access token was refused too", 401)

    def reach(self) -> Answer:
        """GET the host's base URL without a token: does it answer, and what time is it there (`Answer.server_time`)?

        Raises `Unavailable` (name, network, certificate) or `UnknownOutcome`. Any status is an answer.
        """
        request = requests.Request("GET", self._settings.host + "/", headers={"User-Agent": USER_AGENT}).prepare()
        return self._transport().send(request, self._settings.call_deadline)

    def _send(self, method: str, path: str, url: str, body: bytes | None, token: Token | None, resend: bool) -> Answer:
        request = self._template(method, path).copy()
        request.url = self._settings.host + url
        if body is not None:
            request.body = body
            request.headers["Content-Length"] = str(len(body))
            request.headers["Content-Type"] = "application/json"
        if token is not None:
            Bearer(token)(request)
        transport, deadline = self._transport(), self._settings.call_deadline
        try:
            answer = transport.send(request, deadline)
        except StaleConnection as stale:
            if not resend:
                raise
            try:
                answer = transport.send(request, deadline)
            except Unavailable:  # this one was not sent, but the first may have been read
                raise stale from None
        if token is not None and (secret := token.access.encode()) in answer.body:  # some servers echo the request
            answer = replace(answer, body=answer.body.replace(secret, b"[redacted]"))
        return answer

    def _prepared(self, method: str, path: str) -> requests.PreparedRequest:
        if not _PATH.fullmatch(path) or ".." in path:
            raise BadPayload(
                f"{path!r} is not a path at B2COPY: it must begin with one slash and hold no dots, spaces or query"
            )
        headers = {"User-Agent": USER_AGENT, "Accept": "application/json"}
        return requests.Request(method, self._settings.host + path, headers=headers).prepare()


def _encoded(payload: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise BadPayload(f"the payload cannot be written as JSON: {error}") from None
