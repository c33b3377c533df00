"""Page "Authorization in the Back Office": e-mail and password for the routes of generation 1."""

import secrets
from typing import Any

from worker.sandbox.fields import date, text
from worker.sandbox.responses import Refused
from worker.sandbox.switches import Switches

PREFIX = "bo_"  # access tokens of sign-in begin with it


class SignIn:
    def __init__(self) -> None:
        self._ends: dict[str, float] = {}  # access token: when it ends, on the monotonic clock, s

    def sign_in(self, body: Any, mono: float, now: float, switches: Switches) -> dict[str, Any]:
        """Return the tokens with their dates. Raises Refused: 401 wrong password, 403 locked."""
        if text(body, "email") != switches.email or text(body, "password") != switches.password:
            raise Refused(401, "wrong e-mail or password")
        if switches.locked:
            raise Refused(403, "the account is locked")
        if switches.two_factor:
            return {"2faRequired": True}
        access = PREFIX + secrets.token_urlsafe(32)
        self._ends[access] = mono + switches.sign_in_lifetime
        return {
            "2faRequired": False,
            "accessToken": _dated(access, now, switches.sign_in_lifetime),
            "refreshToken": _dated("br_" + secrets.token_urlsafe(32), now, switches.refresh_lifetime),
        }

    def check(self, access: str, mono: float) -> None:
        """Raises Refused (401) unless the access token is valid."""
        if mono >= self._ends.get(access, 0.0):
            raise Refused(401, "not signed in, or no longer")

    def end_all(self) -> None:
        """End all access tokens."""
        self._ends.clear()


def _dated(token: str, now: float, lifetime: float) -> dict[str, str]:
    return {"token": token, "createdAt": date(now), "expiresAt": date(now + lifetime)}
