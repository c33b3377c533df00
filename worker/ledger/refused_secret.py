"""The shared secret of seamless logins while B2COPY refuses it: the fleet presents it once in `HOLD_S` and not always.

The secret may become right without a change on our side, because the Back Office holds the other copy. So a refusal is
no end, as that of a password is, but a hold for this secret. A new secret has another fingerprint and no hold.
"""

import hashlib
from functools import lru_cache
from typing import Protocol

from worker.ledger.database import Ledger
from worker.ledger.fleet_flags import TRYING, end_try, start_try
from worker.ledger.queries import active_flags

HOLD_S = 60.0
PREFIX = f"{TRYING}seamless:"


class _Hidden(Protocol):
    """A secret that hashes and compares by its value, and that no repr shows."""

    def __hash__(self) -> int: ...

    def get_secret_value(self) -> str: ...


def may_present(ledger: Ledger, secret: _Hidden, actor: str) -> bool:
    """Return whether this secret may be presented now: it was not refused, or its hold is over and we try it."""
    name = PREFIX + _fingerprint(secret)
    return name not in active_flags(ledger) or start_try(ledger, name, actor, "is refused", HOLD_S)


def hold(ledger: Ledger, secret: _Hidden, actor: str) -> None:
    """Store that this secret was refused just now."""
    start_try(ledger, PREFIX + _fingerprint(secret), actor, "is refused", 0.0)


def end_hold(ledger: Ledger, secret: _Hidden) -> None:
    """Store that this secret was accepted."""
    name = PREFIX + _fingerprint(secret)
    if name in active_flags(ledger):
        end_try(ledger, name)


@lru_cache(maxsize=2)
def _fingerprint(secret: _Hidden) -> str:
    """Identify a secret. It is derived slowly (RFC 7914), so that nobody guesses it."""
    value = secret.get_secret_value().encode()
    return hashlib.scrypt(value, salt=b"b2copy seamless secret", n=2**14, r=8, p=1, dklen=12).hex()
