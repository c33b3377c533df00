"""Every duration of the shared session, in seconds, and what must hold between them."""

import random
from dataclasses import dataclass

_chance = random.SystemRandom()  # forked processes share the state of any other, and would all wait equally long


@dataclass(frozen=True, slots=True)
class Timings:
    """The constants of the protocol. A test may shorten them; nobody else has a reason to."""

    lease: float = 20.0  # how long a leader may be silent; re-armed before every token call
    token_deadline: float = 12.0  # a whole token call, connection to last byte
    lease_margin: float = 5.0  # what a name look-up or a paused leader may take on top
    login_attempts: int = 3
    login_patience: float = 25.0  # no new login attempt is begun after this
    login_backoff: float = 0.5  # first wait between two attempts, doubling
    login_backoff_max: float = 5.0
    pace: float = 2.0  # least time between two leaders' token calls
    cooldown: float = 0.5  # nobody asks after a failed renewal, doubling
    cooldown_max: float = 4.0
    retry_after_max: float = 300.0  # the longest Retry-After we obey
    terminal: float = 60.0  # nobody asks after a refused login
    recheck: float = 1.0  # age at which a process looks at the store again
    poll: float = 0.04  # pause between two looks while waiting, +- half
    mandatory: float = 30.0  # before expiry: from here on callers wait for the renewal
    commit_patience: float = 10.0  # how long a new pair is offered to a store that does not answer
    kept: float = 24 * 3600.0  # the session's time to live in Redis after a renewal
    skew: float = 5.0  # clocks that differ by less are taken as equal
    backdate: float = 30.0  # subtracted from `iat`
    store_timeout: float = 0.25  # one Redis call, and its connection
    store_pause: float = 0.5  # a store that did not answer is left alone for so long

    def checked(self) -> "Timings":
        """Refuse figures under which two leaders could talk to B2COPY at once as a matter of course."""
        if self.lease <= self.token_deadline + self.lease_margin:
            raise ValueError(
                f"a lease of {self.lease} s does not cover a token call of {self.token_deadline} s"
                f" and {self.lease_margin} s of margin: two leaders would log each other out"
            )
        return self

    def renew_after(self, life: float) -> float:
        """Draw when a token of this life is renewed: different instances differ, workers agree on what is stored."""
        return life * _chance.uniform(0.60, 0.75)

    def grace(self, life: float) -> float:
        """How much later than beat a worker begins the renewal by itself."""
        return life / 20

    def mandatory_for(self, life: float) -> float:
        """How long before expiry callers wait for the renewal."""
        return min(self.mandatory, life / 5)

    def recheck_for(self, life: float) -> float:
        """How old a process's own copy may become."""
        return min(self.recheck, life / 10)

    def pace_for(self, life: float) -> float:
        """Least time between two leaders' token calls."""
        return min(self.pace, life / 2)

    def cooldown_for(self, failures: int) -> float:
        """Draw the pause after the n-th failure in a row (0 = the first)."""
        return min(self.cooldown_max, self.cooldown * 2.0 ** min(failures, 10)) * _chance.uniform(0.5, 1.0)

    def poll_pause(self) -> float:
        """Draw the pause between two looks."""
        return self.poll * _chance.uniform(0.5, 1.5)
