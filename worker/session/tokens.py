"""Tokens: immutable, and silent about what they hold."""

import base64
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, NoReturn

LONGEST_LIFE = 30 * 86400.0  # seconds: a token that claims more is not believed


def fingerprint(text: str) -> str:
    """Twelve hex digits of SHA-256: enough to tell two tokens apart in a log, useless to anybody else."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """An access token, and the generation of the session it belongs to."""

    access: str
    generation: int

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.access)

    def __repr__(self) -> str:
        return f"<Token generation {self.generation}, {self.fingerprint}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a token does not leave its process: ask the shared session for one where it is used")


@dataclass(frozen=True, slots=True, repr=False)
class Pair:
    """What a token call answered. `life` is in seconds; None: the answer did not tell."""

    access: str
    refresh: str | None
    life: float | None

    def __repr__(self) -> str:
        return f"<Pair {fingerprint(self.access)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a token pair does not leave its process")


def life_of(access: str, server_time: float | None, told: Any = None) -> float | None:
    """How long `access` lives, in seconds: what the answer told, else what the token itself says if it is a JWT.

    `exp - iat` are both in the server's clock; with `exp` alone, `server_time` (the `Date` header, Unix seconds) is
    what it is compared with. None for an opaque token, and for any figure that cannot be true.
    """
    life = _number(told)
    if life is None and (claims := _claims(access)) is not None:
        expires, issued = _number(claims.get("exp")), _number(claims.get("iat"))
        issued = server_time if issued is None else issued
        life = expires - issued if expires is not None and issued is not None else None
    return life if life is not None and 0 < life <= LONGEST_LIFE else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _claims(access: str) -> dict[str, Any] | None:
    """Read a JWT's claims without verifying it: it is B2COPY's to verify, and only its lifetime is read here."""
    parts = access.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    return claims if isinstance(claims, dict) else None
