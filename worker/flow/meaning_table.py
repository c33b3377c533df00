"""The table that says what each outcome or error of an attempt means.

Retry policy, circuit breaker, evidence, cancel and "is the outcome known" all read this table. A test demands a row for
every class of `worker.errors`.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Literal, assert_never

from worker.errors import (
    AccessRejected,
    BadPayload,
    CircuitOpen,
    Conflict,
    CredentialsRejected,
    LeaseTooShort,
    NoSeamlessUrl,
    NotFound,
    NotFromB2Copy,
    OtherLoginUnavailable,
    Permanent,
    PermitRefused,
    RateLimited,
    ReadExpired,
    SessionUnavailable,
    SettingsError,
    Unavailable,
    UnknownOutcome,
)
from worker.http.answer import NOT_PROCESSED
from worker.operation import Done, Failed, Later, Outcome, Pending, WaitReason


class Becomes(Enum):
    """What becomes of the operation, before deadline, limits and `on_unknown` are considered."""

    SUCCEEDED = "succeeded"
    PENDING = "waiting pending_at_b2copy"
    FAILED = "failed, with the kind's reason"
    LATER = "waiting next_step"
    WAIT = "waiting"
    BY_ON_UNKNOWN = "by on_unknown"
    REJECTED = "failed rejected; if the outcome was unknown, by on_unknown"
    CONFLICT = "as Rejected; with start_or_get waiting backoff, and the outcome is as before"
    BAD_PAYLOAD = "failed bad_payload"
    INTERNAL = "failed internal"


class Counted(Enum):
    """Whether the attempt counts towards `max_attempts`."""

    NO = "no"
    YES = "yes"
    IF_OTHERS_ARE_SERVED = "if the destination served another operation since"


@dataclass(frozen=True, slots=True)
class Meaning:
    """A row of the table. `word` is stored as the attempt's outcome.

    `circuit`: what the circuit breaker learns about the destination, `login`: about the login. `may_have_left`: a
    request may have reached the destination, so the operation cannot be cancelled any more. `outcome`: `known` now,
    `unknown` now, or `as_before`.
    """

    word: str
    becomes: Becomes
    wait_reason: WaitReason | None = None
    circuit: Literal["success", "failure"] | None = None
    login: Literal["success", "failure"] | None = None
    counted: Counted = Counted.NO
    may_have_left: bool = True
    outcome: Literal["known", "unknown", "as_before"] = "as_before"


_DONE = Meaning("done", Becomes.SUCCEEDED, circuit="success", login="success", outcome="known")
_PENDING = Meaning(
    "pending", Becomes.PENDING, WaitReason.PENDING_AT_B2COPY, circuit="success", login="success", outcome="known"
)
_LATER = Meaning("later", Becomes.LATER, WaitReason.NEXT_STEP, circuit="success", login="success")
_RATE_LIMITED = Meaning("rate_limited", Becomes.WAIT, WaitReason.RATE_LIMITED, login="success")
_LOGIN_REFUSED = Meaning("login_refused", Becomes.WAIT, WaitReason.NO_SESSION, login="failure", may_have_left=False)
_NO_SESSION = Meaning("no_session", Becomes.WAIT, WaitReason.NO_SESSION, login="failure", may_have_left=False)
# These two say nothing about the service admin's login. Operations that use that login continue. They have wait reasons
# of their own, because the service admin's session ends neither wait.
_NO_OTHER_LOGIN = Meaning("no_other_login", Becomes.WAIT, WaitReason.NO_OTHER_LOGIN, may_have_left=False)
_NO_SEAMLESS_URL = Meaning("no_seamless_url", Becomes.WAIT, WaitReason.NO_SEAMLESS_URL, may_have_left=False)
_UNUSABLE_SETTINGS = Meaning(
    "unusable_settings", Becomes.WAIT, WaitReason.NO_SESSION, login="failure", may_have_left=False
)
_ACCESS_REFUSED = Meaning(
    "access_refused",
    Becomes.WAIT,
    WaitReason.NO_ACCESS,
    circuit="failure",
    login="success",  # there is a token, and the token is refused
    counted=Counted.IF_OTHERS_ARE_SERVED,
)
# Not `no_access`: what people do about that, compare our address with the allow-list, does not help here.
_PROXY_REFUSED = Meaning(
    "proxy_refused",
    Becomes.WAIT,
    WaitReason.BACKOFF,
    circuit="failure",
    login="success",
    counted=Counted.IF_OTHERS_ARE_SERVED,
)
_CIRCUIT_OPEN = Meaning("circuit_open", Becomes.WAIT, WaitReason.CIRCUIT_OPEN, may_have_left=False)
_NO_PERMIT = Meaning("no_permit", Becomes.WAIT, WaitReason.RATE_LIMITED, may_have_left=False)
_LEASE_TOO_SHORT = Meaning("lease_too_short", Becomes.WAIT, WaitReason.BACKOFF, may_have_left=False)
_READ_EXPIRED = Meaning("read_expired", Becomes.WAIT, WaitReason.BACKOFF, may_have_left=False)
_NOT_SENT = Meaning("not_sent", Becomes.WAIT, WaitReason.BACKOFF, circuit="failure", may_have_left=False)
_NOT_PROCESSED = Meaning("not_processed", Becomes.WAIT, WaitReason.BACKOFF, circuit="failure", login="success")
_SERVER_ERROR = Meaning(
    "server_error", Becomes.BY_ON_UNKNOWN, WaitReason.BACKOFF, circuit="failure", login="success", outcome="unknown"
)
_NO_ANSWER = Meaning(
    "no_answer", Becomes.BY_ON_UNKNOWN, WaitReason.BACKOFF, circuit="failure", login="success", outcome="unknown"
)
_UNCLEAR_ANSWER = Meaning(
    "unclear_answer",
    Becomes.BY_ON_UNKNOWN,
    WaitReason.BACKOFF,
    circuit="failure",
    login="success",
    counted=Counted.IF_OTHERS_ARE_SERVED,
    outcome="unknown",
)
_REJECTED = Meaning(
    "rejected", Becomes.REJECTED, circuit="success", login="success", counted=Counted.YES, outcome="known"
)
_NOT_FOUND = Meaning(
    "not_found", Becomes.REJECTED, circuit="success", login="success", counted=Counted.YES, outcome="known"
)
_CONFLICT = Meaning(
    "conflict",
    Becomes.CONFLICT,
    WaitReason.BACKOFF,
    circuit="success",
    login="success",
    counted=Counted.YES,
    outcome="known",
)
_BAD_PAYLOAD = Meaning("bad_payload", Becomes.BAD_PAYLOAD, may_have_left=False)
_INTERNAL = Meaning("internal", Becomes.INTERNAL)

TABLE: tuple[tuple[str, Meaning], ...] = (
    ("Done", _DONE),
    ("Pending", _PENDING),
    ("Failed(reason)", Meaning("<reason>", Becomes.FAILED, circuit="success", login="success", outcome="known")),
    ("Later", _LATER),
    ("RateLimited (429)", _RATE_LIMITED),
    ("CredentialsRejected", _LOGIN_REFUSED),
    ("SessionUnavailable, StoreUnavailable", _NO_SESSION),
    ("OtherLoginUnavailable", _NO_OTHER_LOGIN),
    ("NoSeamlessUrl", _NO_SEAMLESS_URL),
    ("SettingsError (a key or certificate file of ours)", _UNUSABLE_SETTINGS),
    ("AccessRejected (403, or 401 twice)", _ACCESS_REFUSED),
    ("NotFromB2Copy (another 4xx or 501, of a proxy)", _PROXY_REFUSED),
    ("CircuitOpen", _CIRCUIT_OPEN),
    ("PermitRefused", _NO_PERMIT),
    ("LeaseTooShort", _LEASE_TOO_SHORT),
    ("ReadExpired", _READ_EXPIRED),
    ("Unavailable, not sent", _NOT_SENT),
    ("Unavailable, 307/308/407/408/421/425/503", _NOT_PROCESSED),
    ("Unavailable, another status (from B2COPY a 5xx)", _SERVER_ERROR),
    ("UnknownOutcome, no status", _NO_ANSWER),
    ("UnknownOutcome, with a status", _UNCLEAR_ANSWER),
    ("Rejected", _REJECTED),
    ("NotFound (404)", _NOT_FOUND),
    ("Conflict (409)", _CONFLICT),
    ("BadPayload", _BAD_PAYLOAD),
    ("any other error", _INTERNAL),
)
"""The whole table, for the documentation and for the test that compares the two."""


def meaning_of(learned: Outcome | Exception) -> Meaning:
    """Return the row for an outcome or an error."""
    if isinstance(learned, Exception):
        return _meaning_of_error(learned)
    match learned:
        case Done():
            return _DONE
        case Pending():
            return _PENDING
        case Failed(reason):
            return Meaning(reason, Becomes.FAILED, circuit="success", login="success", outcome="known")
        case Later():
            return _LATER
    assert_never(learned)


def _meaning_of_error(error: Exception) -> Meaning:
    match error:
        case RateLimited():
            return _RATE_LIMITED
        case CredentialsRejected():
            return _LOGIN_REFUSED
        case SessionUnavailable():
            return _NO_SESSION
        case OtherLoginUnavailable():
            return _NO_OTHER_LOGIN
        case NoSeamlessUrl():
            return _NO_SEAMLESS_URL
        case SettingsError():
            return _UNUSABLE_SETTINGS
        case AccessRejected():
            return _ACCESS_REFUSED
        case NotFromB2Copy():
            return _PROXY_REFUSED
        case CircuitOpen():
            return _CIRCUIT_OPEN
        case PermitRefused():
            return _NO_PERMIT
        case LeaseTooShort():
            return _LEASE_TOO_SHORT
        case ReadExpired():
            return _READ_EXPIRED
        case Unavailable(status=None):
            return _NOT_SENT
        case Unavailable(status=status):
            return _NOT_PROCESSED if status in NOT_PROCESSED else _SERVER_ERROR
        case UnknownOutcome(status=status):
            return _NO_ANSWER if status is None else _UNCLEAR_ANSWER
        case NotFound():
            return _NOT_FOUND
        case Conflict():
            return _CONFLICT
        case Permanent():
            return _REJECTED
        case BadPayload():
            return _BAD_PAYLOAD
    return _INTERNAL
