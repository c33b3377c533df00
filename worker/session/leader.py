"""What the holder of the lease does: one renewal, from the refresh token if it may be used, else by a fresh login."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from cryptography.fernet import MultiFernet
from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_exponential_jitter

from worker.errors import (
    B2CopyError,
    CredentialsRejected,
    RateLimited,
    SessionUnavailable,
    StoreUnavailable,
    Unavailable,
)
from worker.session import key_files
from worker.session.assertion import assertion
from worker.session.redis_store import Lease, Origin, Store, Stored
from worker.session.timings import Timings
from worker.session.token_encryption import Secrets, seal, unseal
from worker.session.token_endpoints import Endpoints
from worker.session.tokens import Pair, fingerprint
from worker.settings import Settings
from worker.watch import metrics
from worker.watch.redact import redacted

log = logging.getLogger(__name__)

TERMINAL = "terminal"  # the login was refused
COOLDOWNS = (TERMINAL, "rate_limited", "unavailable", "internal")
_GROWTH = 1.25  # a guessed life that held is tried this much longer next time


class LeaseLostError(Exception):
    """Another process may lead by now: stop, send nothing."""


class MovedError(Exception):
    """Somebody else stored a newer session meanwhile: use that one."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """How an attempt to renew ended, and the generation that stands now.

    `outcome`: `refresh` or `jwt` (we renewed), `adopted` or `conflict` (somebody else did; ours was dropped), `fresh`
    (nothing to do), `busy` (somebody else is at it), `cooldown` (nobody asks for a while).
    """

    outcome: str
    generation: int
    left: float = 0.0


@dataclass(frozen=True, slots=True)
class _Obtained:
    pair: Pair
    origin: Origin
    key_id: str
    asked: int  # Redis' clock in ms, before the call: the new token is at least this young


class Leader:
    """Renews under a lease. One per process."""

    def __init__(
        self, settings: Settings, timings: Timings, store: Store, endpoints: Endpoints, wall: Callable[[], float]
    ) -> None:
        self._settings, self._timings, self._store, self._endpoints = settings, timings, store, endpoints
        self._wall = wall
        self._spent = 0  # the newest generation whose refresh token this process has presented

    def renew(self, lease: Lease, expected: int, trigger: str) -> Renewal:
        """Renew once, and free the lease whatever happens. Raises what B2COPY's answer or the store's silence means."""
        started = time.monotonic()
        outcome = "failed"
        try:
            obtained = self._refreshed(lease, expected) or self._logged_in(lease)
            committed, stored = self._commit(lease, obtained)
            outcome = obtained.origin if committed else "conflict"
        except LeaseLostError:
            metrics.LEASE_LOST.inc()
            outcome, stored = "conflict", self._store.look().session
        except MovedError:
            outcome, stored = "adopted", self._store.look().session
            self._store.fail(lease, "moved", "", 0, "")
        except BaseException as error:
            self._give_up(lease, error)
            raise
        finally:
            seconds = time.monotonic() - started
            metrics.RENEWALS.labels(trigger, outcome).inc()
            metrics.RENEWAL_SECONDS.observe(seconds)
        generation = stored.generation if stored else 0
        log.info(
            "session %s: generation %d, by %s, trigger %s, %.3f s, token %s",
            "renewed" if outcome in get_args(Origin) else "left to another", generation, outcome, trigger, seconds,
            stored.fingerprint if stored else "-",
        )  # fmt: skip
        return Renewal(outcome, generation)

    def _refreshed(self, lease: Lease, expected: int) -> _Obtained | None:
        """Present the refresh token, if nobody ever did and there is no doubt about it. None: log in instead.

        Doubt is: the store fell behind what a process remembers, or the access token has outlived its time; in both
        cases what is stored may be an old copy whose refresh token was spent long ago.
        """
        stored = lease.session
        if stored is None or stored.burnt or stored.generation < max(expected, self._spent + 1):
            return None
        if self._store.now() >= stored.born + max(stored.life, self._settings.token_ttl * 1000):
            return None
        secrets = unseal(self._storage_keys(), self._store.place, stored.generation, stored.blob)
        if secrets is None or secrets.refresh is None:
            return None
        asked = self._extend(lease)
        if not self._store.burn(lease, stored.generation):
            return None
        self._spent = stored.generation
        try:
            return _Obtained(self._endpoints.refresh(secrets.refresh), "refresh", stored.key_id, asked)
        except CredentialsRejected as error:
            metrics.REFRESH_REJECTED.inc()
            # RFC 9700 section 4.14.2: a token that only we hold and never used can be spent only by somebody else.
            log.warning(
                "B2COPY refused the refresh token of generation %d, which nobody here had used (%s):"
                " the session was ended over there, or there is a second holder of the refresh token",
                stored.generation, error,
            )  # fmt: skip
        except Unavailable as error:
            log.warning("no refresh (%s): logging in instead, as the refresh token may be spent", error)
        return None

    def _logged_in(self, lease: Lease) -> _Obtained:
        """Log in with fresh assertions until B2COPY answers for good or patience ends: the only retry there is."""
        timings = self._timings
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, Unavailable) and error.retry_after is None),
            stop=stop_after_attempt(timings.login_attempts) | stop_after_delay(timings.login_patience),
            wait=wait_exponential_jitter(
                multiplier=timings.login_backoff, max=timings.login_backoff_max, jitter=timings.login_backoff
            ),
            reraise=True,
        )
        return retrying(self._log_in, lease)

    def _log_in(self, lease: Lease) -> _Obtained:
        """Log in with the newest key B2COPY accepts; files are read anew after each refusal, as one may have come."""
        refused: dict[str, CredentialsRejected] = {}
        corrected = False
        while key := next((key for key in self._signing_keys() if key.fingerprint not in refused), None):
            ahead = self._ahead()
            asked = self._extend(lease)
            signed = assertion(self._settings, key, lambda ahead=ahead: self._wall() + ahead, self._timings.backdate)  # type: ignore[misc]
            try:
                return _Obtained(self._endpoints.log_in(signed), "jwt", key.key_id, asked)
            except CredentialsRejected as error:
                if not corrected and abs(self._ahead() - ahead) > self._timings.skew:
                    corrected = True
                    log.warning("our clock is %.0f s behind B2COPY's: corrected", self._ahead())
                    continue  # the same key, dated by B2COPY's clock
                log.error("B2COPY refused the login with key %s: %s", key.key_id, error)
                refused[key.fingerprint] = error
        raise next(reversed(refused.values()))

    def _signing_keys(self) -> list[key_files.SigningKey]:
        with key_files.at_work():
            return key_files.signing_keys(self._settings)

    def _storage_keys(self) -> MultiFernet:
        with key_files.at_work():
            return key_files.storage_keys(self._settings)

    def _ahead(self) -> float:
        """How far B2COPY's clock is ahead of ours, in seconds; 0 as long as the two are about equal."""
        ahead = self._endpoints.ahead
        return ahead if ahead is not None and abs(ahead) > self._timings.skew else 0.0

    def _extend(self, lease: Lease) -> int:
        """Hold the lease for the next token call; return Redis' clock. Raises `LeaseLostError` or `MovedError`."""
        life = lease.session.life / 1000 if lease.session else self._settings.token_ttl
        generation = self._store.extend(lease, self._timings.pace_for(life))
        if generation is None:
            raise LeaseLostError
        if generation > (lease.session.generation if lease.session else 0):
            raise MovedError
        return self._store.now()

    def _commit(self, lease: Lease, obtained: _Obtained) -> tuple[bool, Stored | None]:
        """Store the pair. A store that is away is offered it again for a while: a pair that exists is not wasted."""
        pair = obtained.pair
        life = pair.life or self._guessed_life(lease.session)
        blob = seal(self._storage_keys(), self._store.place, lease.fence, Secrets(pair.access, pair.refresh))
        ends = time.monotonic() + self._timings.commit_patience
        while True:
            try:
                return self._store.commit(
                    lease, blob, obtained.asked, life, self._timings.renew_after(life), obtained.origin,
                    obtained.key_id, fingerprint(pair.access),
                )  # fmt: skip
            except StoreUnavailable:
                if time.monotonic() >= ends:
                    raise
                time.sleep(self._timings.store_pause)

    def _guessed_life(self, before: Stored | None) -> float:
        """How long an opaque token is taken to live, in seconds.

        The setting, unless the one before was refused earlier: then as long as that one lived, growing back with each
        that holds, since it may have been refused for another reason.
        """
        most = self._settings.token_ttl
        if before is None:
            return most
        lived = before.expires - before.born if before.expires < before.lived else before.life * _GROWTH
        return min(most, max(most / 10, lived / 1000))

    def _give_up(self, lease: Lease, error: BaseException) -> None:
        """Free the lease, and let the fleet rest for as long as this kind of failure deserves."""
        pause = self._timings.cooldown_for(lease.failures)
        if isinstance(error, CredentialsRejected):
            kind, pause = TERMINAL, self._timings.terminal
        elif isinstance(error, RateLimited | Unavailable):
            kind = "rate_limited" if isinstance(error, RateLimited) else "unavailable"
            pause = max(pause, error.retry_after or 0.0)
        elif isinstance(error, SessionUnavailable):
            return  # the store is away: the lease lapses by itself
        else:
            kind, pause = "internal", pause if isinstance(error, Exception) else 0.0
        reason = redacted(str(error))[:300] if isinstance(error, B2CopyError) else type(error).__name__
        try:
            self._store.fail(lease, kind, reason, pause, key_files.fingerprint(self._settings))
        except StoreUnavailable:
            log.warning("the lease could not be freed, and lapses within %.0f s", self._timings.lease)
