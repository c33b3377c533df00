"""One authenticated session for any number of processes on any number of machines.

B2COPY gives a pair of tokens: an access token, which every call carries, and a refresh token, which is exchanged for
the next pair. A refresh token must never be presented twice, because a strict server then ends the session for
everybody. The pair is stored in Redis, encrypted. Scripts, store, leader and members share this protocol:

**Generations.** Each stored pair has a generation, which only rises. A process that wants to renew takes the *renewal
lease*, and with it the generation it may write: a number above every earlier one (Redis' clock in ms, or one more than
the last). The pair is stored only if that number is above the stored generation. The generation stops a leader that was
suspended, or taken for dead, from overwriting a newer pair. The lease only prevents needless renewals. (The leases and
fences of operations in the ledger are a separate protocol.)

**The refresh token is presented once.** Before the leader sends the refresh token, it marks the token as used, in
Redis, where only one owner can set the mark. If the leader is then killed, or the answer is lost, unusable or cannot be
stored, the mark stays, and the next leader logs in instead. A leader also logs in if the stored pair is older than the
one that its process remembers, or if the access token has expired. Any doubt costs one login, never a refresh token
used twice.

**When** (`token_stage.py`). The stages of an access token's life:

    stage      from                               who renews                          who waits for the renewal
    fresh      the login or refresh               nobody                              nobody
    early      60 to 75 % of its life: a random   beat; any worker if 5 % more of     nobody: all use the token
               point that the leader stores       its life is over
    blocking   the last fifth, at most 30 s       any process                         every caller
    gone       its end                            any process                         every caller

A caller waits at most `wait` seconds. Then it raises `SessionUnavailable`, and the operation waits in the ledger, while
the leader continues in a thread of its own.

**A 401 concerns one generation.** If a newer generation is stored, the caller gets that one. Otherwise the generation
is marked as expired, so that no process uses it, and renewed like any other. If the route has refused a new token too,
the 401 may concern the route alone. Then the generation is renewed, and stays in use until the new pair is stored.

**Failure never deletes a usable token.** After a failed renewal the whole fleet makes no token calls for a while (the
*cool-down*), and uses the old token until it expires. A cool-down lasts a few seconds, 60 s after a refused login, and
after a 429 or 5xx as long as its Retry-After asks, at most 300 s. That of a refused login binds only processes with the
same credentials. A forced renewal ignores any cool-down. Without Redis each process uses its own copy and renews
nothing, because a pair that cannot be stored must not be requested.

**A session that no storage key opens** was stored by a host with other keys, which cannot read ours. A login replaces
it, but not within a minute of the other host's login: otherwise the two would log in alternately without end.

**Time** is Redis' clock, so that no machine's own clock matters. A token's life counts from before the call that
obtained it. If our clock is wrong, assertions are dated by B2COPY's clock, known from its `Date` header.

**Logins** implement `login_interface.py`. Each login has a session identity, and each of them has a session and Redis
keys of its own. So a refused login does not affect the session of another login.

A process that has a usable copy of the token reads Redis about once a second. While callers wait for a token, one of
its threads reads Redis every 20 to 60 ms.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from worker.per_process import PerProcess
from worker.session.login_interface import Login
from worker.session.member import Member
from worker.session.redis_store import Cooldown
from worker.session.renewal_leader import Renewal
from worker.session.service_admin_login import ServiceAdmin
from worker.session.session_identity import SessionIdentity
from worker.session.timings import Timings
from worker.session.tokens import Token
from worker.settings import Settings

MakeLogin = Callable[[Settings, Timings, Callable[[], float]], Login]


@dataclass(frozen=True, slots=True)
class State:
    """The session as anybody may see it: no token in it. Durations in seconds from now."""

    identity: SessionIdentity
    generation: int
    fingerprint: str | None
    origin: str | None
    credential: str | None
    written_by: str | None
    readable: bool
    age: float | None
    expires_in: float | None
    renews_in: float | None
    refresh_token_used: bool
    leader: str | None
    cooldown: Cooldown | None


class SharedSession:
    """This fleet's session at B2COPY. Safe to share between threads and across a fork; no I/O before first use."""

    def __init__(
        self,
        settings: Settings,
        timings: Timings | None = None,
        wall: Callable[[], float] = time.time,
        login: MakeLogin = ServiceAdmin,
    ) -> None:
        """`login` makes the way to log in, once in each process. `wall` is this machine's clock in Unix seconds."""
        timings = timings or Timings().checked()
        self._member = PerProcess(lambda: Member(settings, timings, login(settings, timings, wall)))

    def cached(self) -> Token | None:
        """Return this process's own copy of the token while it need not be compared with Redis. Never blocks."""
        return self._member().cached()

    def current(self, wait: float = 3.0) -> Token:
        """Return an access token to use now. Waits at most `wait` seconds, and only when there is no usable one.

        Raises `SessionUnavailable` (with `retry_after`), `StoreUnavailable` without Redis and without a copy of our
        own, `CredentialsRejected` when our login fails: B2COPY refuses it, or the key cannot be read.
        """
        return self._member().current(wait)

    def rejected(self, token: Token, wait: float = 3.0, *, is_doubtful: bool = False) -> Token:
        """Report that B2COPY answered 401 to `token`; return a newer one. Raises as `current`.

        `is_doubtful`: the route has refused a new token too, so other routes may accept this one.
        """
        return self._member().rejected(token, wait, is_doubtful)

    def renew(self, trigger: str = "beat", force: bool = False, wait: float = 0.0, with_login: bool = False) -> Renewal:
        """Renew the session in this thread if it is due or `force` is set: for beat's task and the command line.

        `force` renews a fresh one too, and in spite of a cool-down. Waits `wait` seconds for another's renewal.
        `with_login` logs in with our own credentials, even if the refresh token may be used. If they are refused, a
        session that is valid stays in use.
        Raises `Unavailable`, `RateLimited`, `CredentialsRejected`, `StoreUnavailable`, and `SessionUnavailable` without
        `force` if a host with other storage keys has just logged in.
        """
        return self._member().renew(trigger, force, wait, with_login)

    def forget(self) -> None:
        """Remove the stored session and any cool-down: the next process that needs a token logs in.

        It may also present credentials again that were refused. Raises `Unavailable` if their refusal stays.
        """
        self._member().forget()

    @property
    def identity(self) -> SessionIdentity:
        """Whose session it is."""
        return self._member().identity

    def check(self) -> None:
        """Raise `SettingsError` if a file that the login needs cannot be used. Asks nobody."""
        self._member().login.check()

    def explain(self, refusal: str) -> tuple[str, str]:
        """Return the cause of a login that B2COPY refuses with the message `refusal`, and what a person does about it.

        The cause is empty if the message tells it.
        """
        return self._member().login.explain(refusal)

    def clock(self) -> int:
        """Return Redis' clock in ms, or a little less. A token whose generation is at least this was made after now."""
        return self._member().store.at_least()

    def recent_identities(self) -> list[SessionIdentity]:
        """Return the identities that have had a session on this Redis within a day, ours included, latest first.

        Two of one account that differ in their address are two egress addresses of one fleet, which then logs in twice.
        Raises `StoreUnavailable`.
        """
        return self._member().store.identities()

    def state(self) -> State:
        """Look, without changing or renewing anything. Raises `StoreUnavailable`."""
        member = self._member()
        view = member.store.look()
        stored, now = view.session, member.store.now()
        return State(
            identity=member.identity,
            generation=stored.generation if stored else 0,
            fingerprint=stored.fingerprint if stored else None,
            origin=stored.origin if stored else None,
            credential=stored.credential if stored else None,
            written_by=stored.written_by if stored else None,
            readable=stored is not None and member.is_readable(stored),
            age=(now - stored.obtained_at) / 1000 if stored else None,
            expires_in=(stored.expires_at - now) / 1000 if stored else None,
            renews_in=(stored.renew_after - now) / 1000 if stored else None,
            refresh_token_used=stored is not None and stored.refresh_token_used_by is not None,
            leader=view.leader,
            cooldown=view.cooldown,
        )
