"""Renew this process's leases, one UPDATE for all of them.

A lease lasts ten seconds. Renewed every three, it outlives any call. If the process is killed, suspended or cut off
from the database, the lease lapses and another worker takes over. So nothing may be sent on a claim of which less than
`MARGIN_S` is left by this process's own monotonic clock.
"""

import logging
import threading
import time
from collections.abc import Iterable

from worker.ledger import DATABASE_UNAVAILABLE_ERRORS, LEASE_S, Ledger, renew_leases
from worker.operation import Claim
from worker.watch import metrics

log = logging.getLogger(__name__)

RENEW_EVERY_S = 3.0
MARGIN_S = 3.0  # of the lease, without which nothing is sent


class LeaseRenewal:
    """The claims that this process holds. Thread-safe."""

    def __init__(self, ledger: Ledger, owner: str) -> None:
        self._ledger, self.owner = ledger, owner
        self._until: dict[int, float] = {}  # operation id -> monotonic seconds
        self._held: dict[int, Claim] = {}
        self._renewed = 0.0  # monotonic seconds
        self._lock = threading.Lock()
        self._holds_some = threading.Event()
        threading.Thread(target=self._run, name="b2copy-leases", daemon=True).start()

    def add(self, claims: Iterable[Claim]) -> None:
        """Renew these from now on."""
        with self._lock:
            if not self._held:
                self._renewed = time.monotonic()
            for claim in claims:
                self._held[claim.id], self._until[claim.id] = claim, claim.lease_until
            metrics.CLAIMS_HELD.set(len(self._held))
        self._holds_some.set()

    def remove(self, claims: Iterable[Claim]) -> None:
        """Stop renewing these: their outcome is written, or they were returned."""
        with self._lock:
            for claim in claims:
                if self._holds(claim):  # not if the operation was claimed again since
                    del self._held[claim.id], self._until[claim.id]
            metrics.CLAIMS_HELD.set(len(self._held))
            if not self._held:
                self._holds_some.clear()

    def is_valid(self, claim: Claim) -> bool:
        """Return whether enough of the lease is left to send something."""
        return self._holds(claim) and self._until.get(claim.id, 0.0) - time.monotonic() >= MARGIN_S

    def renew_if_overdue(self) -> None:
        """Renew now if that is overdue, for instance after an outage of the ledger.

        Otherwise this process would find its own leases lapsed, claim them and take its own calls for unknown.
        """
        if time.monotonic() - self._renewed > RENEW_EVERY_S + 1:
            self.renew()

    def renew(self) -> None:
        """Renew all leases. One that lapsed but that nobody took over is valid again."""
        with self._lock:
            held = list(self._held.values())
        if not held:
            return
        asked_at = time.monotonic()
        still_ours = renew_leases(self._ledger, self.owner, held)
        with self._lock:
            self._renewed = asked_at
            for claim in held:
                if not self._holds(claim):  # removed meanwhile, perhaps claimed again
                    continue
                # Nothing more may be sent on a claim that another process has taken over.
                self._until[claim.id] = asked_at + LEASE_S if claim.id in still_ours else 0.0

    def _holds(self, claim: Claim) -> bool:
        held = self._held.get(claim.id)
        return held is not None and held.fence == claim.fence

    def _run(self) -> None:
        while True:
            self._holds_some.wait()
            time.sleep(RENEW_EVERY_S)
            try:
                self.renew()
            except DATABASE_UNAVAILABLE_ERRORS as error:
                log.warning("leases not renewed: %s", error)
            except Exception:
                log.exception("leases not renewed")
