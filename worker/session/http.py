"""Authenticated calls to B2COPY."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import requests
from requests.auth import AuthBase

from worker.errors import AccessRejected, BadPayload, Unavailable
from worker.session.shared import SharedSession
from worker.session.tokens import Token
from worker.session.transport import USER_AGENT, Answer, StaleConnection, Transport
from worker.settings import Settings

_PATH = re.compile(r"/(?!/)[A-Za-z0-9._~%/-]*")


class Bearer(AuthBase):
    """Puts the access token on a request as it is sent. `auth=` and not a header, so that no `.netrc` replaces it."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token.access}"
        return request


class Http:
    """POSTs JSON with the shared session's token on it."""

    def __init__(self, session: SharedSession, settings: Settings, at_once: int | None = None) -> None:
        """Keep up to `at_once` connections; the settings' concurrency if not told."""
        self._session = session
        self._settings = settings
        self._at_once = at_once or settings.concurrency
        self._transports: dict[int, Transport] = {}
        self._template = lru_cache(maxsize=256)(self._prepared)

    def post(self, path: str, payload: Mapping[str, Any], *, repeatable: bool) -> Answer:
        """POST `payload` to `path` and return whatever was answered, except a 401: that renews the token, once.

        A 401 is final only for a token that was made after the first one: one that was there already may have been
        ended by the same revocation, and is replaced once more.

        `repeatable` says that sending it twice does no harm: then a kept-alive connection which turns out closed is
        replaced, once. Raises `Unavailable` (not sent), `UnknownOutcome` (sent, no whole answer), `AccessRejected`
        (401 twice), `BadPayload`, and what `SharedSession.current` raises.
        """
        body = _encoded(payload)
        token = self._session.current()
        answer = self._send(path, body, token, repeatable)
        if answer.status != 401:
            return answer
        refused_at = self._session.clock()
        for _ in range(2):
            token = self._session.rejected(token)
            answer = self._send(path, body, token, repeatable)
            if answer.status != 401:
                return answer
            if token.generation >= refused_at:
                break
        raise AccessRejected(f"POST {path}: a new access token was refused too", 401)

    def reach(self) -> Answer:
        """GET B2COPY's base URL, without a token: is it there, and what time is it there (`Answer.server_time`)?

        Raises `Unavailable` (name, network, certificate) or `UnknownOutcome`. Whatever status is an answer.
        """
        request = requests.Request("GET", self._settings.host + "/", headers={"User-Agent": USER_AGENT}).prepare()
        return self._transport().send(request, self._settings.call_deadline)

    def _send(self, path: str, body: bytes, token: Token, repeatable: bool) -> Answer:
        request = self._template(path).copy()
        request.body = body
        request.headers["Content-Length"] = str(len(body))
        Bearer(token)(request)
        transport, deadline = self._transport(), self._settings.call_deadline
        try:
            answer = transport.send(request, deadline)
        except StaleConnection as stale:
            if not repeatable:
                raise
            try:
                answer = transport.send(request, deadline)
            except Unavailable:  # this one did not leave, but the first may have been read
                raise stale from None
        if (secret := token.access.encode()) in answer.body:  # some servers repeat what was wrong with a request
            answer = replace(answer, body=answer.body.replace(secret, b"[redacted]"))
        return answer

    def _prepared(self, path: str) -> requests.PreparedRequest:
        if not _PATH.fullmatch(path) or ".." in path:
            raise BadPayload(
                f"{path!r} is not a path at B2COPY: it must begin with one slash and hold no dots, spaces or query"
            )
        headers = {"User-Agent": USER_AGENT, "Accept": "application/json", "Content-Type": "application/json"}
        return requests.Request("POST", self._settings.host + path, headers=headers).prepare()

    def _transport(self) -> Transport:
        """Connections of this process, as they do not survive a fork; its threads share them, which costs nothing."""
        pid = os.getpid()
        found = self._transports.get(pid)
        if found is None:
            ca_file = str(self._settings.ca_file) if self._settings.ca_file else None
            found = self._transports.setdefault(pid, Transport(ca_file, self._at_once))
        return found


def _encoded(payload: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise BadPayload(f"the payload cannot be written as JSON: {error}") from None
