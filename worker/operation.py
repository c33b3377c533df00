"""An operation, its states and the moves between them, claims, attempts, outcomes. Standard library only.

    queued -> running -> succeeded
                 |-> waiting -> running
                 |-> failed
    queued, waiting -> cancelled  (by a person or the CRM, if nothing was sent)
    queued, waiting -> failed     (its deadline passed while it was parked; or asked no more, by a person)
    failed -> queued              (replay, or correct with another payload, by a person)
    failed -> succeeded           (resolve, by a person, with the result)
    failed -> cancelled           (resolve of a message that could not be used, by a person)

`MOVES` is the complete table of moves, with the rare ones. Every SQL statement that writes a state names its move and
is guarded by the states from which that move may start. A move that is not in the table cannot be written.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from typing import Any, NamedTuple

MESSAGE_KIND = "message"
"""The kind of an operation that only stores a message which could not be recorded as an operation."""

MESSAGE_SENDER = "message from"
"""Prefix of `requested_by` if a Celery message requested the operation; the sender that it names follows."""

NOTICE_KIND = "crm.notify"
"""The kind of an operation that tells the CRM what became of another operation."""

ENDED_INFO = "b2copy_ended"
"""The entry of `Connection.info` for what a claim has ended without an attempt: kind, lane, state, failure reason."""

MESSAGE_LIMIT = 500
"""Characters stored of a server message. There is one limit, so that the same text is the same wherever it is shown."""

PROGRESS_LIMIT = 4096
"""Characters of JSON that an operation's progress may have."""

VERSION = version("b2copy-sync")
"""The version of this code, stored with every attempt."""


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


class Phase(StrEnum):
    """What the next attempt does: start the operation at its destination, or ask how far it is."""

    SUBMIT = "submit"
    POLL = "poll"


class WaitReason(StrEnum):
    """Why a waiting operation waits."""

    PENDING_AT_B2COPY = "pending_at_b2copy"
    BACKOFF = "backoff"
    RATE_LIMITED = "rate_limited"
    CIRCUIT_OPEN = "circuit_open"
    NO_SESSION = "no_session"
    NO_OTHER_LOGIN = "no_other_login"
    NO_SEAMLESS_URL = "no_seamless_url"
    NO_ACCESS = "no_access"
    NEXT_STEP = "next_step"
    BEHIND_ENTITY = "behind_entity"
    BEHIND_PARENT = "behind_parent"


_WAIT_REASONS: dict[str | None, WaitReason] = {reason.value: reason for reason in WaitReason}


def wait_reason_of(stored: str | None) -> str | None:
    """Return a stored wait reason: a `WaitReason`, or the word itself if only a newer version of this code knows it.

    Two versions work on one ledger during an upgrade, and what the newer one has written is no fault of an operation.
    """
    return _WAIT_REASONS.get(stored, stored)


class FailureReason(StrEnum):
    """Why an operation failed, as far as the engine decides it. A kind may add reasons of its own."""

    REJECTED = "rejected"
    UNRESOLVED = "unresolved"
    EXHAUSTED = "exhausted"
    EXPIRED = "expired"
    BAD_PAYLOAD = "bad_payload"
    INTERNAL = "internal"


WITHOUT_ANSWER = frozenset(FailureReason) - {FailureReason.REJECTED}
"""Reasons that do not tell what the destination did of an operation that it had begun."""


class OnUnknown(StrEnum):
    """What an unknown outcome permits: a request was sent, and what it did is not known."""

    START_OR_GET = "start_or_get"  # send the same call again; its answer tells how the operation stands
    READ_BACK = "read_back"  # look first whether it was done, and send the request only if it was not
    REPEAT = "repeat"  # the caller says that doing it twice does no harm
    STOP = "stop"  # never send again without a person's decision


class Move(NamedTuple):
    """One way from state to state. `before` is empty if the operation did not exist."""

    before: frozenset[State]
    after: frozenset[State]


def _move(before: set[State], after: set[State]) -> Move:
    return Move(frozenset(before), frozenset(after))


