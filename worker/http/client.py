"""Authenticated requests to one host."""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Protocol
from urllib.parse import urlencode

from worker.errors import (
    AccessRejected,
    B2CopyError,
    BadPayload,
    CredentialsRejected,
    OtherLoginUnavailable,
    RateLimited,
    SessionUnavailable,
    UnknownOutcome,
)
from worker.http.answer import Answer
from worker.http.connections import Connections
from worker.http.curl import USER_AGENT, Request, StaleConnection, always_allowed
from worker.http.event_loop_thread import event_loop
from worker.http.shared_blocking_calls import SharedBlockingCalls
from worker.operation import OnUnknown
from worker.per_process import PerProcess
from worker.settings import Settings
from worker.watch.blank_secret import without_secret

_PATH = re.compile(r"/(?!/)[A-Za-z0-9._~%/-]*")
_RESENDABLE = frozenset({OnUnknown.START_OR_GET, OnUnknown.REPEAT})

# Seconds; on a route that refuses new access tokens too, a 401 renews the session only if the token is so old. The age
# doubles with each new token that the route refuses.
RENEW_AGAIN_FIRST_S, RENEW_AGAIN_MAX_S = 5.0, 30.0
REFUSING_MAX = 256  # routes that are remembered, because the callers of generic calls choose theirs

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
NO_HEADERS: Mapping[str, str] = {}


class Token(Protocol):
    """An access token, and the generation of the session it belongs to."""

    @property
    def access(self) -> str: ...

    @property
    def generation(self) -> int: ...


class TokenSource(Protocol):
    """A shared session, as far as a request needs it. Everything but `cached` may block."""

    def cached(self) -> Any: ...

    def current(self) -> Any: ...

    def rejected(self, token: Any, *, is_doubtful: bool = False) -> Any: ...

    def clock(self) -> int: ...


