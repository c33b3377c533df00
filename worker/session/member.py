"""How one process gets an access token: from its own copy, from Redis, by waiting, or by leading a renewal."""

import logging
import os
import threading
import time
import uuid
from dataclasses import dataclass, replace

from cryptography.fernet import MultiFernet

from worker.errors import B2CopyError, CredentialsRejected, SessionUnavailable, StoreUnavailable
from worker.session import key_files
from worker.session.login_interface import Login
from worker.session.redis_store import Cooldown, NoLease, RenewalLease, Store, Stored, View
from worker.session.renewal_leader import COOLDOWNS, TERMINAL, Leader, Renewal
from worker.session.timings import Timings
from worker.session.token_encryption import is_of_other_keys, unseal
from worker.session.token_stage import Stage, stage
from worker.session.tokens import Token
from worker.settings import Settings
from worker.watch import metrics

log = logging.getLogger(__name__)

OTHER_KEYS = "another host encrypts the session with another storage key than those in our B2COPY_STORAGE_KEY_FILE"


@dataclass(frozen=True, slots=True)
class LocalCopy:
    """This process's own copy of the token: until `look_at` (monotonic) it is used without asking Redis."""

    token: Token
    expires_at: int  # Redis' clock, ms
    look_at: float
    recheck: float  # seconds


@dataclass(frozen=True, slots=True)
class Refusal:
    """There will be no token until `ends` (monotonic), unless something changes. Redis is read again at `look_at`."""

    error: B2CopyError
    ends: float
    look_at: float

    def blocks_until(self, deadline: float) -> bool:
        """Return True if no token can be expected before `deadline`, so that the caller should fail at once."""
        hopeless = self.ends >= deadline or isinstance(self.error, CredentialsRejected)
        return hopeless and time.monotonic() < self.look_at


