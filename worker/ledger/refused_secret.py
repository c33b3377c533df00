"""The shared secret of seamless logins while B2COPY refuses it: the fleet presents it once in `HOLD_S` and not always.

The secret may become right without a change on our side, because the Back Office holds the other copy. So a refusal is
no end, as that of a password is, but a hold for this secret. A new secret has another fingerprint and no hold.

B2COPY may also refuse one account, with the same 403. Such an account must not hold the others again and again. Only a
secret that is accepted ends its hold. So if an account was refused, the hold has ended, and the account is refused
again soon, the refusal is taken to be about the account. Each process remembers for `REMEMBERED_S` which accounts were
refused, because the ledger stores nothing of reads.
"""

import hashlib
from enum import Enum
from functools import lru_cache
from time import monotonic
from typing import Protocol
from weakref import WeakKeyDictionary

from sqlalchemy import Engine

from worker.ledger.database import Ledger
from worker.ledger.fleet_flags import TRYING, end_try, start_try
from worker.ledger.queries import active_flags

HOLD_S = 60.0
PREFIX = f"{TRYING}seamless:"
REMEMBERED_MAX = 10_000  # accounts that a process remembers as refused
REMEMBERED_S = 900.0  # seconds; later nobody knows whether the secret was refused again in between

_refused: WeakKeyDictionary[Engine, dict[tuple[str, str], float]] = WeakKeyDictionary()
"""When this process last saw an account refused, monotonic seconds: by the secret's fingerprint and the account."""


class _Hidden(Protocol):
    """A secret that hashes and compares by its value, and that no repr shows."""

    def __hash__(self) -> int: ...

    def get_secret_value(self) -> str: ...


class May(Enum):
    """Whether a secret may be presented now."""

    YES = "nothing says that it is refused"
    AS_A_TRY = "it was refused, its hold is over, and this process tries it"
    NO = "it was refused, and its hold lasts"


def may_present(ledger: Ledger, secret: _Hidden, actor: str) -> May:
    """Return whether this secret may be presented now."""
    name = PREFIX + _fingerprint(secret)
    if name not in active_flags(ledger):
        return May.YES
    return May.AS_A_TRY if start_try(ledger, name, actor, "is refused", HOLD_S) else May.NO


def was_refused(ledger: Ledger, secret: _Hidden, account: str) -> bool:
    """Return whether this process remembers that B2COPY refused the secret for this account."""
    refused_at = _refused.get(ledger.engine, {}).get((_fingerprint(secret), account))
    return refused_at is not None and _is_remembered(refused_at)


def note_refusal(ledger: Ledger, secret: _Hidden, actor: str, account: str, may: May, asked_at: float) -> bool:
    """Note that B2COPY refused the secret for this account just now. Returns whether the refusal is about the account.

    Otherwise the secret counts as refused, and its hold begins. `may` is what `may_present` returned at `asked_at`,
    monotonic seconds: a refusal that came later, to another request for the account, proves nothing.
    """
    fingerprint, now = _fingerprint(secret), monotonic()
    refused = _refused.setdefault(ledger.engine, {})
    before = refused.pop((fingerprint, account), None)
    refused[fingerprint, account] = now
    if may is May.YES and before is not None and before < asked_at and _is_remembered(before):
        return True
    if len(refused) > REMEMBERED_MAX:
        refused.pop(next(iter(refused)), None)
    start_try(ledger, PREFIX + fingerprint, actor, "is refused", 0.0)
    return False


def note_acceptance(ledger: Ledger, secret: _Hidden, account: str) -> None:
    """Note that B2COPY accepted the secret for this account: a hold ends."""
    fingerprint = _fingerprint(secret)
    _refused.get(ledger.engine, {}).pop((fingerprint, account), None)
    if PREFIX + fingerprint in active_flags(ledger):
        end_try(ledger, PREFIX + fingerprint)


def _is_remembered(refused_at: float) -> bool:
    return monotonic() - REMEMBERED_S < refused_at


@lru_cache(maxsize=2)
def _fingerprint(secret: _Hidden) -> str:
    """Identify a secret. It is derived slowly (RFC 7914), so that nobody guesses it."""
    value = secret.get_secret_value().encode()
    return hashlib.scrypt(value, salt=b"b2copy seamless secret", n=2**14, r=8, p=1, dklen=12).hex()
