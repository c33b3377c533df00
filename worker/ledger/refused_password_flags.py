"""Passwords that the Back Office refused, by fingerprint: flags, which the fleet sees and no flush of Redis removes.

A flag is raised before a password is presented. So if the answer is lost, or the process is killed before it can write
the answer, the password is not presented again for `UNANSWERED_S`: nobody can tell whether it was refused.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from secrets import token_hex

from sqlalchemy import Connection, delete, select

from worker.errors import Unavailable
from worker.ledger import fleet_flags
from worker.ledger.database import DATABASE_UNAVAILABLE_ERRORS, Ledger
from worker.ledger.fleet_flags import end_try, lower_flag, raise_flag, start_try_within
from worker.ledger.queries import active_flags
from worker.ledger.schema import flags

PREFIX = "refused:back_office:"
"""Prefix of the flags of refused passwords; the password's fingerprint follows."""

TRYING = f"{fleet_flags.TRYING}back_office:"
"""Prefix of the flags of passwords that are being presented, or whose answer was lost; the fingerprint follows."""

UNANSWERED_S = 900.0  # at most four presentations an hour whose answers are lost: no account is locked by them


class RefusedPasswords:
    """See `worker.session.back_office_login.Refusals`. `actor` is who writes into the audit."""

    def __init__(self, ledger: Callable[[], Ledger], actor: str) -> None:
        self._ledger, self._actor = ledger, actor
        self._not_made: dict[str, str] = {}  # fingerprint -> note of a flag that may be raised for no try

    def begin(self, fingerprint: str) -> str | None:
        # The note is unique. If the answer to the commit is lost, this process finds its own flag by the note, and
        # knows that it has not presented the password.
        note = self._not_made.pop(fingerprint, None) or f"is being presented ({token_hex(8)})"
        with _unavailable():
            try:
                return self._ledger().write(lambda connection: self._begin(connection, fingerprint, note))
            except DATABASE_UNAVAILABLE_ERRORS:
                self._not_made[fingerprint] = note
                raise

    def _begin(self, connection: Connection, fingerprint: str, note: str) -> str | None:
        name, f = TRYING + fingerprint, flags.c
        connection.execute(delete(flags).where(f.name == name, f.note == note))
        if not start_try_within(connection, name, self._actor, note, UNANSWERED_S):
            raise Unavailable(
                "another process presents this password, or its last answer was lost: it is tried again within"
                f" {UNANSWERED_S / 60:.0f} minutes, or after `b2copy-sync session forget --login back_office`"
            )
        # After the flag was raised, so that no other process can be between its refusal and its flag.
        refused: str | None = connection.execute(select(f.note).where(f.name == PREFIX + fingerprint)).scalar()
        if refused is not None:
            connection.execute(delete(flags).where(f.name == name))
        return refused

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