class Http:
    """Sends requests to `settings.host`, on the event loop of this process. Safe to share across a fork."""

    def __init__(self, logins: Mapping[str, TokenSource], settings: Settings, connections: int | None = None) -> None:
        """`logins` are by name. Up to `connections` idle connections are reused, `settings.concurrency` by default."""
        self._logins = logins
        self._host, self._deadline_s = settings.host, settings.call_deadline
        size = connections or settings.concurrency
        ca_file = str(settings.ca_file) if settings.ca_file else None
        self._connections = PerProcess(lambda: Connections(ca_file, size))
        self._shared_calls = PerProcess(SharedBlockingCalls)
        # whether there is a body -> access token, headers
        self._last_headers: dict[bool, tuple[str | None, Mapping[str, str]]] = {}
        # (login, route) that refused a new access token too -> how old a token must be for a 401 there to renew it, s
        self._refusing: dict[tuple[str, str], float] = {}

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        json: Mapping[str, Any] | None = None,
        login: str | None = "service_admin",
        on_unknown: OnUnknown = OnUnknown.STOP,
        before_send: Callable[[], None] = always_allowed,
        route: str | None = None,
    ) -> Answer:
        """Send a request and return the answer, of any status; but a 401 is not returned if `login` is set.

        After a 401 the request is sent with a newer token. A 401 is final only for a token made after the first 401. An
        older token may have been ended by the same revocation, so it is replaced once more.

        If a route refuses such a new token too, the login may have no access to that route, and the other routes may
        accept the token. So until the route answers 2xx, its 401s renew the session, which all routes share, only if
        the token was made some time ago, by whatever process. The old token stays in use until the new one is stored.
        `route` names the route; without it, `path` does.

        `on_unknown` says whether sending twice does harm. If it does, the request gets a connection of its own. If it
        does not, a reused connection that turns out to be closed is replaced, once. The first request may have been
        carried out, so `Answer.first_was_lost` is set, and an error of the second request becomes `UnknownOutcome`.

        `before_send` is called just before each time that the request is sent: looking up a token may take seconds. It
        raises `GateClosed` if the request must not be sent any more.

        Must be awaited on the event loop of this process. A thread calls `event_loop().run(http.request(...))`.

        Raises `Unavailable` (not sent), `UnknownOutcome` (sent, no whole answer), `AccessRejected` (401 twice, or 401
        on a route that refuses new tokens), `OtherLoginUnavailable` (`login` is not set), `BadPayload`, and what
        `SharedSession.current` and `before_send` raise.
        """
        url = self._host + _checked(path) + (f"?{urlencode(query)}" if query else "")
        body = None if json is None else _encoded(json)
        request = Request(
            method, url, f"{method} {path}", NO_HEADERS, body, on_unknown in _RESENDABLE, before_send=before_send
        )
        try:
            if login is None:
                return await self._send(request, None)
            return await self._authenticated(request, login, route or path)
        except B2CopyError as error:
            if not request.was_lost:
                raise
            raise outcome_of_lost(request.name, error) from None

    async def token(self, login: str) -> Token:
        """Return an access token of a login. Requests that need one at the same time share the look-up.

        Raises `OtherLoginUnavailable` if `login` is not set, and what `SharedSession.current` raises.
        """
        session = self._session(login)
        token: Token = session.cached() or await self._shared_calls().call(login, session.current)
        return token

    def _session(self, login: str) -> TokenSource:
        session = self._logins.get(login)
        if session is None:
            raise OtherLoginUnavailable(f"the login {login} is not set here: `b2copy-sync doctor` names its settings")
        return session

    def reach(self) -> Answer:
        """GET the host's base URL without a token, to see that it answers and to read its clock (`Answer.server_time`).

        Raises `Unavailable` (name, network, certificate) or `UnknownOutcome`. Any status is an answer.
        """
        return event_loop().run(self._send(Request("GET", self._host + "/", "GET /", NO_HEADERS), None))

    async def _authenticated(self, request: Request, login: str, route: str) -> Answer:
        session, token = self._session(login), await self.token(login)
        answer = await self._send(request, token)
        if answer.status != 401:
            self._note_accepted(answer, login, route)
            return answer
        shared_calls = self._shared_calls()
        refused_at = await shared_calls.call((login, "clock"), session.clock)
        self._check_may_renew(request.name, login, route, (refused_at - token.generation) / 1000)
        is_doubtful = (login, route) in self._refusing
        for _ in range(2):
            try:
                token = await self._replace_token(login, token, is_doubtful)
            except (CredentialsRejected, SessionUnavailable) as error:
                if not is_doubtful:
                    raise
                # The token may be good for every other route, so this says nothing about the login.
                text = f"{request.name}: refused, and there is no newer token: {error}"
                raise AccessRejected(text, 401, retry_after=error.retry_after) from None
            answer = await self._send(request, token)
            if answer.status != 401:
                self._note_accepted(answer, login, route)
                return answer
            if token.generation >= refused_at:
                self._remember_refusing(login, route)
                break
        raise AccessRejected(f"{request.name}: a new access token was refused too", 401)

    async def report_refused_in_body(self, token: Token, login: str, route: str) -> None:
        """Report that a 2xx says in its body that `token`, which its request carried, is refused.

        The next request then carries a newer one. The request is not sent again, because a 2xx may have had its effect.
        As after a 401, a route that refuses new tokens too renews the session only if the token was made some time ago.
        A 2xx of the route does not end that, because its body may say 401.
        """
        session, shared_calls = self._session(login), self._shared_calls()
        with suppress(B2CopyError):  # what the request itself learned comes first
            now = await shared_calls.call((login, "clock"), session.clock)
            in_body = f"{route}, in the body"
            self._check_may_renew(route, login, in_body, (now - token.generation) / 1000)
            is_doubtful = (login, in_body) in self._refusing
            self._remember_refusing(login, in_body)
            await self._replace_token(login, token, is_doubtful)

    async def _replace_token(self, login: str, token: Token, is_doubtful: bool) -> Token:
        """Report that `token` was refused, and return a newer one. Raises as `SharedSession.rejected`."""
        rejected = partial(self._session(login).rejected, token, is_doubtful=is_doubtful)
        newer: Token = await self._shared_calls().call((login, token.generation, is_doubtful), rejected)
        return newer

    def _note_accepted(self, answer: Answer, login: str, route: str) -> None:
        if 200 <= answer.status < 300:  # any other answer may come from a proxy that has not looked at the token
            self._refusing.pop((login, route), None)

    def _check_may_renew(self, name: str, login: str, route: str, age_s: float) -> None:
        """Raises `AccessRejected` if the route refuses new access tokens, and this one, of this age, is too new.

        The age is negative after Redis' clock was set back: then it says nothing.
        """
        if 0 <= age_s < self._refusing.get((login, route), 0.0):
            raise AccessRejected(
                f"{name}: refused. The token is {age_s:.0f} s old, and this route has refused a new token before, so it"
                " is not replaced yet",
                401,
            )

    def _remember_refusing(self, login: str, route: str) -> None:
        last_s = self._refusing.pop((login, route), RENEW_AGAIN_FIRST_S / 2)  # so that the route becomes the last one
        self._refusing[login, route] = min(RENEW_AGAIN_MAX_S, last_s * 2)
        if len(self._refusing) > REFUSING_MAX:
            del self._refusing[next(iter(self._refusing))]

    async def _send(self, request: Request, token: Token | None) -> Answer:
        request.headers = self._headers(request.body is not None, token.access if token else None)
        connections = self._connections()
        try:
            answer = await connections.send(request, self._deadline_s)
        except StaleConnection:
            if not request.resendable:
                raise
            request.was_lost = True
            answer = await connections.send(request, self._deadline_s)
        if request.was_lost:
            answer = replace(answer, first_was_lost=True)
        if token is not None:
            # Some servers echo the request.
            answer = replace(answer, body=without_secret(answer.body, token.access), token=token)
        return answer

    def _headers(self, has_body: bool, access: str | None) -> Mapping[str, str]:
        """Return the same object while the token is the same."""
        last_access, headers = self._last_headers.get(has_body, (None, NO_HEADERS))
        if headers is NO_HEADERS or access != last_access:
            headers = {"User-Agent": USER_AGENT, "Accept": "application/json"}
            if has_body:
                headers["Content-Type"] = "application/json"
            if access is not None:
                headers["Authorization"] = f"Bearer {access}"
            self._last_headers[has_body] = access, headers
        return headers


def outcome_of_lost(name: str, error: B2CopyError) -> UnknownOutcome:
    """Return what is learned from the error of a second request whose first one had no answer: nothing for certain."""
    text = f"{name}: no answer to the first request, and the second one proves nothing: {error}"
    unknown = UnknownOutcome(text, retry_after=error.retry_after)
    unknown.is_rate_limited = isinstance(error, RateLimited)
    return unknown


@lru_cache(maxsize=256)
def _checked(path: str) -> str:
    if not _PATH.fullmatch(path) or ".." in path:
        raise BadPayload(
            f"{path!r} is not a path at B2COPY: it must begin with one slash and hold no dots, spaces or query"
        )
    return path


def _encoded(payload: Mapping[str, Any]) -> bytes:
    try:
        return _ENCODER.encode(payload).encode()
    except (TypeError, ValueError) as error:
        raise BadPayload(f"the payload cannot be written as JSON: {error}") from None
