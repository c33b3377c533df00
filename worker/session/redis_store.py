"""The shared session in Redis: one method per script, typed.

The store has Redis clients of its own with short timeouts. A caller that has a token to use is delayed by a fraction of
a second if Redis does not answer. All others wait longer, so that the session is renewed over a slow connection too. A
client retries once after a broken connection, because each script may run twice, and never after a timeout. It sends no
CLIENT command, because managed Redis services forbid some of them.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import redis

from worker.errors import StoreUnavailable
from worker.redis_connection import redis_client
from worker.session import redis_scripts
from worker.session.session_identity import SessionIdentity
from worker.session.timings import Timings
from worker.settings import Settings
from worker.watch.redact import redacted

Origin = Literal["refresh", "login"]

SESSION_KEYS = ("session", "renewal_lease", "last_generation", "cooldown", "pace")  # in the order of the scripts' KEYS
IDENTITIES = "b2copy:sessions"  # sorted set of identities as JSON, scored by the Unix time of their last renewal


@dataclass(frozen=True, slots=True)
class Stored:
    """The session as Redis holds it, with its tokens encrypted. Times are Redis' clock, in milliseconds."""

    generation: int
    blob: bytes
    expires_at: int
    renew_after: int
    obtained_at: int
    life: int
    origin: str
    credential: str
    written_by: str
    fingerprint: str
    refresh_token_used_by: str | None

    @property
    def life_s(self) -> float:
        return self.life / 1000

    @property
    def expected_end(self) -> int:
        """When the access token was to expire before a 401 ended it."""
        return self.obtained_at + self.life


@dataclass(frozen=True, slots=True)
class Cooldown:
    """Nobody asks B2COPY for `left` seconds. `kind` is `terminal` when the login itself was refused."""

    kind: str
    reason: str
    left: float


@dataclass(frozen=True, slots=True)
class View:
    """What the store holds. `leader` is the owner of the renewal lease."""

    session: Stored | None
    leader: str | None
    cooldown: Cooldown | None


@dataclass(frozen=True, slots=True)
class RenewalLease:
    """The right to talk to the token endpoints, for as long as it is extended, and to write `generation`."""

    owner: str
    generation: int
    session: Stored | None
    failures: int


@dataclass(frozen=True, slots=True)
class NoLease:
    """`reason` is `newer` (use what is stored), `busy` or `cooldown`; `left` in seconds.

    `cooldown` is the one that binds these credentials. After a refused login of others it is not what `look` shows.
    """

    reason: Literal["newer", "busy", "cooldown"]
    left: float = 0.0
    cooldown: Cooldown | None = None


class _Client:
    """A Redis client with the scripts. A Redis that did not answer it is not asked before `unavailable_until`."""

    def __init__(self, settings: Settings, timeout_s: float) -> None:
        self.redis = redis_client(settings, timeout_s, retries=1)
        self.scripts = {text: self.redis.register_script(text) for text in redis_scripts.ALL}
        self.unavailable_until = 0.0  # monotonic seconds


