"""Fingerprints of passwords that the Back Office refused, as flags of the ledger, which survive a flush of Redis."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker.errors import Unavailable
from worker.ledger.database import DATABASE_UNAVAILABLE_ERRORS, Ledger
from worker.ledger.flags import lower_flag, raise_flag
from worker.ledger.queries import active_flags

PREFIX = "refused:back_office:"
"""What the names of these flags begin with; the password's fingerprint follows."""


class RefusedPasswords:
    """See `worker.session.back_office_login.Refusals`. `actor` is who writes into the audit."""

    def __init__(self, ledger: Callable[[], Ledger], actor: str) -> None:
        self._ledger, self._actor = ledger, actor

    def reason(self, fingerprint: str) -> str | None:
        with _unavailable():
            flag = active_flags(self._ledger()).get(PREFIX + fingerprint)
        return flag and flag.note

    def add(self, fingerprint: str, reason: str) -> None:
        with _unavailable():
            raise_flag(self._ledger(), PREFIX + fingerprint, self._actor, reason)

    def clear(self, note: str = "a sign-in succeeded") -> None:
        """Forget what was refused: the password was changed, or a person has had the account unlocked."""
        with _unavailable():
            for name in active_flags(self._ledger()):
                if name.startswith(PREFIX):
                    lower_flag(self._ledger(), name, self._actor, note)


@contextmanager
def _unavailable() -> Iterator[None]:
    """Raise an error if the ledger is unavailable: a password that may have been refused must not be presented."""
    try:
        yield
    except DATABASE_UNAVAILABLE_ERRORS as error:
        raise Unavailable(f"the ledger is unavailable, so no password is tried ({type(error).__name__})") from None
