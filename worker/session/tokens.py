"""Access tokens and token pairs. They are immutable, and neither repr nor pickle shows what they hold."""

import base64
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from worker.session.secret import Secret

LIFE_MIN_S = 0.5  # seconds; a token with a shorter life could not be used, and its renewals would be a flood of logins
LIFE_MAX_S = 30 * 86400.0  # seconds; a longer life is not believed


def fingerprint(token: Secret[str]) -> str:
    """Return twelve hex digits of the token's SHA-256: enough to tell two tokens apart in a log."""
    return hashlib.sha256(token.reveal().encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """An access token, and the generation of the session it belongs to."""

    secret: Secret[str]
    generation: int

    @property
    def access(self) -> str:
        """The token itself, for the `Authorization` header."""
        return self.secret.reveal()

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.secret)

    def __repr__(self) -> str:
        return f"<Token generation {self.generation}, {self.fingerprint}>"


@dataclass(frozen=True, slots=True, repr=False)
class Pair:
    """What a token endpoint answered. `life_s` is None if the answer does not tell.

    `credential` names what was logged in with, for people: a key id, never a secret. Empty after a refresh. With
    `is_refresh_token_used` the refresh token is not new, so it must not be presented.
    """

    access: Secret[str]
    refresh: Secret[str] | None
    life_s: float | None = None
    credential: str = ""
    is_refresh_token_used: bool = False

    def __repr__(self) -> str:
        return f"<Pair {fingerprint(self.access)}>"


def life_of(access: Secret[str], server_time: float | None, expires_in: Any = None) -> float | None:
    """Return how long `access` lives, in seconds: by `expires_in` of the answer, and by its own claims if it is a JWT.

    If both can be true, the smaller one counts, because `expires_in` may be in another unit (RFC 6749 section 5.1 says
    seconds; milliseconds of a short life can still be true). `exp - iat` are both in the server's clock. With `exp`
    alone, it is compared with `server_time` (the `Date` header, Unix seconds). None if there is no figure that can be
    true.
    """
    claims = _claims(access) or {}
    expires, issued = _number(claims.get("exp")), _number(claims.get("iat"))
    issued = server_time if issued is None else issued
    by_claims = expires - issued if expires is not None and issued is not None else None
    lives = (believed_life(life) for life in (_number(expires_in), by_claims))
    return min((life for life in lives if life is not None), default=None)


def believed_life(life: float | None) -> float | None:
    """Return a life in seconds if it can be true, otherwise None."""
    return life if life is not None and LIFE_MIN_S <= life <= LIFE_MAX_S else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _claims(access: Secret[str]) -> dict[str, Any] | None:
    """Read a JWT's claims without verifying it: B2COPY verifies it, and only its lifetime is read here."""
    parts = access.reveal().split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None
