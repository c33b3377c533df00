"""Renew the session as holder of the renewal lease: by the refresh token if it may be used, otherwise by a login.

The renewal lease and its generation are the session's own protocol. The leases and fences of operations in the ledger
are a separate protocol.
"""

import logging
import time
from dataclasses import dataclass, replace
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
from worker.http.answer import one_line
from worker.session.login_interface import Login
from worker.session.redis_store import Cooldown, Origin, RenewalLease, Store, Stored
from worker.session.timings import Timings
from worker.session.token_encryption import seal, unseal
from worker.session.tokens import Pair, fingerprint
from worker.settings import Settings
from worker.watch import metrics

log = logging.getLogger(__name__)

TERMINAL = "terminal"  # name of the cool-down after a refused login
COOLDOWNS = (TERMINAL, "rate_limited", "unavailable", "internal")
_GROWTH = 1.25  # if tokens lived as long as we guessed, the next guess is so many times as long


class LeaseLostError(Exception):
    """The renewal lease has lapsed. Another process may be the leader by now, so send nothing."""


class MovedError(Exception):
    """Another process has stored a newer session, which must be used."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """How an attempt to renew ended, and the generation that is stored now.

    `outcome`: `refresh` or `login` (we renewed), `adopted` or `conflict` (another process did, and ours was dropped),
    `fresh` (nothing to do), `busy` (another process is renewing), `cooldown` (nobody asks for `left` seconds,
    for the reason in `cooldown`).
    """

    outcome: str
    generation: int
    left: float = 0.0
    cooldown: Cooldown | None = None


@dataclass(frozen=True, slots=True)
class _Obtained:
    pair: Pair
    origin: Origin
    credential: str
    at: int  # Redis' clock in ms before the call: the new token is at least this young


class Leader:
    """Renews under the renewal lease. A process has one for each login."""

    def __init__(self, settings: Settings, timings: Timings, store: Store, login: Login) -> None:
        self._settings, self._timings, self._store, self._login = settings, timings, store, login
        self._newest_used = 0  # the newest generation whose refresh token this process has presented

    def renew(
        self, lease: RenewalLease, keys: MultiFernet, expected: int, trigger: str, with_login: bool = False
    ) -> Renewal:
        """Renew once, and always free the renewal lease. `keys` encrypt the new pair.

        `with_login` logs in although the refresh token may be used, so that our own credentials are tried.
        Raises `Unavailable`, `RateLimited`, `CredentialsRejected`, `StoreUnavailable`.
        """
        started = time.monotonic()
        outcome = "failed"
        try:
            refreshed = None if with_login else self._refresh(lease, keys, expected)
            obtained = refreshed or self._log_in_repeatedly(lease)
            committed, stored = self._commit(lease, keys, obtained)
            outcome = obtained.origin if committed else "conflict"
        except LeaseLostError:
            metrics.LEASE_LOST.inc()
            outcome, stored = "conflict", self._store.look().session
        except MovedError:
            outcome, stored = "adopted", self._store.look().session
            self._store.fail(lease, "moved", "", 0, "")
        except BaseException as error:
            self._give_up(lease, error, with_login)
            raise
        finally:
            seconds = time.monotonic() - started
            metrics.RENEWALS.labels(self._login.identity.login, trigger, outcome).inc()
            metrics.RENEWAL_SECONDS.observe(seconds)
        generation = stored.generation if stored else 0
        log.info(
            "session of %s %s: generation %d, by %s, trigger %s, %.3f s, token %s", self._login.identity.login,
            "renewed" if outcome in get_args(Origin) else "left to another", generation, outcome, trigger, seconds,
            stored.fingerprint if stored else "-",
        )  # fmt: skip
        return Renewal(outcome, generation)

    def _refresh(self, lease: RenewalLease, keys: MultiFernet, expected: int) -> _Obtained | None:
        """Present the refresh token if it was certainly not presented before. Return None if a login is needed instead.

        It is not certain if the store is older than what a process remembers, or if the access token has outlived its
        time. In both cases the stored refresh token may be an old copy that was used long ago.
        """
        stored = lease.session
        if stored is None or stored.refresh_token_used_by or stored.generation < max(expected, self._newest_used + 1):
            return None
        if self._store.now() >= stored.obtained_at + max(stored.life, self._settings.token_ttl * 1000):
            return None
        pair = unseal(keys, self._store.key_prefix, stored.generation, stored.blob)
        if pair is None or pair.refresh is None or pair.is_refresh_token_used:
            return None
        at = self._extend(lease)
        if not self._store.mark_refresh_token_used(lease, stored.generation):
            return None
        self._newest_used = stored.generation
        try:
            renewed = self._login.refresh(pair.refresh)
        except CredentialsRejected as error:
            metrics.REFRESH_REJECTED.inc()
            # RFC 9700 section 4.14.2: only another holder can have used a token that we never used.
            log.warning(
                "B2COPY refused the refresh token of generation %d, which no process of ours had used (%s):"
                " the session was ended there, or somebody else holds the refresh token",
                stored.generation, error,
            )  # fmt: skip
            return None
        except Unavailable as error:
            log.warning("no refresh (%s): logging in instead, as the refresh token may be used up", error)
            return None
        return _Obtained(renewed, "refresh", stored.credential, at) if renewed else None

    def _log_in_repeatedly(self, lease: RenewalLease) -> _Obtained:
        """Log in, and repeat that while B2COPY is unavailable and sends no Retry-After.

        At most `login_attempts` times, and none begins after `login_patience`. No other code repeats a login, except
        that `ServiceAdmin.log_in` sends a refused one again, dated by B2COPY's clock or signed with its next key.
        """
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

    def _log_in(self, lease: RenewalLease) -> _Obtained:
        at = self._store.at_least()

        def before_call() -> float:
            nonlocal at
            at = self._extend(lease)
            return at / 1000

        pair = self._login.log_in(before_call)
        return _Obtained(pair, "login", pair.credential, at)

    def _extend(self, lease: RenewalLease) -> int:
        """Hold the renewal lease for the next token call; return Redis' clock in ms.

        Raises `LeaseLostError`, `MovedError`.
        """
        life = lease.session.life_s if lease.session else self._settings.token_ttl
        generation = self._store.extend(lease, self._timings.pace_for(life))
        if generation is None:
            raise LeaseLostError
        if generation > (lease.session.generation if lease.session else 0):
            raise MovedError
        return self._store.at_least()  # a token must never seem younger than it is

    def _commit(self, lease: RenewalLease, keys: MultiFernet, obtained: _Obtained) -> tuple[bool, Stored | None]:
        """Store the pair. While the store does not answer, try again for a while, because the pair cannot be replaced.

        Returns whether it was stored, and what is stored now.
        """
        pair = self._mark_if_not_new(lease, keys, obtained.pair)
        life = pair.life_s or self._guessed_life(lease.session)
        blob = seal(keys, self._store.key_prefix, lease.generation, pair)
        deadline = time.monotonic() + self._timings.commit_patience
        while True:
            try:
                committed = self._store.commit(
                    lease, blob, obtained.at, life, self._timings.renew_after(life), obtained.origin,
                    obtained.credential, fingerprint(pair.access),
                )  # fmt: skip
            except StoreUnavailable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(self._timings.store_pause)
            else:
                self._store.register()
                return committed

    def _mark_if_not_new(self, lease: RenewalLease, keys: MultiFernet, pair: Pair) -> Pair:
        """Return the pair, marked if its refresh token is not new: no refresh token is presented twice.

        A server may give the one before again, or the access token in its place. The next renewal is a login then.
        """
        before = None
        if lease.session is not None:
            before = unseal(keys, self._store.key_prefix, lease.session.generation, lease.session.blob)
        if pair.refresh is None or pair.refresh not in (pair.access, before and before.refresh):
            return pair
        log.warning("B2COPY gave no new refresh token: the next renewal is a login")
        return replace(pair, is_refresh_token_used=True)

    def _guessed_life(self, before: Stored | None) -> float:
        """Return how long an opaque token is assumed to live, in seconds.

        That is the setting. If the last token was refused earlier, it is the time for which that token was valid. The
        assumed time grows with each token that is valid for that time, because the refusal may have had another reason.
        """
        longest = self._settings.token_ttl
        if before is None:
            return longest
        ended_early = before.expires_at < before.expected_end
        lived = before.expires_at - before.obtained_at if ended_early else before.life * _GROWTH
        return min(longest, max(longest / 10, lived / 1000))

    def _give_up(self, lease: RenewalLease, error: BaseException, with_login: bool) -> None:
        """Free the renewal lease, and start the cool-down that this kind of failure needs.

        If `with_login` tried credentials in vain, there is none while the session is valid: its refresh token was not
        presented, so the fleet can still renew with it.
        While the store does not answer, try again for a while: until the lease expires, no process can renew.
        """
        pause = self._timings.cooldown_for(lease.failures)
        if isinstance(error, CredentialsRejected):
            is_valid = lease.session is not None and self._store.now() < lease.session.expires_at
            kind, pause = TERMINAL, 0.0 if with_login and is_valid else self._timings.refused_cooldown
        elif isinstance(error, RateLimited | Unavailable):
            kind = "rate_limited" if isinstance(error, RateLimited) else "unavailable"
            pause = max(pause, error.retry_after or 0.0)
        elif isinstance(error, SessionUnavailable):
            kind, pause = "unavailable", 0.0  # the store did not answer, which says nothing about B2COPY
        else:
            kind, pause = "internal", pause if isinstance(error, Exception) else 0.0
        reason = one_line(str(error))[:300] if isinstance(error, B2CopyError) else type(error).__name__
        patience = self._timings.free_patience if isinstance(error, B2CopyError) else 0.0  # others end the process
        deadline = time.monotonic() + patience
        while True:
            try:
                self._store.fail(lease, kind, reason, pause, self._login.fingerprint())
            except StoreUnavailable:
                if time.monotonic() < deadline:
                    time.sleep(self._timings.store_pause)
                    continue
                log.warning("the renewal lease could not be freed, and expires within %.0f s", self._timings.lease)
            return
