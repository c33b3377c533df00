"""What can go wrong, sorted by what to do about it.

* B2CopyError
  x Transient               wait and try again; `retry_after` is a floor
    - Unavailable           not sent (no status), not processed (`http.answer.NOT_PROCESSED`), or another 5xx; from the
                            CRM's webhook any status but 2xx and 429
      - NoAnswerInTime      of a worker, to a read that a CRM asked for
      - ReceiverGone        410 of the CRM's webhook: it wants no further notice
    - RateLimited           429
    - SessionUnavailable    there is no access token right now
      - StoreUnavailable    because Redis does not answer
    - OtherLoginUnavailable another login than the service admin's gives no token: only operations that need it wait
    - NoSeamlessUrl         the secret of seamless logins is refused or unusable: only operations that need it wait
    - AccessRejected        401 also to a new token, or 403: our access, or this operation's, is refused
    - NotFromB2Copy         a 4xx of a proxy in front of B2COPY, for instance one that has no route to it
    - GateClosed            we do not send just now: nothing was sent
      - CircuitOpen         because the destination is unavailable or our login fails
      - PermitRefused       because the rate limit is reached, or the destination asked us to wait
      - LeaseTooShort       because too little is left of the operation's lease
      - ReadExpired         because nobody waits for the answer to this read any more
  x Permanent               failed; a person decides
    - Rejected              a 4xx about the payload
    - NotFound              404
    - Conflict              409; a call that starts or gets is made again
  x CredentialsRejected     our login is refused, or a file that it needs is unusable: operations wait
  x UnknownOutcome          sent, but the answer was lost or cannot be believed
* BadPayload                the caller's mistake, found before anything was recorded or sent
  - PayloadConflict         the key exists already, with another payload
  - PathNotListed           B2COPY_CALL_PATHS of this process does not list the path; another process may list it
* NotAllowed                a person's decision that is not possible as things stand
* SettingsError             a setting is missing, misspelt or unusable: the process must not start

Every error takes its arguments by position and stores them in `args`, so that it can be pickled. No error holds a
request, a response or a token.
"""

import sys

_OUR_PACKAGES = sys.stdlib_module_names | {
    "amqp", "celery", "hiredis", "kombu", "limits", "pkg_resources", "pydantic_core", "redis", "sqlalchemy", "tasks",
    "vine", "worker",
}  # fmt: skip
"""Where the errors are defined that our own work for a CRM can raise."""


class B2CopyError(Exception):
    """Base class of what happens between us and B2COPY.

    `message` says what we were doing; `status` is the HTTP status, if there was an answer; `server_message` is the
    other side's own text, bounded and redacted; `retry_after` is in seconds.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        server_message: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status, server_message, retry_after)
        self.message = message
        self.status = status
        self.server_message = server_message
        self.retry_after = retry_after

    def __str__(self) -> str:
        text = f": {self.server_message}" if self.server_message else ""
        status = f" (HTTP {self.status})" if self.status else ""
        return f"{self.message}{status}{text}"


class Transient(B2CopyError):
    """Wait and try again."""


class Unavailable(Transient):
    """The request was not sent (`status` is None), not processed (`http/answer.py`), or met another 5xx.

    From the CRM's webhook: any status but 2xx and 429.
    """


class ReceiverGone(Unavailable):
    """The CRM's webhook answered 410: it wants no further notice.

    Only a person ends this state. The deadline does not apply.
    """


class NoAnswerInTime(Unavailable):
    """No worker has answered a read in time. A read has no effect, so it may be asked for again."""


class RateLimited(Transient):
    """HTTP 429: we ask too often."""


class SessionUnavailable(Transient):
    """There is no access token right now."""


class StoreUnavailable(SessionUnavailable):
    """Redis does not answer, and no local copy of the token is valid."""


class OtherLoginUnavailable(Transient):
    """A login other than the service admin's is not set or gives no token. Only the operations that need it wait."""


class NoSeamlessUrl(Transient):
    """B2COPY refuses the secret that it and we share for seamless logins, or our file with the secret is unusable.

    Only the operations that need the secret wait.
    """


class AccessRejected(Transient):
    """A fresh token was refused too (401), or the service admin lacks the permission (403)."""


class NotFromB2Copy(Transient):
    """A 4xx or 501 that would be `Permanent`, but whose body has not the form of B2COPY's errors: a proxy sent it."""


class GateClosed(Transient):
    """The gate lets no request pass now. Nothing was sent."""


class CircuitOpen(GateClosed):
    """The destination is unavailable or our login fails, and this operation is not the probe that may be sent."""


class PermitRefused(GateClosed):
    """The rate limit is reached, or the destination asked everybody to wait."""


class LeaseTooShort(GateClosed):
    """Too little is left of the operation's lease to send another request."""


class ReadExpired(GateClosed):
    """The deadline of a read has passed: nobody waits for the answer any more."""


class Permanent(B2CopyError):
    """The same request would fail the same way: a person decides."""


class Rejected(Permanent):
    """B2COPY does not accept what was sent."""


class NotFound(Permanent):
    """B2COPY does not know the record."""


class Conflict(Permanent):
    """B2COPY has it already, or in another state."""


class CredentialsRejected(B2CopyError):
    """B2COPY refused our login, or a key or password file of ours is unusable.

    After a refusal nobody logs in with the same credentials until the cool-down is over. A password that the Back
    Office refused is not presented again until a person has the refusal forgotten (`b2copy-sync session forget`).
    """


class UnknownOutcome(B2CopyError):
    """The request was sent, and what became of it is not known.

    `is_rate_limited`: the answer to a second request was 429, which asks everybody to wait.
    """

    is_rate_limited = False


class BadPayload(ValueError):
    """What the caller passed cannot become an operation: the message names the field and the remedy."""


class PayloadConflict(BadPayload):
    """The key belongs to another operation already: the message shows both payloads.

    `summary` names the fields that differ, and no value: for logs, and for people who may not read the first operation.
    """

    def __init__(self, summary: str, both: str = "") -> None:
        super().__init__(summary, both)
        self.summary, self._both = summary, both

    def __str__(self) -> str:
        return self.summary + self._both


class PathNotListed(BadPayload):
    """B2COPY_CALL_PATHS of this process does not list a call's path. `entity`: the call's.

    While the setting is changed, another process may list the path already.
    """

    def __init__(self, problem: str, entity: str | None = None) -> None:
        super().__init__(problem, entity)
        self.problem, self.entity = problem, entity

    def __str__(self) -> str:
        return self.problem


class NotAllowed(ValueError):
    """What a person decided is not possible as the operation, import, pause or proposal stands.

    The message says why.
    """


class SettingsError(Exception):
    """Settings are missing, misspelt or unusable: one line each, naming the variable and the remedy."""


def without_frames(error: Exception) -> Exception:
    """Return the error without its frames and causes, to be raised again `from None`.

    Error trackers store the local variables of every frame. Those of a library that connects hold the password.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def comes_from_caller(error: Exception) -> bool:
    """Return True if a time limit of the caller's own task ended our work, and not anything that our work met.

    Celery (`SoftTimeLimitExceeded`) and RQ (`JobTimeoutException`) raise such an error from a signal handler, so that
    it appears anywhere in our code. It must reach the task. It is recognised by the package that defines its class,
    which is none that we use.
    """
    return type(error).__module__.partition(".")[0] not in _OUR_PACKAGES