MOVES = {
    "record": _move(set(), {State.QUEUED}),
    "fail_message": _move(set(), {State.FAILED}),  # a message that could not be recorded as an operation
    "claim": _move({State.QUEUED, State.WAITING, State.RUNNING}, {State.RUNNING}),  # running: its lease has lapsed
    "park": _move({State.QUEUED, State.WAITING}, {State.WAITING}),  # behind its entity or its parent
    "expire": _move({State.QUEUED, State.WAITING}, {State.FAILED}),  # parked until its deadline
    "refuse": _move({State.QUEUED, State.WAITING, State.RUNNING}, {State.FAILED}),  # a row that cannot be read
    "return_unsent": _move({State.RUNNING}, {State.QUEUED, State.WAITING}),  # nothing was sent
    "settle": _move({State.RUNNING}, {State.WAITING, State.SUCCEEDED, State.FAILED}),
    # An answer whose lease was lost may decide an operation that the next holder must leave unresolved.
    "late_answer": _move({State.FAILED, State.RUNNING, State.WAITING}, {State.SUCCEEDED, State.FAILED}),
    "replay": _move({State.FAILED}, {State.QUEUED}),
    "correct": _move({State.FAILED}, {State.QUEUED}),  # a replay with another payload
    # A person records what the destination did. Cancelled: a message that could not be used is dealt with.
    "resolve": _move({State.FAILED}, {State.SUCCEEDED, State.FAILED, State.CANCELLED}),
    "cancel": _move({State.QUEUED, State.WAITING}, {State.CANCELLED}),  # only while nothing was ever sent
    # A notice of which the CRM has not confirmed the receipt, by a newer one about the same operation.
    "supersede": _move({State.QUEUED, State.WAITING, State.RUNNING}, {State.CANCELLED}),
    # A notice, after the CRM has stopped wanting notices. Running: its lease has lapsed.
    "cancel_notice": _move({State.QUEUED, State.WAITING, State.RUNNING}, {State.CANCELLED}),
    "stop_asking": _move({State.QUEUED, State.WAITING}, {State.FAILED}),  # only after something was sent
    "leave_unresolved": _move({State.QUEUED, State.WAITING}, {State.FAILED}),  # of a cancelled batch, after a restore
}


class New(NamedTuple):
    """An operation to record. `parent` is a key; `time_allowed_s` is the time from `requested_at` to the deadline.

    `requested_at` is in ms since the epoch; None: when it is recorded.
    """

    kind: str
    key: str
    payload: Mapping[str, Any]
    lane: str
    entity: str | None = None
    parent: str | None = None
    time_allowed_s: float | None = None
    on_unknown: OnUnknown = OnUnknown.STOP
    destination: str = "b2copy"
    batch: str | None = None
    trace_id: str | None = None
    requested_at: int | None = None


class Recorded(NamedTuple):
    """What recording a `New` did. `created` is False if the key existed; `state` is then its present state."""

    id: int
    key: str
    state: State
    created: bool


