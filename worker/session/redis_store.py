"""The shared session in Redis: one method per script, typed.

The client is this store's own: short timeouts, no retry after a timeout, one after a broken connection (each script may
run twice), so that a Redis that is away costs a caller a fraction of a second.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import redis

from worker.errors import StoreUnavailable
from worker.redis_connection import redis_client
from worker.session import redis_scripts
from worker.session.timings import Timings
from worker.settings import Settings

Origin = Literal["refresh", "jwt"]


@dataclass(frozen=True, slots=True)
class Stored:
    """The session as Redis holds it, tokens still sealed. Times are Redis' clock, in milliseconds."""

    generation: int
    blob: bytes
    expires: int
    refresh_after: int
    born: int
    life: int
    origin: str
    key_id: str
    writer: str
    fingerprint: str
    burnt: str | None

    @property
    def lived(self) -> int:
        """When the access token was to expire before anybody refused it."""
        return self.born + self.life


@dataclass(frozen=True, slots=True)
class Cooldown:
    """Nobody asks B2COPY for `left` seconds. `kind` is `terminal` when the login itself was refused."""

    kind: str
    reason: str
    left: float


@dataclass(frozen=True, slots=True)
class View:
    """One look at the store."""

    session: Stored | None
    leader: str | None
    cooldown: Cooldown | None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to talk to B2COPY's token endpoints, for as long as it is extended."""

    owner: str
    fence: int
    session: Stored | None
    failures: int


@dataclass(frozen=True, slots=True)
class Refused:
    """No lease: `why` is `newer` (use what is stored), `busy` or `cooldown`; `left` in seconds."""

    why: Literal["newer", "busy", "cooldown"]
    left: float = 0.0


