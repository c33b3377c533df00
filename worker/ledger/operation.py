"""The words of the ledger: an operation, its states, and which may follow which.

    queued -> running -> succeeded
                 |-> waiting -> running
                 |-> failed
    queued -> cancelled ; failed -> queued (replay, by a person)

`MOVES` is the whole table. Every statement that writes a state names the move it makes and is guarded by the states
that move may start from, so that what is not in the table cannot be written.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from time import monotonic
from typing import Any, NamedTuple

LANES = ("money", "default", "bulk")
"""Which queue and whose share, in the order they are served."""

MESSAGE_KIND = "message"
"""The kind of an operation that only keeps a message which could not be taken."""


VERSION = version("b2copy-sync")
"""The code version that stands in the evidence."""


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


class Why(StrEnum):
    """What a waiting operation waits for."""

    PENDING_AT_B2COPY = "pending_at_b2copy"
    BACKOFF = "backoff"
    RATE_LIMITED = "rate_limited"
    BREAKER_OPEN = "breaker_open"
    NO_SESSION = "no_session"
    PAUSED = "paused"
    BEHIND_ENTITY = "behind_entity"
    BEHIND_PARENT = "behind_parent"


class Reason(StrEnum):
    """What made an operation a dead letter."""

    REJECTED = "rejected"
    FEE_ERROR = "fee_error"
    UNRESOLVED = "unresolved"
    EXHAUSTED = "exhausted"
    BAD_PAYLOAD = "bad_payload"
    INTERNAL = "internal"


class Move(NamedTuple):
    """One way from state to state. `before` is empty when the operation did not exist."""

    before: frozenset[State]
    after: frozenset[State]


def _move(before: set[State], after: set[State]) -> Move:
    return Move(frozenset(before), frozenset(after))


MOVES = {
    "record": _move(set(), {State.QUEUED}),
    "refuse": _move(set(), {State.FAILED}),  # a message that could not be taken
    "claim": _move({State.QUEUED, State.WAITING, State.RUNNING}, {State.RUNNING}),  # running: its lease has lapsed
    "park": _move({State.QUEUED, State.WAITING}, {State.WAITING}),  # behind its entity or its parent
    "expire": _move({State.QUEUED, State.WAITING}, {State.FAILED}),  # parked until its deadline
    "hand_back": _move({State.RUNNING}, {State.QUEUED, State.WAITING}),  # nothing was sent
    "settle": _move({State.RUNNING}, {State.WAITING, State.SUCCEEDED, State.FAILED}),
    "replay": _move({State.FAILED}, {State.QUEUED}),
    "cancel": _move({State.QUEUED, State.WAITING}, {State.CANCELLED}),  # only while nothing was ever sent
    "stop_asking": _move({State.QUEUED, State.WAITING}, {State.FAILED}),  # only after something was sent
}


def may_follow(before: State | None, after: State) -> bool:
    """Tell whether the table has a move from `before` (None: it did not exist) to `after`."""
    return any(
        after in move.after and (before in move.before if before else not move.before) for move in MOVES.values()
    )


@dataclass(frozen=True, slots=True)
class New:
    """An operation to record. `parent` is the parent's key; `deadline` is in seconds from now."""

    kind: str
    key: str
    payload: Mapping[str, Any]
    lane: str
    entity: str | None = None
    parent: str | None = None
    deadline: float | None = None
    repeatable: bool = False


class Recorded(NamedTuple):
    """What became of a `New`. `created` is False if the key existed; `state` is then its present one."""

    id: int
    key: str
    state: State
    created: bool


class Claim(NamedTuple):
    """An operation held by this process until `lease_until`.

    `attempts` have been counted and `asks` were answered "pending" so far; `sent`: an attempt may have left some
    process before; `unknown`: what the last attempt did is not known, so read back or repeat before anything else. It
    waited `waited` seconds because of `why`. `lease_until` and `deadline` are seconds of this process's
    `time.monotonic`; `enqueued_at` is ms since the epoch by the database's clock.
    """

    id: int
    key: str
    kind: str
    payload: dict[str, Any]
    lane: str
    entity: str | None
    owner: str
    fence: int
    attempts: int
    asks: int
    replays: int
    unknown: bool
    sent: bool
    repeatable: bool
    enqueued_at: int
    deadline: float | None
    lease_until: float
    was: State
    why: Why | None
    waited: float
    last: str | None
    last_fence: int | None

    @property
    def overdue(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and monotonic() >= self.deadline

    @property
    def lease_left(self) -> float:
        """Seconds until another process may take it over."""
        return self.lease_until - monotonic()


class Attempt(NamedTuple):
    """One try, as evidence. `words` are B2COPY's own; `request_id` is what was sent as such.

    `started_at` is ms since the epoch: by this machine's clock when handed in, by the database's once it is kept.
    `duration` is in ms. `counted`: B2COPY answered about this operation. Equal answers in a row are kept as one row:
    `times` of them, the last of which ended at `last_at`. `late`: the lease was lost before, and so it decided nothing.
    """

    started_at: int
    duration: int
    outcome: str
    worker: str
    http_status: int | None = None
    words: str | None = None
    counted: bool = False
    request_id: str | None = None
    version: str = VERSION
    last_at: int | None = None
    times: int = 1
    late: bool = False


class Verdict(NamedTuple):
    """What a holder decided. `due_in` (seconds) and `why` for waiting, `reason` for failed.

    `sent=False`: nothing left the process during this claim. `unknown`: it did, and what it did is not known; the
    operation stays unknown until B2COPY has said how it stands (pending, succeeded, rejected).
    """

    claim: Claim
    state: State
    why: Why | None = None
    reason: Reason | None = None
    due_in: float | None = None
    result: dict[str, Any] | None = None
    attempt: Attempt | None = None
    unknown: bool = False
    sent: bool = True


class Decision(NamedTuple):
    """What a person decided, when (ms since the epoch) and why. `key` is None for a flag's."""

    at: int
    what: str
    who: str
    why: str
    subject: str


@dataclass(frozen=True, slots=True)
class Operation:
    """The whole row. Times are ms since the epoch by the database's clock; for `away_ms` it was not our turn."""

    id: int
    key: str
    kind: str
    payload: dict[str, Any]
    lane: str
    entity: str | None
    parent: str | None
    state: State
    why: Why | None
    reason: Reason | None
    due_at: int | None
    owner: str | None
    attempts: int
    asks: int
    replays: int
    sent: bool
    unknown: bool
    repeatable: bool
    enqueued_at: int
    enqueued_by: str
    deadline_at: int | None
    since: int
    away_ms: int
    ended_at: int | None
    result: dict[str, Any] | None