def claim_clock() -> float:
    """Return this process's seconds by which leases and deadlines of claims are measured.

    `time.monotonic` stands still while a host is suspended, so a lease would seem valid after it has lapsed. Linux has
    a clock that continues: https://man7.org/linux/man-pages/man2/clock_gettime.2.html (CLOCK_BOOTTIME).
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Claim(NamedTuple):
    """An operation that this process holds until `lease_until`.

    `sent`: some attempt may have sent something, in this process or another. `outcome_unknown`: what an earlier
    request did is not known; `unknown_step` names it. `progress` is what an earlier attempt stored. The
    operation waited `last_wait_s` seconds because of `wait_reason`; `previous_state` is the state before the claim.
    `lease_until` and `deadline` are seconds of `claim_clock`. `last_answer` is the digest of the
    last stored answer, and `last_answer_fence` the attempt that holds it.
    """

    id: int
    key: str
    kind: str
    payload: dict[str, Any]
    destination: str
    entity: str | None
    lease_owner: str
    fence: int
    counted_attempts: int
    phase: Phase
    replays: int
    sent: bool
    outcome_unknown: bool
    unknown_step: str | None
    on_unknown: OnUnknown
    progress: dict[str, Any] | None
    trace_id: str | None
    deadline: float | None
    lease_until: float
    previous_state: State
    wait_reason: str | None  # see `wait_reason_of`
    last_wait_s: float
    last_answer: str | None
    last_answer_fence: int | None

    @property
    def overdue(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and claim_clock() >= self.deadline


class Step(NamedTuple):
    """One HTTP call of an attempt, as evidence. `http_status` is None if no answer came."""

    name: str
    duration_ms: int
    http_status: int | None
    outcome: str


class AttemptRecord(NamedTuple):
    """One attempt, as evidence. `message` is the other side's own text; `request_id` is what was sent as such.

    `outcome` is a stable word of `worker.flow.meaning_table`. `started_at` is ms since the epoch: by this machine's
    clock when handed in, by the database's clock once it is stored. `counted`: the attempt counts towards
    `max_attempts`; see `counts` in flow/retry_policy.py. Equal answers in a row are stored as one row: `times` of them,
    and the last one ended at `last_at`. `late`: the lease was lost before the outcome could be written.
    `ledger/late_answers.py` says when such an attempt still decides.
    """

    started_at: int
    duration_ms: int
    outcome: str
    worker: str
    http_status: int | None = None
    message: str | None = None
    steps: tuple[Step, ...] = ()
    counted: bool = False
    request_id: str | None = None
    version: str = VERSION
    last_at: int | None = None
    times: int = 1
    late: bool = False


class Transition(NamedTuple):
    """What becomes of a claimed operation. Waiting has `wait_reason` and `due_in_s`; failed has `failure_reason`.

    `sent=False`: nothing left the process during this claim. `outcome_unknown`: a request left it, and what the request
    did is not known. `outcome_known`: the destination has said how the operation stands, which ends an earlier unknown
    outcome. `progress` replaces the stored progress. None leaves the stored progress, so that a transition without an
    attempt loses nothing; an empty dict clears it, and so does success. At most `PROGRESS_LIMIT` characters of JSON.
    """

    claim: Claim
    state: State
    wait_reason: WaitReason | None = None
    failure_reason: str | None = None
    due_in_s: float | None = None
    result: dict[str, Any] | None = None
    attempt: AttemptRecord | None = None
    outcome_unknown: bool = False
    outcome_known: bool = False
    unknown_step: str | None = None
    progress: dict[str, Any] | None = None
    sent: bool = True


class AuditEntry(NamedTuple):
    """An entry of the audit: when (ms since the epoch), who, what, about which subject, and why (`note`).

    `detail` holds what was changed: `{"before": {...}, "after": {...}}`. `ledger/audit.py` lists the subjects.
    """

    at: int
    actor: str
    action: str
    subject: str
    note: str
    detail: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation as the ledger holds it. Times are ms since the epoch by the database's clock.

    `external_wait_ms` is the time spent pending at the destination or paused, which the service level leaves out.
    """

    id: int
    key: str
    kind: str
    payload: dict[str, Any]
    lane: str
    entity: str | None
    parent: str | None
    destination: str
    state: State
    wait_reason: str | None  # see `wait_reason_of`
    failure_reason: str | None
    phase: Phase
    due_at: int | None
    lease_owner: str | None
    counted_attempts: int
    polls: int
    replays: int
    sent: bool
    outcome_unknown: bool
    unknown_step: str | None
    on_unknown: OnUnknown
    progress: dict[str, Any] | None
    batch: str | None
    trace_id: str | None
    requested_at: int
    requested_by: str
    deadline_at: int | None
    state_since: int
    last_wait_ms: int
    external_wait_ms: int
    ended_at: int | None
    result: dict[str, Any] | None
    fence: int

    @property
    def change_mark(self) -> str:
        """A text that changes whenever the operation changes in a way that matters to a decision. See `change_mark`."""
        return change_mark(self.state, self.fence, self.state_since, self.replays, self.sent)


def change_mark(state: str, fence: int, state_since: int, replays: int, sent: bool) -> str:
    """Return a text that stands for the operation as a person saw it when deciding.

    A final operation has another mark after every change. An open one is claimed and polled all the time: its mark only
    changes when it ends, is replayed, or is sent for the first time.
    """
    if state in FINAL:
        return f"{fence}.{state_since}"
    return f"open.{replays}.{'sent' if sent else 'unsent'}"


def may_have_been_done(failed: Any) -> bool:
    """Return whether it is not known what the destination did, or is still doing, of a failed operation.

    `failed` is an `Operation` or its row in the ledger. Of an open one: `may_have_begun` of flow/retry_policy.py.
    """
    begun = failed.phase == Phase.POLL and failed.failure_reason in WITHOUT_ANSWER
    return bool(failed.outcome_unknown or begun)


def is_replayable(operation: Any, not_done: bool = False) -> bool:
    """Return whether a replay is possible and does no harm. `operation` is an `Operation` or its row in the ledger.

    `not_done`: a person has looked at the destination and says so.
    """
    if operation.state != State.FAILED or operation.kind == MESSAGE_KIND:
        return False
    return not_done or not (may_have_been_done(operation) and operation.on_unknown == OnUnknown.STOP)


@dataclass(frozen=True, slots=True)
class Done:
    """The destination has done it. `result` is stored with the operation."""

    result: dict[str, Any] | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Pending:
    """The destination has started it and has not finished: poll again."""

    message: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The destination has ended the operation without success. `reason` is one of the kind's `failure_reasons`."""

    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Later:
    """The attempt is not finished and decides nothing: continue in `after_s` seconds from the attempt's `progress`.

    What was unknown before this attempt stays unknown.
    """

    after_s: float
    message: str = ""


Outcome = Done | Pending | Failed | Later
"""What an attempt learned about its operation, if it learned something; otherwise it raised an error."""