class Store:
    """The five keys of one session."""

    def __init__(self, settings: Settings, timings: Timings, identity: SessionIdentity) -> None:
        self._timings = timings
        self._identity = identity
        self.key_prefix = identity.key_prefix
        self._keys = [f"{self.key_prefix}:{name}" for name in SESSION_KEYS]
        self._patient = _Client(settings, timings.store_patience)
        self._quick = _Client(settings, timings.store_timeout)
        self._clock = 0.0  # Redis' clock minus this process's monotonic one, in seconds; at most a round trip too late
        self._clock_at_least = 0.0  # the same difference, at most a round trip too early

    def now(self) -> int:
        """Return Redis' clock in milliseconds, or up to a round trip later: nothing expires later than we assume."""
        return int((self._clock + time.monotonic()) * 1000)

    def at_least(self) -> int:
        """Return Redis' clock in milliseconds, or up to a round trip earlier."""
        return int((self._clock_at_least + time.monotonic()) * 1000)

    def look(self, is_quick: bool = False) -> View:
        """Read everything, change nothing. `is_quick`: the caller has a token to use, and gives up soon."""
        answer = self._run(redis_scripts.LOOK, is_quick=is_quick)
        kind, reason, left = answer[14], answer[15], float(answer[16]) / 1000
        return View(
            _stored(answer[2:13]),
            _text(answer[13]),
            Cooldown(_text(kind) or "", _text(reason) or "", left) if kind and left > 0 else None,
        )

    def acquire(
        self, owner: str, expected: int, credentials: str, forced: bool = False, is_quick: bool = False
    ) -> RenewalLease | NoLease:
        """Ask for the renewal lease in order to replace generation `expected` (or anything older).

        `credentials` is their fingerprint: a cool-down after a refused login binds only processes with the same ones.
        `is_quick`: see `look`.
        """
        answer = self._run(
            redis_scripts.ACQUIRE, owner, expected, _ms(self._timings.lease), credentials, "1" if forced else "0",
            is_quick=is_quick,
        )  # fmt: skip
        match answer[0]:
            case b"LEADER":
                return RenewalLease(owner, int(answer[13]), _stored(answer[2:13]), int(answer[14]))
            case b"NEWER":
                return NoLease("newer")
            case b"BUSY":
                return NoLease("busy", max(0.0, float(answer[2]) / 1000))
            case _:
                left = float(answer[2]) / 1000
                return NoLease("cooldown", left, Cooldown(_text(answer[3]) or "", _text(answer[4]) or "", left))

    def extend(self, lease: RenewalLease, pace: float) -> int | None:
        """Hold the renewal lease for its full time from now. Return the stored generation; None if it is lost."""
        answer = self._run(redis_scripts.EXTEND, lease.owner, _ms(self._timings.lease), _ms(pace))
        return int(answer[2]) if answer[0] == b"HELD" else None

    def mark_refresh_token_used(self, lease: RenewalLease, generation: int) -> bool:
        """Mark the refresh token of `generation`. Return True if we have just marked it: it may be presented once."""
        return bool(self._run(redis_scripts.MARK_REFRESH_TOKEN_USED, lease.owner, generation)[0] == b"MARKED")

    def commit(
        self,
        lease: RenewalLease,
        blob: bytes,
        obtained_at: int,
        life: float,
        renew_after: float,
        origin: Origin,
        credential: str,
        fingerprint: str,
    ) -> tuple[bool, Stored | None]:
        """Store a new pair as the lease's generation, unless a newer one is stored. Frees the renewal lease.

        `obtained_at` is Redis' clock in ms when the token call began, `life` and `renew_after` are seconds from then.
        Returns whether it was stored, and what is stored now.
        """
        ttl = max(self._timings.session_ttl, life)
        answer = self._run(
            redis_scripts.COMMIT, lease.owner, lease.generation, _ms(ttl), blob, obtained_at + _ms(life),
            obtained_at + _ms(renew_after), obtained_at, _ms(life), origin, credential, fingerprint,
        )  # fmt: skip
        return answer[0] == b"COMMITTED", _stored(answer[2:13])

    def fail(self, lease: RenewalLease, kind: str, reason: str, pause: float, credentials: str) -> None:
        """Free the renewal lease; nobody asks B2COPY for `pause` seconds."""
        self._run(redis_scripts.FAIL, lease.owner, kind, reason, round(pause * 1000), credentials)

    def invalidate(self, generation: int) -> None:
        """End this generation's access token for everybody, if it is still the stored one."""
        self._run(redis_scripts.INVALIDATE, generation)

    def forget(self) -> None:
        """Remove the session. The next one still has a higher generation."""
        self._run(redis_scripts.FORGET)

    def register(self) -> None:
        """Enter our session identity into the list of those that have a session on this Redis. Failure does no harm."""
        ttl = round(self._timings.session_ttl)
        try:
            with self._patient.redis.pipeline(transaction=False) as commands:
                commands.zadd(IDENTITIES, {self._identity.as_json(): self.now() / 1000})
                commands.expire(IDENTITIES, ttl)
                commands.execute()
        except redis.RedisError:
            return

    def identities(self) -> list[SessionIdentity]:
        """Return those that had a session on this Redis within its time to live, ours included, latest first.

        Raises `StoreUnavailable`.
        """
        self.look()  # for the clock
        since = self.now() / 1000 - self._timings.session_ttl
        try:
            found: Any = self._patient.redis.zrevrangebyscore(IDENTITIES, "+inf", since, start=0, num=100)
        except redis.RedisError as error:
            raise _unavailable(error, self._timings.store_pause) from None
        return [identity for member in found if (identity := _identity(member)) is not None]

    def _run(self, script: str, *args: Any, is_quick: bool = False) -> Sequence[Any]:
        """Run a script. Raises `StoreUnavailable`; a store that has just not answered is not asked again at once."""
        started = time.monotonic()
        client = self._quick if is_quick else self._patient
        if started < client.unavailable_until:
            raise StoreUnavailable("Redis does not answer", None, None, self._timings.store_pause)
        try:
            answer: Sequence[Any] = client.scripts[script](keys=self._keys, args=list(args))
            redis_s = float(answer[1]) / 1000 if isinstance(answer, list) else _no_answer(answer)
        except (redis.ConnectionError, redis.TimeoutError, redis.exceptions.BusyLoadingError) as error:
            # A closed port answers at once and may soon be open. A silent one delays each caller by the whole timeout.
            silent = isinstance(error, redis.TimeoutError)
            pause = self._timings.store_pause if silent else self._timings.store_pause / 5
            client.unavailable_until = time.monotonic() + pause
            raise _unavailable(error, self._timings.store_pause) from None
        except redis.RedisError as error:
            if isinstance(error, redis.ReadOnlyError):
                # A primary that was demoted keeps its connections: only a new one finds its successor.
                client.redis.connection_pool.disconnect()
            raise _unavailable(error, 1.0) from None
        except Exception as error:  # no answer to this script, and neither may be what follows it on the connection
            client.redis.connection_pool.disconnect()
            text = f"Redis gave an answer that cannot be read ({type(error).__name__})"
            raise StoreUnavailable(text, None, None, self._timings.store_pause) from None
        # As if Redis had read its clock when we asked: it may only seem later than it is, never earlier.
        self._clock = redis_s - started
        self._clock_at_least = redis_s - time.monotonic()
        return answer


