"""Renew this process's leases, one UPDATE for all of them.

A lease lasts ten seconds and is renewed every three, so it outlives any call. If the process is killed, suspended or
cut off from the database, the lease lapses and another worker takes over. So nothing may be sent for a claim whose
lease ends in less than `MARGIN_S` by this process's own clock, which continues while the host is suspended.

If something blocks the event loop, this process makes no progress with its claims, although this thread runs. Then the
leases are not renewed either, and other workers take over.
"""

import logging
import math
import threading
from collections.abc import Iterable
from typing import NamedTuple

from worker.http import event_loop
from worker.ledger import DATABASE_UNAVAILABLE_ERRORS, LEASE_S, Ledger, renew_leases
from worker.operation import Claim, claim_clock
from worker.watch import metrics

log = logging.getLogger(__name__)

HELD_MAX_S = 900.0  # seconds; a claim that is held longer was forgotten, because every attempt ends sooner
RENEW_EVERY_S = 3.0  # seconds
BLOCKED_MAX_S = 20.0  # seconds; if the event loop is blocked longer, no lease is renewed
MARGIN_S = 3.0  # seconds; nothing is sent for a claim whose lease ends sooner

_NOT_RENEWED = (
    f"leases not renewed, and other workers take these operations over {LEASE_S:.0f} s after their last renewal"
)


class _Lease(NamedTuple):
    """The lease of a claim that this process holds. `until` and `since` are seconds of `claim_clock`."""

    claim: Claim
    until: float  # 0 if another process has taken the operation over
    since: float  # when it began; infinite once it was logged that the claim is held for too long


class LeaseRenewal:
    """The claims that this process holds. Thread-safe."""

    def __init__(self, ledger: Ledger, owner: str) -> None:
        self._ledger, self.owner = ledger, owner
        self._leases: dict[int, _Lease] = {}  # by the id of the operation
        self._renewed = 0.0  # seconds of `claim_clock`
        self._lock = threading.Lock()
        self._holds_some = threading.Event()
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="b2copy-leases", daemon=True).start()

    def add(self, claims: Iterable[Claim]) -> None:
        """Renew the leases of these claims from now on."""
        with self._lock:
            now = claim_clock()
            if not self._leases:
                self._renewed = now
            for claim in claims:
                self._leases[claim.id] = _Lease(claim, claim.lease_until, now)
            metrics.CLAIMS_HELD.set(len(self._leases))
        self._holds_some.set()

    def remove(self, claims: Iterable[Claim]) -> None:
        """Stop renewing the leases of these claims: their results are written, or the claims were returned."""
        with self._lock:
            for claim in claims:
                if self._find(claim) is not None:  # not if the operation was claimed again since
                    del self._leases[claim.id]
            metrics.CLAIMS_HELD.set(len(self._leases))
            if not self._leases:
                self._holds_some.clear()

    def is_valid(self, claim: Claim) -> bool:
        """Return whether enough of the lease is left to send something."""
        lease = self._find(claim)
        return lease is not None and lease.until - claim_clock() >= MARGIN_S

    def renew_if_overdue(self) -> None:
        """Renew now if the last renewal is too long ago, for instance after an outage of the ledger.

        Otherwise this process would find that its own leases have lapsed. It would claim its own operations again, and
        the outcome of its calls in flight would count as unknown.
        """
        if claim_clock() - self._renewed > RENEW_EVERY_S + 1:
            self.renew()

    def renew(self) -> None:
        """Renew all leases. One that lapsed but that nobody took over is valid again."""
        with self._lock:
            claims = [lease.claim for lease in self._leases.values()]
        if not claims:
            return
        if (blocked_s := event_loop().blocked_s) > BLOCKED_MAX_S:
            log.error("%s: something has blocked the event loop for %.0f s", _NOT_RENEWED, blocked_s)
            return
        asked_at = claim_clock()
        still_ours = renew_leases(self._ledger, self.owner, claims)
        with self._lock:
            self._renewed = asked_at
            for claim in claims:
                if (lease := self._find(claim)) is None:  # removed during the UPDATE, or claimed again
                    continue
                # Nothing more may be sent on a claim that another process has taken over.
                until = asked_at + LEASE_S if claim.id in still_ours else 0.0
                is_forgotten = asked_at - lease.since > HELD_MAX_S
                self._leases[claim.id] = _Lease(claim, until, math.inf if is_forgotten else lease.since)
                if is_forgotten:
                    log.error(
                        "operation %s has had no result for %.0f s, although each attempt ends sooner: restart this"
                        " worker, so that another one takes it over", claim.key, HELD_MAX_S,
                    )  # fmt: skip

    def close(self) -> None:
        """End the thread that renews: this process holds no claim any more."""
        self._closed.set()
        self._holds_some.set()

    def _find(self, claim: Claim) -> _Lease | None:
        lease = self._leases.get(claim.id)
        return lease if lease is not None and lease.claim.fence == claim.fence else None

    def _run(self) -> None:
        while True:
            self._holds_some.wait()
            if self._closed.wait(RENEW_EVERY_S):
                return
            try:
                self.renew()
            except DATABASE_UNAVAILABLE_ERRORS as error:
                log.warning("%s: %s", _NOT_RENEWED, error)
            except Exception:
                log.exception(_NOT_RENEWED)
