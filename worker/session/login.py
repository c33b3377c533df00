"""What the shared session needs of a way to log in. Each way is one class, such as `service_admin.ServiceAdmin`.

Leases, generations, cool-downs and encryption are the same for every login (`leader.py`, `member.py`).
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

from worker.session.secret import Secret
from worker.session.tokens import Pair

BeforeCall = Callable[[], float]
"""Called before each request to a token endpoint: extends the renewal lease and returns Redis' clock in Unix seconds.

It raises if the lease is lost: then nothing may be sent.
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose session it is. Processes with equal identities share one session, any difference makes another session.

    `login` names the way to log in, as `Http` knows it. `address` is the egress address, for logins that depend on it.
    """

    login: str
    host: str
    account: str
    address: str = ""

    @property
    def key_prefix(self) -> str:
        """What the names of the session's Redis keys begin with. The braces keep the keys in one Cluster slot."""
        text = "\n".join((self.login, self.host, self.account, self.address))
        return f"b2copy:{{{hashlib.sha256(text.encode()).hexdigest()[:16]}}}"

    def as_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def __str__(self) -> str:
        address = f", from {self.address}" if self.address else ""
        return f"{self.login} {self.account} at {self.host}{address}"


class Login(Protocol):
    """One way to get a token pair. It is made in each process and called by one thread at a time.

    `log_in` and `refresh` raise `RateLimited`, `CredentialsRejected` (what was presented is refused) or `Unavailable`.
    """

    @property
    def identity(self) -> Identity: ...

    def fingerprint(self) -> str:
        """Identify the present credentials without showing them: a refused login is repeated once this changes."""

    def log_in(self, before_call: BeforeCall) -> Pair:
        """Log in, with as many requests as there are credentials to try. Call `before_call` before each of them."""

    def refresh(self, refresh_token: Secret[str]) -> Pair | None:
        """Exchange the refresh token, with one request. None if this login has no refresh: then `log_in` follows."""
