"""Every duration of the shared session, in seconds, and what must hold between them."""

import random
from dataclasses import dataclass

_random = random.SystemRandom()  # forked processes share the state of any other generator, and would wait equally long


@dataclass(frozen=True, slots=True)
class Timings:
    """The constants of the protocol. Only tests change them."""

    lease: float = 20.0  # the renewal lease: how long a leader may be silent; extended before every token call
    token_deadline: float = 12.0  # a whole token call, connection to last byte
    lease_margin: float = 5.0  # what a name look-up or a suspended leader may take in addition
    login_attempts: int = 3
    login_patience: float = 25.0  # no login attempt is begun later than this
    login_backoff: float = 0.5  # first wait between two attempts, doubling
    login_backoff_max: float = 5.0
    pace: float = 2.0  # least time between the token calls of two leaders
    cooldown: float = 0.5  # no token calls after a failed renewal, doubling
    cooldown_max: float = 4.0
    retry_after_max: float = 300.0  # the longest Retry-After of a token endpoint that is obeyed
    refused_cooldown: float = 60.0  # no token calls after a refused login
    recheck: float = 1.0  # age at which a process reads the store again
    poll: float = 0.04  # pause between two reads while waiting, +- half
    blocking: float = 30.0  # before expiry: from here on callers wait for the renewal
    commit_patience: float = 10.0  # how long a new pair is offered to a store that does not answer
    free_patience: float = 5.0  # how long a leader that failed tries to free the lease in a store that does not answer
    session_ttl: float = 24 * 3600.0  # how long Redis holds the session after a renewal
    skew: float = 5.0  # clocks that differ by less are taken as equal
    backdate: float = 30.0  # subtracted from `iat`
    store_timeout: float = 0.25  # one Redis call, and its connection, of a caller that has a token to use
    store_patience: float = 2.0  # the same of all others, and of a renewal
    store_pause: float = 0.5  # a store that did not answer is asked again after this time
    other_key_pause: float = 60.0  # a login by a host with other storage keys is not replaced earlier

    def checked(self) -> "Timings":
        """Raise `ValueError` if two leaders could talk to B2COPY at the same time in normal operation."""
        if self.lease <= self.token_deadline + self.lease_margin:
            raise ValueError(
                f"a lease of {self.lease} s does not cover a token call of {self.token_deadline} s"
                f" and {self.lease_margin} s of margin: two leaders would log each other out"
            )
        return self

    def renew_after(self, life: float) -> float:
        """Draw when a token of this life becomes due for renewal: differs between sessions, stored for all workers."""
        return life * _random.uniform(0.60, 0.75)

    def grace(self, life: float) -> float:
        """Return how much later than beat a worker begins the renewal by itself."""
        return life / 20

    def blocking_for(self, life: float) -> float:
        """Return how long before expiry callers wait for the renewal."""
        return min(self.blocking, life / 5)

    def recheck_for(self, life: float) -> float:
        """Return how old a process's own copy may become."""
        return min(self.recheck, life / 10)

    def pace_for(self, life: float) -> float:
        """Return the least time between the token calls of two leaders."""
        return min(self.pace, life / 2)

    def cooldown_for(self, failures: int) -> float:
        """Draw the cool-down after one more failure; `failures` counts those before it in a row."""
        return min(self.cooldown_max, self.cooldown * 2.0 ** min(failures, 10)) * _random.uniform(0.5, 1.0)

    def poll_pause(self) -> float:
        """Draw the pause between two reads."""
        return self.poll * _random.uniform(0.5, 1.5)
