"""Whose session it is: the identity of a login, and the prefix of its Redis keys."""

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class SessionIdentity:
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
