"""Passwords that the Back Office refused, by fingerprint: flags, which the fleet sees and no flush of Redis removes.

A flag is raised before a password is presented. So if the answer is lost, or the process is killed before it can write
the answer, the password is not presented again for `UNANSWERED_S`: nobody can tell whether it was refused.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker.errors import Unavailable
from worker.ledger import fleet_flags
from worker.ledger.database import DATABASE_UNAVAILABLE_ERRORS, Ledger
from worker.ledger.fleet_flags import end_try, lower_flag, raise_flag, start_try
from worker.ledger.queries import active_flags

PREFIX = "refused:back_office:"
"""What the names of these flags begin with; the password's fingerprint follows."""

TRYING = f"{fleet_flags.TRYING}back_office:"
"""The same for a password that is being presented, or whose answer was lost."""

UNANSWERED_S = 900.0  # at most four presentations an hour whose answers are lost: no account is locked by them


class RefusedPasswords:
    """See `worker.session.back_office_login.Refusals`. `actor` is who writes into the audit."""

    def __init__(self, ledger: Callable[[], Ledger], actor: str) -> None:
        self._ledger, self._actor = ledger, actor

    def begin(self, fingerprint: str) -> str | None:
        with _unavailable():
            ledger = self._ledger()
            if not start_try(ledger, TRYING + fingerprint, self._actor, "is being presented", UNANSWERED_S):
                raise Unavailable(
                    "another process presents this password, or its last answer was lost: it is tried again within"
                    f" {UNANSWERED_S / 60:.0f} minutes, or after `b2copy-sync session forget --login back_office`"
                )
            # After the flag was raised, so that no other process can be between its refusal and its flag.
            flag = active_flags(ledger).get(PREFIX + fingerprint)
            if flag is not None:
                end_try(ledger, TRYING + fingerprint)
            return flag and flag.note

    def refuse(self, fingerprint: str, reason: str) -> None:
        with _unavailable():
            raise_flag(self._ledger(), PREFIX + fingerprint, self._actor, reason)
            end_try(self._ledger(), TRYING + fingerprint)

    def end(self, fingerprint: str) -> None:
        with _unavailable():
            end_try(self._ledger(), TRYING + fingerprint)

    def forget(self, note: str) -> None:
        """Forget every refusal: a person has had the account unlocked."""
        with _unavailable():
            for name in active_flags(self._ledger()):
                if name.startswith(PREFIX):
                    lower_flag(self._ledger(), name, self._actor, note)
                elif name.startswith(TRYING):
                    end_try(self._ledger(), name)


@contextmanager
def _unavailable() -> Iterator[None]:
    """Raise an error if the ledger is unavailable: a password that may have been refused must not be presented."""
    try:
        yield
    except DATABASE_UNAVAILABLE_ERRORS as error:
        raise Unavailable(f"the ledger is unavailable, so no password is tried ({type(error).__name__})") from None
