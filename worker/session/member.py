"""What one process knows of the shared session."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from worker.errors import B2CopyError, CredentialsRejected
from worker.session.leader import COOLDOWNS, Leader, Renewal
from worker.session.redis_store import Store, View
from worker.session.timings import Timings
from worker.session.token_endpoints import Endpoints
from worker.session.tokens import Token
from worker.settings import Settings
from worker.watch import metrics


@dataclass(frozen=True, slots=True)
class Held:
    """This process's own copy: until `look_at` (monotonic) it is used without asking Redis."""

    token: Token
    expires: int  # Redis' clock, ms
    look_at: float
    recheck: float  # seconds


@dataclass(frozen=True, slots=True)
class Refusal:
    """There will be no token until `ends` (monotonic), unless things have changed since; known well until `look_at`."""

    error: B2CopyError
    ends: float
    look_at: float

    def stands(self, patience: float) -> bool:
        """Is it no use to look again, for somebody who waits until `patience`?"""
        hopeless = self.ends >= patience or isinstance(self.error, CredentialsRejected)
        return hopeless and time.monotonic() < self.look_at


class Process:
    """What one process knows: built on first use in it, so that no socket and no lock crosses a fork."""

    def __init__(self, settings: Settings, timings: Timings, wall: Callable[[], float]) -> None:
        self.store = Store(settings, timings)
        self.endpoints = Endpoints(settings, timings, wall)
        self.leader = Leader(settings, timings, self.store, self.endpoints, wall)
        self.lock = threading.Lock()  # one thread asks Redis, the others wait for what it learns
        self.leading: threading.Thread | None = None
        self.held: Held | None = None
        self.newest = 0  # the newest generation ever seen: the store may lose data, a process does not go back
        self.refusal: Refusal | None = None
        metrics.SESSION_EXPIRES_IN.set_function(self.expires_in)

    def spare(self, above: int) -> Token | None:
        """The own copy, if it is newer than `above` and not expired."""
        held = self.held
        if held is None or held.token.generation <= above or self.store.now() >= held.expires:
            return None
        return held.token

    def keep(self, token: Token) -> Token:
        """Go on with the own copy for a while without asking Redis again."""
        if (held := self.held) is not None and held.token is token:
            left = (held.expires - self.store.now()) / 1000
            self.held = replace(held, look_at=time.monotonic() + min(held.recheck, left))
        return token

    def learn(self, renewal: Renewal) -> None:
        """Look at once where this process would otherwise have gone on with what it knew."""
        self.newest = max(self.newest, renewal.generation)
        self.refusal = None
        if (held := self.held) is not None:
            self.held = replace(held, look_at=0.0)

    def tell(self, view: View) -> None:
        """Let the metrics show what the store shows."""
        metrics.SESSION_GENERATION.set(view.session.generation if view.session else 0)
        for kind in COOLDOWNS:
            metrics.COOLDOWN.labels(kind).set(view.cooldown is not None and view.cooldown.kind == kind)

    def expires_in(self) -> float:
        """Seconds for which the own copy is good; 0 without one."""
        held = self.held
        return max(0.0, (held.expires - self.store.now()) / 1000) if held else 0.0
