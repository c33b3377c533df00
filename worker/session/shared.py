"""One authenticated session for any number of processes on any number of machines.

B2COPY gives a pair: an access token, which every call carries, and a refresh token, which buys the next pair and must
never be presented twice (a strict server then ends the session for everybody). The pair lives in Redis, encrypted. The
protocol, which the scripts, the store, the leader and this file share:

**Generations.** Each stored pair has a generation, which only rises. Whoever wants to renew takes the *lease* and with
it a *fence*, a number above every earlier one (Redis' clock in ms, or one more than the last). The pair is stored only
if its fence is above the stored generation, and the fence becomes the generation. The lease merely saves work: what
keeps a leader that was paused, or thought dead, from overwriting a newer pair is the fence.

**The refresh token is presented once.** Before it leaves the process the leader *burns* it: a mark in Redis which only
one owner can set. Whatever happens then - killed, answer lost, Redis gone, bad JSON - the mark stands, and the next
leader logs in with a signed assertion instead. So does a leader in doubt: a store older than what the process
remembers, an access token that has outlived its time. Any doubt costs one login, never a refresh token used twice.

**When.** A token's life is cut into: fresh; *advisory*, from a point between 60 and 75 % which the leader draws and
stores, in which beat, and 5 % later any worker, renews while all go on with the token they have; *mandatory*, the last
fifth or 30 s, in which callers wait for the renewal. Nobody waits longer than `wait`: then `SessionUnavailable`, and
the operation waits in the ledger. The leader goes on in a thread of its own.

**A 401 is an opinion about one generation.** If a newer one is stored, that is used. Else the generation is marked as
expired, so that nobody uses it further, and renewed like any other.

**Failure never deletes a usable token.** After a failed renewal the whole fleet rests (`cooldown`), and goes on with
the old token until it expires. A refused login rests longest, and is ended by other keys or by a forced renewal.
Without Redis each process goes on with its own copy and renews nothing: a pair that cannot be stored must not be made.

**Time** is Redis' clock, so that no machine's own can break it; a token's life counts from before the call that brought
it. Assertions are dated by B2COPY's clock, known from its `Date` header, if ours is off.

Between two looks at Redis a process uses its own copy for a second: the hot path costs one round trip a second.
"""

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

from worker.errors import B2CopyError, CredentialsRejected, SessionUnavailable, StoreUnavailable
from worker.session import key_files
from worker.session.leader import TERMINAL, Renewal
from worker.session.member import Held, Process, Refusal
from worker.session.redis_store import Cooldown, Lease, Refused, Stored
from worker.session.timings import Timings
from worker.session.token_encryption import unseal
from worker.session.tokens import Token
from worker.settings import Settings
from worker.watch import metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class State:
    """The session as anybody may see it: no token in it. Durations in seconds from now."""

    generation: int
    fingerprint: str | None
    origin: str | None
    key_id: str | None
    writer: str | None
    readable: bool
    age: float | None
    expires_in: float | None
    renews_in: float | None
    refresh_token_spent: bool
    leader: str | None
    cooldown: Cooldown | None
    clock_ahead: float | None