class Store:
    """The five keys of one session: the service admin `admin_id` at `host`, seen from `device_ip`."""

    def __init__(self, settings: Settings, timings: Timings) -> None:
        self._timings = timings
        identity = "\n".join((settings.host, settings.admin_id, settings.device_ip))
        self.place = f"b2copy:{{{hashlib.sha256(identity.encode()).hexdigest()[:16]}}}"
        self._keys = [f"{self.place}:{name}" for name in ("session", "lease", "fence", "cooldown", "pace")]
        self._redis = redis_client(settings, timings.store_timeout, retries=1)
        self._scripts = {text: self._redis.register_script(text) for text in redis_scripts.ALL}
        self._behind = 0.0  # the same, but never too late
        self._clock = 0.0  # Redis' clock minus this process's monotonic one, seconds
        self._away_until = 0.0

    def now(self) -> int:
        """Redis' clock in milliseconds, as of its last answer plus what has passed since."""
        return int((self._clock + time.monotonic()) * 1000)

    def at_least(self) -> int:
        """As `now`, but never ahead of Redis."""
        return int((self._behind + time.monotonic()) * 1000)

    def look(self) -> View:
        """Read everything, change nothing."""
        answer = self._run(redis_scripts.LOOK)
        kind, reason, left = answer[15], answer[16], float(answer[17]) / 1000
        return View(
            _stored(answer[2:13]),
            _text(answer[13]),
            Cooldown(_text(kind) or "", _text(reason) or "", left) if kind and left > 0 else None,
        )

    def acquire(self, owner: str, expected: int, keys: str, forced: bool = False) -> Lease | Refused:
        """Ask for the lease in order to replace generation `expected` (or anything older)."""
        word, answer = self._said(
            redis_scripts.ACQUIRE, owner, expected, _ms(self._timings.lease), keys, "1" if forced else "0"
        )
        if word == "LEADER":
            return Lease(owner, int(answer[13]), _stored(answer[2:13]), int(answer[14]))
        if word == "NEWER":
            return Refused("newer")
        return Refused("busy" if word == "BUSY" else "cooldown", max(0.0, float(answer[2]) / 1000))

    def extend(self, lease: Lease, pace: float) -> int | None:
        """Hold the lease for its full time from now; the stored generation, or None: it is lost, send nothing."""
        word, answer = self._said(redis_scripts.EXTEND, lease.owner, _ms(self._timings.lease), _ms(pace))
        return int(answer[2]) if word == "HELD" else None

    def burn(self, lease: Lease, generation: int) -> bool:
        """Mark the refresh token of `generation` as spent. True: by us and just now, so it may be presented, once."""
        word, _ = self._said(redis_scripts.BURN, lease.owner, generation)
        return word == "BURNT"

    def commit(
        self,
        lease: Lease,
        blob: bytes,
        born: int,
        life: float,
        refresh_after: float,
        origin: Origin,
        key_id: str,
        fp: str,
    ) -> tuple[bool, Stored | None]:
        """Store a new pair as generation `lease.fence`, unless a newer one stands. Frees the lease.

        `born` is Redis' clock in ms when the token call began, `life` and `refresh_after` seconds from then.
        Gives whether it was stored, and what is stored now.
        """
        kept = max(self._timings.kept, life)
        word, answer = self._said(
            redis_scripts.COMMIT, lease.owner, lease.fence, _ms(kept),
            blob, born + _ms(life), born + _ms(refresh_after), born, _ms(life), origin, key_id, fp,
        )  # fmt: skip
        return word == "COMMITTED", _stored(answer[2:13])

    def fail(self, lease: Lease, kind: str, reason: str, pause: float, keys: str) -> None:
        """Free the lease; nobody asks for `pause` seconds."""
        self._said(redis_scripts.FAIL, lease.owner, kind, reason, _ms(pause), keys)

    def invalidate(self, generation: int) -> None:
        """Let nobody use this generation's access token any more, if it is still the stored one."""
        self._run(redis_scripts.INVALIDATE, generation)

    def forget(self) -> None:
        """Remove the session; generations go on rising."""
        self._run(redis_scripts.FORGET)

    def concerns(self) -> list[str]:
        """What in this Redis' configuration may lose the session or the broker's messages: a line each, with remedy."""
        try:
            told = self._redis.info()
        except redis.RedisError as error:
            raise StoreUnavailable(f"Redis does not answer ({type(error).__name__})") from None
        concerns = []
        if (policy := told.get("maxmemory_policy", "noeviction")) != "noeviction":
            concerns.append(f"maxmemory-policy is {policy}: sessions and messages may be evicted; set noeviction")
        if not told.get("aof_enabled", 1):
            concerns.append("appendonly is off: messages not yet recorded die with Redis; set appendonly yes")
        return concerns

    def _said(self, script: str, *args: Any) -> tuple[str, Sequence[Any]]:
        answer = self._run(script, *args)
        return answer[0].decode(), answer

    def _run(self, script: str, *args: Any) -> Sequence[Any]:
        """Run a script. Raises `StoreUnavailable`; a store that has just been away is not asked again at once."""
        started = time.monotonic()
        if started < self._away_until:
            raise StoreUnavailable("Redis does not answer", None, None, self._timings.store_pause)
        try:
            answer: Sequence[Any] = self._scripts[script](keys=self._keys, args=list(args))
        except (redis.ConnectionError, redis.TimeoutError, redis.exceptions.BusyLoadingError) as error:
            # A closed port answers at once and may soon be open; a silent one costs each caller the whole timeout.
            silent = isinstance(error, redis.TimeoutError)
            pause = self._timings.store_pause if silent else self._timings.store_pause / 5
            self._away_until = time.monotonic() + pause
            raise StoreUnavailable(
                f"Redis does not answer ({type(error).__name__})", None, None, self._timings.store_pause
            ) from None
        except redis.ReadOnlyError:
            # A primary that was demoted keeps its connections: only a new one finds its successor.
            self._redis.connection_pool.disconnect()
            raise StoreUnavailable("Redis is a replica now", None, None, 1.0) from None
        except redis.RedisError as error:
            # Out of memory, no permission: as good as away, but the words help.
            raise StoreUnavailable("Redis refuses the session's script", None, str(error)[:200], 1.0) from None
        # As if Redis had read its clock when we asked: it may only seem later than it is, never earlier.
        self._clock = float(answer[1]) / 1000 - started
        self._behind = float(answer[1]) / 1000 - time.monotonic()
        return answer


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _text(value: bytes | None) -> str | None:
    return value.decode() if value else None


def _stored(fields: Sequence[bytes | None]) -> Stored | None:
    """None when there is no session, or when what is there is not whole."""
    if any(value is None for value in fields[:10]):
        return None
    gen, blob, expires, refresh_after, born, life, origin, key_id, writer, fp = (field or b"" for field in fields[:10])
    return Stored(
        int(gen), blob, int(expires), int(refresh_after), int(born), int(life),
        origin.decode(), key_id.decode(), writer.decode(), fp.decode(), _text(fields[10]),
    )  # fmt: skip
