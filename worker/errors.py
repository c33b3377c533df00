"""What can go wrong, sorted by what to do about it.

* B2CopyError
  x Transient               wait and try again; `retry_after` is a floor
    - Unavailable           no answer, a 5xx, a timeout before the request was sent whole
    - RateLimited           429
    - SessionUnavailable    no access token to be had right now
      - StoreUnavailable    because Redis does not answer
  x Permanent               failed; a person decides
    - Rejected              a 4xx about the payload
    - NotFound              404
    - Conflict              409
    - AccessRejected        401 twice in a row, or 403
  x CredentialsRejected     the login itself was refused: the connection stops asking, operations wait
  x UnknownOutcome          sent, but the answer was lost or cannot be believed
* BadPayload                the caller's mistake, found before anything was recorded or sent
  - PayloadConflict         the key exists already, with another payload
* NotAllowed                a person's decision that the operation's state does not allow
* SettingsError             a setting is missing, misspelt or unusable: the process must not start

Every error takes its arguments by position and keeps them in `args`, so that it survives pickling, and none ever
holds a request, a response or a token.
"""


class B2CopyError(Exception):
    """Base class of what happens between us and B2COPY.

    `message` says what we were doing; `status` is the HTTP status, if there was an answer; `words` are B2COPY's own,
    shortened; `retry_after` is in seconds.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        words: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status, words, retry_after)
        self.message = message
        self.status = status
        self.words = words
        self.retry_after = retry_after

    def __str__(self) -> str:
        said = f": {self.words}" if self.words else ""
        status = f" (HTTP {self.status})" if self.status else ""
        return f"{self.message}{status}{said}"


class Transient(B2CopyError):
    """Wait and try again."""


class Unavailable(Transient):
    """No answer, a 5xx, or the request could not be sent."""


class RateLimited(Transient):
    """HTTP 429: we ask too often."""


class SessionUnavailable(Transient):
    """There is no access token to be had right now."""


class StoreUnavailable(SessionUnavailable):
    """Redis does not answer, and no local copy of the token is still good."""


class Permanent(B2CopyError):
    """The same request would fail the same way: a person decides."""


class Rejected(Permanent):
    """B2COPY does not accept what was sent."""


class NotFound(Permanent):
    """B2COPY does not know the record."""


class Conflict(Permanent):
    """B2COPY has it already, or in another state."""


class AccessRejected(Permanent):
    """A fresh token was refused too (401 twice), or the service admin lacks the permission (403)."""


class CredentialsRejected(B2CopyError):
    """B2COPY refused our login: the connection stops asking until a person has mended the credentials."""


class UnknownOutcome(B2CopyError):
    """The request was sent, and what became of it is not known."""


class BadPayload(ValueError):
    """What the caller handed over cannot become an operation: the message names the field and the remedy."""


class PayloadConflict(BadPayload):
    """The key belongs to another operation already: the message shows both payloads."""


class NotAllowed(ValueError):
    """The operation is not in a state in which it can be replayed, cancelled or given up: the message says why."""


class SettingsError(Exception):
    """Settings are missing, misspelt or unusable: one line each, naming the variable and the remedy."""