def _no_answer(answer: object) -> NoReturn:
    raise TypeError(f"a script gives a list, not {type(answer).__name__}")


def _unavailable(error: redis.RedisError, retry_after: float) -> StoreUnavailable:
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return StoreUnavailable(f"Redis does not answer ({type(error).__name__})", None, None, retry_after)
    if isinstance(error, redis.ReadOnlyError):
        return StoreUnavailable("Redis is a replica now", None, None, retry_after)
    # Out of memory, no permission: Redis' own text says which.
    return StoreUnavailable("Redis refuses the session's commands", None, redacted(str(error))[:200], retry_after)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _text(value: bytes | None) -> str | None:
    return value.decode("utf-8", "replace") if value else None


def _stored(fields: Sequence[bytes | None]) -> Stored | None:
    """None when there is no whole session: the script has checked that."""
    if fields[0] is None:
        return None
    generation, blob, expires_at, renew_after, obtained_at, life, *labels, used_by = (field or b"" for field in fields)
    origin, credential, written_by, fingerprint = (_text(label) or "" for label in labels)
    return Stored(
        int(generation), blob, int(expires_at), int(renew_after), int(obtained_at), int(life),
        origin, credential, written_by, fingerprint, _text(used_by),
    )  # fmt: skip


def _identity(member: bytes) -> SessionIdentity | None:
    try:
        return SessionIdentity(**{str(name): str(value) for name, value in json.loads(member).items()})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
