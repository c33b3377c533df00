"""What the shared session needs of a way to log in. Each way is one class, such as `service_admin_login.ServiceAdmin`.

Leases, generations, cool-downs and encryption are the same for every login (`renewal_leader.py`, `member.py`).
"""

from collections.abc import Callable
from typing import Protocol

from worker.session.secret import Secret
from worker.session.session_identity import SessionIdentity
from worker.session.tokens import Pair

BeforeCall = Callable[[], float]
"""Called before each request to a token endpoint: extends the renewal lease and returns Redis' clock in Unix seconds.

It raises if the lease is lost: then nothing may be sent.
"""


class Login(Protocol):
    """One way to get a token pair. It is made in each process, and one thread at a time logs in.

    `log_in` and `refresh` raise `RateLimited`, `CredentialsRejected` (what was presented is refused) or `Unavailable`.
    """

    @property
    def identity(self) -> SessionIdentity: ...

    def fingerprint(self) -> str:
        """Identify the present credentials without showing them: a refused login is repeated once this changes."""

    def log_in(self, before_call: BeforeCall) -> Pair:
        """Log in, with as many requests as there are credentials to try. Call `before_call` before each of them."""

    def check(self) -> None:
        """Raise `SettingsError` if a file that this login needs cannot be used. Workers start only if all can be."""

    def explain(self, refusal: str) -> tuple[str, str]:
        """Return the cause of a refused login, and what a person does about it. `refusal` is B2COPY's message.

        The cause is empty if the message tells it.
        """

    def forget_refusals(self) -> None:
        """Present credentials again that were refused: a person wants that. Raises `Unavailable` if that fails."""

    def refresh(self, refresh_token: Secret[str]) -> Pair | None:
        """Exchange the refresh token, with one request. None if this login has no refresh: then `log_in` follows."""