class SharedSession:
    """This fleet's session at B2COPY. Safe to share between threads and across a fork; no I/O before first use."""

    def __init__(
        self, settings: Settings, timings: Timings | None = None, wall: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._timings = timings or Timings().checked()
        self._wall = wall
        self._processes: dict[int, Process] = {}

    def current(self, wait: float = 3.0) -> Token:
        """Return an access token to use now. Waits at most `wait` seconds, and only when there is no usable one.

        Raises `SessionUnavailable` (with `retry_after`), `StoreUnavailable` without Redis and without a copy of our
        own, `CredentialsRejected` when B2COPY refuses our login.
        """
        process = self._process()
        held = process.held
        if held is not None and time.monotonic() < held.look_at:
            return held.token
        return self._obtain(process, 0, wait)

    def rejected(self, token: Token, wait: float = 3.0) -> Token:
        """Say that B2COPY answered 401 to `token`; return a newer one. Raises as `current`."""
        metrics.UNAUTHORIZED.inc()
        process = self._process()
        if (newer := process.spare(token.generation)) is not None:
            return newer
        process.held = None
        process.store.invalidate(token.generation)
        return self._obtain(process, token.generation, wait)

    def clock(self) -> int:
        """Redis' clock in milliseconds, or a little less: tokens of this generation and later are made after now."""
        return self._process().store.at_least()

    def renew(self, trigger: str = "beat", force: bool = False, wait: float = 0.0) -> Renewal:
        """Renew the session, in this thread, if it is due or `force`d; what beat's task and the command line call.

        `force` renews a fresh one too, and in spite of a cooldown. Another's renewal is waited for `wait` seconds.
        Raises `Unavailable`, `RateLimited`, `CredentialsRejected`, `StoreUnavailable`.
        """
        process = self._process()
        ends = time.monotonic() + wait
        stored = process.store.look().session
        generation = stored.generation if stored else 0
        sound = stored and generation >= process.newest and self._readable(process, stored) is not None
        if stored and sound and not force and process.store.now() < stored.refresh_after:
            return Renewal("fresh", generation)
        expected = max(generation, process.newest)
        while True:
            lease = self._acquire(process, expected, force)
            if isinstance(lease, Lease):
                renewal = process.leader.renew(lease, expected, trigger)
                process.learn(renewal)
                return renewal
            if lease.why == "newer":
                return Renewal("adopted", expected)
            if lease.why == "cooldown" or time.monotonic() >= ends:
                return Renewal(lease.why, generation, lease.left)
            time.sleep(self._timings.poll_pause())

    def state(self) -> State:
        """Look, without changing or renewing anything. Raises `StoreUnavailable`."""
        process = self._process()
        view = process.store.look()
        stored, now = view.session, process.store.now()
        return State(
            generation=stored.generation if stored else 0,
            fingerprint=stored.fingerprint if stored else None,
            origin=stored.origin if stored else None,
            key_id=stored.key_id if stored else None,
            writer=stored.writer if stored else None,
            readable=stored is not None and self._readable(process, stored) is not None,
            age=(now - stored.born) / 1000 if stored else None,
            expires_in=(stored.expires - now) / 1000 if stored else None,
            renews_in=(stored.refresh_after - now) / 1000 if stored else None,
            refresh_token_spent=stored is not None and stored.burnt is not None,
            leader=view.leader,
            cooldown=view.cooldown,
            clock_ahead=process.endpoints.ahead,
        )

    def forget(self) -> None:
        """Remove the stored session and any cooldown: whoever needs a token next logs in."""
        process = self._process()
        process.store.forget()
        process.held = None

    def concerns(self) -> list[str]:
        """What in Redis' configuration may lose the session, a line each. Raises `StoreUnavailable`."""
        return self._process().store.concerns()

    def _process(self) -> Process:
        pid = os.getpid()
        found = self._processes.get(pid)
        if found is None:
            found = self._processes.setdefault(pid, Process(self._settings, self._timings, self._wall))
        return found

    def _obtain(self, process: Process, above: int, wait: float) -> Token:
        """Find a token of a generation above `above`; one thread looks, those with a usable copy do not wait for it."""
        started = time.monotonic()
        spare = process.spare(above)
        if not (process.lock.acquire(blocking=False) if spare else process.lock.acquire(timeout=wait)):
            if spare:
                return spare
            raise SessionUnavailable("no access token yet", None, None, 1.0)
        try:
            held = process.held
            if held is not None and held.token.generation > above and time.monotonic() < held.look_at:
                return held.token
            return self._seek(process, above, started + wait)
        except StoreUnavailable:
            metrics.STORE_UNAVAILABLE.inc()
            raise
        finally:
            process.lock.release()
            metrics.LEASE_WAIT_SECONDS.observe(time.monotonic() - started)

    def _seek(self, process: Process, above: int, ends: float) -> Token:
        """Look, and look again, until there is a token or time is up."""
        if (refusal := process.refusal) is not None and refusal.stands(ends):
            raise type(refusal.error)(*refusal.error.args)
        while True:
            try:
                found = self._step(process, above, ends)
            except StoreUnavailable:
                if (token := process.spare(above)) is None:
                    raise
                return process.keep(token)
            if isinstance(found, Token):
                return found
            left = ends - time.monotonic()
            if left <= 0:
                if (token := process.spare(above)) is not None:
                    return token
                raise SessionUnavailable("no access token yet: its renewal takes long", None, None, 1.0)
            time.sleep(min(left, found))

    def _step(self, process: Process, above: int, ends: float) -> Token | float:
        """Look once and do what is due: a token to use, or the seconds to wait before the next look."""
        timings = self._timings
        view = process.store.look()
        process.tell(view)
        stored, now = view.session, process.store.now()
        token, trigger, expected = None, "unauthorized" if above else "missing", max(above, process.newest)
        if stored is not None and stored.generation >= expected:
            expected = stored.generation
            process.newest = max(process.newest, expected)
            if stored.generation > above and now < stored.expires:
                token = self._readable(process, stored)
            if (held := process.held) is not None and held.token.generation == stored.generation:
                process.held = replace(held, expires=stored.expires)  # earlier, if somebody was told 401
        if stored is not None and token is not None:
            life = stored.life / 1000
            recheck = timings.recheck_for(life)
            advisory = (stored.refresh_after - now) / 1000 + timings.grace(life)  # seconds from now
            mandatory = (stored.expires - now) / 1000 - timings.mandatory_for(life)
            process.held = Held(token, stored.expires, time.monotonic() + min(recheck, advisory), recheck)
            if advisory > 0:
                return token
            trigger = "advisory" if mandatory > 0 else "mandatory"
        refused = self._lead(process, expected, trigger)
        cooling = refused is not None and refused.why == "cooldown"
        usable = process.spare(above)  # what is stored, or what the store has lost and we have not
        if usable is not None and (trigger != "mandatory" or cooling):
            return process.keep(usable)
        if refused is not None and cooling:
            terminal = view.cooldown is not None and view.cooldown.kind == TERMINAL
            if terminal or time.monotonic() + refused.left >= ends:
                raise self._refuse(process, view.cooldown, refused.left)
            return refused.left + timings.poll_pause()
        return timings.poll_pause()

    def _lead(self, process: Process, expected: int, trigger: str) -> Refused | None:
        """Start a renewal in a thread of its own, if nobody is at it. None: it runs here."""
        if process.leading is not None and process.leading.is_alive():
            return None
        lease = self._acquire(process, expected, forced=False)
        if isinstance(lease, Refused):
            return lease
        # Not a daemon: a process that ends now still stores the pair it has paid for.
        process.leading = threading.Thread(
            target=self._renew_quietly, args=(process, lease, expected, trigger), name="b2copy-session"
        )
        try:
            process.leading.start()
        except RuntimeError:  # no thread to be had: the lease is ours all the same
            self._renew_quietly(process, lease, expected, trigger)
        return None

    def _renew_quietly(self, process: Process, lease: Lease, expected: int, trigger: str) -> None:
        """Lead in a thread: how it ended is in the store, where all who wait will see it."""
        try:
            renewal = process.leader.renew(lease, expected, trigger)
        except B2CopyError as error:
            log.warning("session not renewed: %s", error)
        except Exception:
            log.exception("session not renewed: our own fault")
        else:
            process.learn(renewal)

    def _acquire(self, process: Process, expected: int, forced: bool) -> Lease | Refused:
        owner = f"{os.uname().nodename}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        return process.store.acquire(owner, expected, key_files.fingerprint(self._settings), forced)

    def _refuse(self, process: Process, cooldown: Cooldown | None, left: float) -> B2CopyError:
        """Turn a cooldown into the error it means, remembered so that callers who keep asking cost no round trip."""
        reason = cooldown.reason if cooldown else None
        error: B2CopyError = SessionUnavailable("B2COPY gives no token for now", None, reason, left)
        if cooldown and cooldown.kind == TERMINAL:
            error = CredentialsRejected("B2COPY refuses our login", None, reason, left)
        now = time.monotonic()
        process.refusal = Refusal(error, now + left, now + min(left, self._timings.recheck))
        return error

    def _readable(self, process: Process, stored: Stored) -> Token | None:
        """Decrypt the access token, or find it decrypted already. None: no storage key opens it: it is no session."""
        held = process.held
        if (
            held is not None
            and held.token.generation == stored.generation
            and held.token.fingerprint == stored.fingerprint
        ):
            return held.token
        with key_files.at_work():
            fernet = key_files.storage_keys(self._settings)
        secrets = unseal(fernet, process.store.place, stored.generation, stored.blob)
        if secrets is None:
            metrics.UNREADABLE.inc()
            log.warning("no storage key opens generation %d of the session: logging in anew", stored.generation)
            return None
        return Token(secrets.access, stored.generation)