class Member:
    """One process's part in the shared session. It is made at first use in each process, so that no fork shares it."""

    def __init__(self, settings: Settings, timings: Timings, login: Login) -> None:
        self.store = Store(settings, timings, login.identity)
        self.identity = login.identity
        self._settings, self._timings, self.login = settings, timings, login
        self._leader = Leader(settings, timings, self.store, login)
        self._lock = threading.Lock()  # one thread reads Redis, and the others wait for its result
        self._renewing: threading.Thread | None = None
        self._copy: LocalCopy | None = None
        self._newest = 0  # the newest generation seen; an older one is never used, even if Redis lost data
        self._refusal: Refusal | None = None
        self._owners_without_lease: list[str] = []  # each asked for the renewal lease, and no thread uses it now
        self._reported: int | None = None  # the last generation that was reported because no storage key opens it

    def cached(self) -> Token | None:
        copy = self._copy
        return copy.token if copy is not None and time.monotonic() < copy.look_at else None

    def current(self, wait: float) -> Token:
        return self.cached() or self._obtain(0, wait)

    def rejected(self, token: Token, wait: float, is_doubtful: bool) -> Token:
        metrics.UNAUTHORIZED.inc()
        if (newer := self._usable_cached_token(token.generation)) is not None:
            return newer
        if not is_doubtful:
            self.store.invalidate(token.generation)
            self._copy = None  # not before, because without Redis it cannot be replaced, and other routes may accept it
        return self._obtain(token.generation, wait)

    def renew(self, trigger: str, force: bool, wait: float, with_login: bool = False) -> Renewal:
        deadline = time.monotonic() + wait
        stored = self.store.look().session
        generation = stored.generation if stored else 0
        if stored and generation >= self._newest and not force:
            at = stage(stored, self.store.now(), self._timings)
            if self._readable(stored) is not None:
                if at is Stage.FRESH:
                    return Renewal("fresh", generation)
            elif at is not Stage.GONE and (left := self._left_alone_s(stored)) > 0:
                raise SessionUnavailable(OTHER_KEYS, None, None, left)
        expected = max(generation, self._newest)
        while True:
            keys = self._storage_keys()  # first, because a process that cannot store a pair must not request one
            lease = self._acquire(expected, force)
            if isinstance(lease, RenewalLease):
                renewal = self._leader.renew(lease, keys, expected, trigger, with_login)
                self._learn(renewal)
                return renewal
            if lease.reason == "newer":
                return Renewal("adopted", expected)
            if lease.reason == "cooldown" or time.monotonic() >= deadline:
                return Renewal(lease.reason, generation, lease.left, lease.cooldown)
            time.sleep(self._timings.poll_pause())

    def forget(self) -> None:
        self.store.forget()
        self._copy = None
        self.login.forget_refusals()

    def is_readable(self, stored: Stored) -> bool:
        """Return whether the stored token can be decrypted at present."""
        try:
            return self._readable(stored) is not None
        except CredentialsRejected:
            return False

    def _readable(self, stored: Stored) -> Token | None:
        """Return the stored access token, decrypted. None if no storage key opens it.

        Raises `CredentialsRejected` if the storage key file cannot be used.
        """
        copy = self._copy
        if (
            copy is not None
            and copy.token.generation == stored.generation
            and copy.token.fingerprint == stored.fingerprint
        ):
            return copy.token
        pair = unseal(self._storage_keys(), self.store.key_prefix, stored.generation, stored.blob)
        if pair is None:
            if stored.generation != self._reported:
                self._reported = stored.generation
                metrics.UNREADABLE.inc()
                log.warning(
                    "no storage key opens generation %d of the session, which %s stored",
                    stored.generation, stored.written_by,
                )  # fmt: skip
            return None
        return Token(pair.access, stored.generation)

    def _left_alone_s(self, stored: Stored) -> float:
        """Return for how many seconds more a session that cannot be read is not replaced.

        A host with other storage keys has stored that session, and cannot read ours either. Without a pause after a
        login the two hosts would log in alternately as often as they read Redis. After a refresh there is no pause,
        because a host whose tokens live shortly would always have a young session, and keep the other host out for
        ever. For the same reason the pause is no longer than half of the session's life.
        """
        age_s = (self.store.now() - stored.obtained_at) / 1000
        if stored.origin != "login" or age_s < 0 or not is_of_other_keys(self._storage_keys(), stored.blob):
            return 0.0
        return min(self._timings.other_key_pause, stored.life_s / 2) - age_s

    def _storage_keys(self) -> MultiFernet:
        """Read the keys that encrypt the tokens. Raises `CredentialsRejected` if their file cannot be used."""
        with key_files.key_errors_as_refused_login():
            return key_files.storage_keys(self._settings)

    def _obtain(self, above: int, wait: float) -> Token:
        """Find a token of a generation above `above`. One thread searches; those with a usable copy do not wait."""
        started = time.monotonic()
        cached = self._usable_cached_token(above)
        if not (self._lock.acquire(blocking=False) if cached else self._lock.acquire(timeout=wait)):
            if cached:
                return cached
            raise SessionUnavailable("no access token yet", None, None, 1.0)
        try:
            copy = self._copy
            if copy is not None and copy.token.generation > above and time.monotonic() < copy.look_at:
                return copy.token
            return self._search(above, started + wait)
        except StoreUnavailable:
            metrics.STORE_UNAVAILABLE.inc()
            raise
        finally:
            self._lock.release()
            metrics.LEASE_WAIT_SECONDS.observe(time.monotonic() - started)

    def _search(self, above: int, deadline: float) -> Token:
        """Read Redis repeatedly until there is a token or the deadline has passed."""
        if (
            (refusal := self._refusal) is not None
            and refusal.blocks_until(deadline)
            and self._usable_cached_token(above) is None
        ):
            raise type(refusal.error)(*refusal.error.args)
        while True:
            try:
                found = self._look(above, deadline)
            except (StoreUnavailable, CredentialsRejected):  # Redis or a key file cannot be read
                if (token := self._usable_cached_token(above)) is None:
                    raise
                return self._use_cached_longer(token)
            if isinstance(found, Token):
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                if (token := self._usable_cached_token(above)) is not None:
                    return token
                raise SessionUnavailable("no access token yet: its renewal takes long", None, None, 1.0)
            time.sleep(min(left, found))

    def _look(self, above: int, deadline: float) -> Token | float:
        """Read Redis once, and start a renewal if one is due. Return a token, or the seconds until the next read."""
        is_quick = self._usable_cached_token(above) is not None
        view = self.store.look(is_quick)
        self._show(view)
        stored, now = view.session, self.store.now()
        token, trigger, expected = None, "unauthorized" if above else "missing", max(above, self._newest)
        if stored is not None and stored.generation >= expected:
            expected = self._newest = stored.generation
            at = stage(stored, now, self._timings, grace_s=self._timings.grace(stored.life_s))
            if stored.generation > above and at is not Stage.GONE:
                token = self._readable(stored)
                if token is None and (left := self._left_alone_s(stored)) > 0:
                    return self._leave_to_other_host(left, above, deadline)
            if (copy := self._copy) is not None and copy.token.generation == stored.generation:
                self._copy = replace(copy, expires_at=stored.expires_at)  # earlier, if another process got a 401
            if token is not None:
                self._remember(token, stored, now)
                self._show_expiry(stored.expires_at - now)
                if at is Stage.FRESH:
                    return token
                trigger = at
        refused = self._lead(expected, trigger, is_quick)
        cooling = refused is not None and refused.reason == "cooldown"
        usable = self._usable_cached_token(above)  # the stored token, or our own copy if the store has lost it
        if usable is not None and (trigger != Stage.BLOCKING or cooling):
            return self._use_cached_longer(usable)
        if refused is not None and cooling:
            terminal = refused.cooldown is not None and refused.cooldown.kind == TERMINAL
            if terminal or time.monotonic() + refused.left >= deadline:
                raise self._refuse(refused.cooldown, refused.left)
            return refused.left + self._timings.poll_pause()
        return self._timings.poll_pause()

    def _leave_to_other_host(self, left: float, above: int, deadline: float) -> Token | float:
        """Return our own copy, or the seconds until the next read. Raises `SessionUnavailable` if that is too late."""
        if (usable := self._usable_cached_token(above)) is not None:
            return self._use_cached_longer(usable)
        if time.monotonic() + left >= deadline:
            raise self._refuse_for(left, SessionUnavailable(OTHER_KEYS, None, None, left))
        return left + self._timings.poll_pause()

    def _remember(self, token: Token, stored: Stored, now: int) -> None:
        """Store the token as own copy. It is used without Redis until it is due for renewal, for at most a second."""
        recheck = self._timings.recheck_for(stored.life_s)
        due_in = (stored.renew_after - now) / 1000 + self._timings.grace(stored.life_s)
        self._copy = LocalCopy(token, stored.expires_at, time.monotonic() + min(recheck, due_in), recheck)

    def _lead(self, expected: int, trigger: str, is_quick: bool) -> NoLease | None:
        """Start a renewal in a thread of its own if no process is renewing. Return None if it runs in this process.

        Raises `CredentialsRejected` if the storage key file cannot be used: this process then leaves the renewal to
        the others, because it could not store the pair.
        """
        if self._renewing is not None and self._renewing.is_alive():
            return None
        keys = self._storage_keys()
        lease = self._acquire(expected, forced=False, is_quick=is_quick)
        if isinstance(lease, NoLease):
            return lease
        # Not a daemon thread: a process that exits now still stores the pair it obtained.
        self._renewing = threading.Thread(
            target=self._renew_quietly, args=(lease, keys, expected, trigger), name="b2copy-session"
        )
        try:
            self._renewing.start()
        except RuntimeError:  # no thread can be started, and this process holds the renewal lease
            self._renew_quietly(lease, keys, expected, trigger)
        return None

    def _renew_quietly(self, lease: RenewalLease, keys: MultiFernet, expected: int, trigger: str) -> None:
        """Renew in a thread. The result is in the store, where all waiting callers read it."""
        try:
            renewal = self._leader.renew(lease, keys, expected, trigger)
        except B2CopyError as error:
            log.warning("session not renewed: %s", error)
        except Exception:
            log.exception("session not renewed: this program raised an error. The renewal is tried again")
        else:
            self._learn(renewal)

    def _acquire(self, expected: int, forced: bool, is_quick: bool = False) -> RenewalLease | NoLease:
        """Ask for the renewal lease.

        If an answer is lost, Redis may have given the lease to the owner that asked. So the next request asks as the
        same owner, and gets that lease instead of waiting for its end. An owner that got a lease is used no more.
        """
        try:
            owner = self._owners_without_lease.pop()
        except IndexError:
            owner = f"{os.uname().nodename}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        lease = None
        try:
            lease = self.store.acquire(owner, expected, self.login.fingerprint(), forced, is_quick)
        finally:
            if not isinstance(lease, RenewalLease):
                self._owners_without_lease.append(owner)
        return lease

    def _refuse(self, cooldown: Cooldown | None, left: float) -> B2CopyError:
        """Return the error for a cool-down."""
        reason = cooldown.reason if cooldown else None
        error: B2CopyError = SessionUnavailable("B2COPY gives no token for now", None, reason, left)
        if cooldown and cooldown.kind == TERMINAL:
            error = CredentialsRejected("our login fails", None, reason, left)
        return self._refuse_for(left, error)

    def _refuse_for(self, left: float, error: B2CopyError) -> B2CopyError:
        """Store the error, so that the next callers get it without a read of Redis, and return it."""
        now = time.monotonic()
        self._refusal = Refusal(error, now + left, now + min(left, self._timings.recheck))
        return error

    def _usable_cached_token(self, above: int) -> Token | None:
        """Return the own copy if it is newer than `above` and not expired."""
        copy = self._copy
        if copy is None or copy.token.generation <= above or self.store.now() >= copy.expires_at:
            return None
        return copy.token

    def _use_cached_longer(self, token: Token) -> Token:
        """Extend the time for which the own copy is used without asking Redis."""
        if (copy := self._copy) is not None and copy.token is token:
            left = (copy.expires_at - self.store.now()) / 1000
            self._copy = replace(copy, look_at=time.monotonic() + min(copy.recheck, left))
        return token

    def _learn(self, renewal: Renewal) -> None:
        """Read Redis at the next use, because there is something new."""
        self._newest = max(self._newest, renewal.generation)
        self._refusal = None
        if (copy := self._copy) is not None:
            self._copy = replace(copy, look_at=0.0)

    def _show(self, view: View) -> None:
        """Set the metrics to what the store holds."""
        login = self.login.identity.login
        metrics.SESSION_GENERATION.labels(login).set(view.session.generation if view.session else 0)
        for kind in COOLDOWNS:
            active = view.cooldown is not None and view.cooldown.kind == kind
            metrics.COOLDOWN.labels(login, kind).set(active)

    def _show_expiry(self, left_ms: int) -> None:
        """Set the metric to the end of the own copy by this machine's clock, which a scraper can compare."""
        metrics.SESSION_EXPIRES.labels(self.login.identity.login).set(time.time() + left_ms / 1000)
