"""Keep this process's claims alive, one UPDATE for all of them.

A claim is good for ten seconds. Renewed every three, it outlives any call; not renewed, because the process was killed,
paused or cut off from the database, it lapses and another worker takes over. So nothing may be sent on a claim that has
less than `MARGIN` left by this process's own monotonic clock.
"""

import logging
import threading
import time
from collections.abc import Iterable

from worker.ledger import AWAY, LEASE, Claim, Ledger, renew

log = logging.getLogger(__name__)

RENEW_EVERY = 3.0  # seconds
MARGIN = 3.0  # seconds of lease without which nothing is sent


class Leases:
    """The claims this process holds. Thread-safe."""

    def __init__(self, ledger: Ledger, owner: str) -> None:
        self._ledger, self.owner = ledger, owner
        self._until: dict[int, float] = {}  # operation id -> monotonic seconds
        self._held: dict[int, Claim] = {}
        self._renewed = 0.0  # monotonic seconds
        self._lock = threading.Lock()
        self._something = threading.Event()
        threading.Thread(target=self._keep, name="b2copy-leases", daemon=True).start()

    def took(self, claims: Iterable[Claim]) -> None:
        """Hold these from now on."""
        with self._lock:
            if not self._held:
                self._renewed = time.monotonic()
            for claim in claims:
                self._held[claim.id], self._until[claim.id] = claim, claim.lease_until
        self._something.set()

    def let_go(self, claims: Iterable[Claim]) -> None:
        """Hold these no longer: their outcome is written, or they went back."""
        with self._lock:
            for claim in claims:
                self._held.pop(claim.id, None)
                self._until.pop(claim.id, None)
            if not self._held:
                self._something.clear()

    def good(self, claim: Claim) -> bool:
        """Tell whether there is lease enough to send something."""
        return self._until.get(claim.id, 0.0) - time.monotonic() >= MARGIN

    def _keep(self) -> None:
        while True:
            self._something.wait()
            time.sleep(RENEW_EVERY)
            try:
                self.renew()
            except AWAY as error:
                log.warning("leases not renewed: %s", error)
            except Exception:
                log.exception("leases not renewed")

    def catch_up(self) -> None:
        """Renew if that is overdue, as after an outage of the ledger: else this process would claim from itself what it
        still holds, as lapsed, and take its own calls for unknown."""
        if time.monotonic() - self._renewed > RENEW_EVERY + 1:
            self.renew()

    def renew(self) -> None:
        """Renew all that is held. A lease that lapsed but that nobody took over is good again."""
        with self._lock:
            held = list(self._held.values())
        if not held:
            return
        asked = time.monotonic()
        kept = renew(self._ledger, self.owner, held)
        with self._lock:
            self._renewed = asked
            for claim in held:
                if self._held.get(claim.id) is not claim:  # let go meanwhile, perhaps claimed anew
                    continue
                # A claim that somebody else holds by now must not be sent any more.
                self._until[claim.id] = asked + LEASE if claim.id in kept else 0.0
