"""Token pairs: issued, rotated, expired, revoked; and how often each refresh token was presented."""

import secrets
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import jwt

from worker.sandbox.responses import Refused
from worker.sandbox.switches import Switches

MAX_PAIRS = 50_000  # token pairs that are stored; older ones are removed


@dataclass(slots=True)
class Pair:
    """An access and a refresh token issued together. Ends are on the monotonic clock, s."""

    number: int
    session: int
    origin: Literal["login", "refresh"]
    access: str
    refresh: str
    access_ends: float
    refresh_ends: float
    refresh_used: bool = False


class Tokens:
    """Every pair issued, and the sessions that have ended. A session is a login and all its refreshes."""

    def __init__(self) -> None:
        self.logins = 0
        self.refreshes = 0
        self.reuses = 0
        self.presented: Counter[str] = Counter()
        self.pairs: dict[int, Pair] = {}
        self._by_access: dict[str, Pair] = {}
        self._by_refresh: dict[str, Pair] = {}
        self._ended: set[int] = set()
        self._last = 0
        self._signing_key = secrets.token_bytes(32)

    def log_in(self, mono: float, now: float, switches: Switches) -> Pair:
        self.logins += 1
        if switches.one_session:
            self._ended.update(range(1, self.logins))
        return self._issue(self.logins, "login", None, mono, now, switches)

    def refresh(self, token: str, mono: float, now: float, switches: Switches) -> Pair:
        """Exchange a refresh token. Raises Refused (401). Use of one twice suggests theft (RFC 9700 section 4.14.2)."""
        self.presented[token] += 1
        pair = self._by_refresh.get(token)
        if pair is None:
            raise Refused(401, "unknown refresh token")
        if pair.refresh_used:
            self.reuses += 1
            if switches.refresh_reuse == "revokes":
                self._ended.add(pair.session)
            raise Refused(401, "refresh token was used before")
        if pair.session in self._ended:
            raise Refused(401, "session has ended")
        if mono >= pair.refresh_ends:
            raise Refused(401, "refresh token has expired")
        self.refreshes += 1
        if switches.refresh_rotates:
            pair.refresh_used = True
        if switches.refresh_ends_access:
            pair.access_ends = mono
        return self._issue(pair.session, "refresh", None if switches.refresh_rotates else token, mono, now, switches)

    def check(self, access: str, mono: float) -> None:
        """Raises Refused (401) unless the access token is valid."""
        pair = self._by_access.get(access)
        if pair is None:
            raise Refused(401, "unknown access token")
        if pair.session in self._ended:
            raise Refused(401, "session has ended")
        if mono >= pair.access_ends:
            raise Refused(401, "access token has expired")

    def revoke_all(self, refresh_too: bool, mono: float) -> None:
        if refresh_too:
            self._ended.update(range(1, self.logins + 1))
        for pair in self.pairs.values():
            pair.access_ends = min(pair.access_ends, mono)

    def _issue(
        self,
        session: int,
        origin: Literal["login", "refresh"],
        refresh: str | None,
        mono: float,
        now: float,
        switches: Switches,
    ) -> Pair:
        self._last += 1
        pair = Pair(
            self._last,
            session,
            origin,
            self._access_token(now, switches),
            refresh or "rt_" + secrets.token_urlsafe(32),
            mono + switches.access_lifetime,
            mono + switches.refresh_lifetime,
        )
        self.pairs[pair.number] = self._by_access[pair.access] = self._by_refresh[pair.refresh] = pair
        if old := self.pairs.pop(self._last - MAX_PAIRS, None):
            del self._by_access[old.access]
            if self._by_refresh.get(old.refresh) is old:
                del self._by_refresh[old.refresh]
            self.presented.pop(old.refresh, None)
        return pair

    def _access_token(self, now: float, switches: Switches) -> str:
        if switches.access_format == "opaque":
            return "at_" + secrets.token_urlsafe(32)
        claims = {"iat": int(now), "exp": int(now + switches.access_lifetime), "jti": secrets.token_hex(8)}
        return jwt.encode(claims, self._signing_key, algorithm="HS256")
