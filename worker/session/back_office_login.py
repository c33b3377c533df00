"""The Back Office's login: e-mail and password for an access token. It has no refresh route, so it signs in again.

Source: B2COPY's "Authorization in the Back Office" (docs.b2copy.b2broker.com, authorization-in-the-back-office). An
account may be locked after some wrong passwords. So a password that was refused once is remembered where a flush of
Redis does not reach, and nobody presents it again.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from worker import secret_file
from worker.errors import CredentialsRejected, SettingsError, Unavailable
from worker.http import Answer
from worker.http.answer import AmbiguousJson
from worker.session.key_files import key_errors_as_refused_login
from worker.session.login_interface import BeforeCall
from worker.session.secret import Secret
from worker.session.session_identity import SessionIdentity
from worker.session.timings import Timings
from worker.session.token_endpoints import NoAnswer, NotFromTheApi, TokenEndpoints, as_field, is_token
from worker.session.tokens import Pair, believed_life
from worker.settings import Settings

log = logging.getLogger(__name__)

SIGN_IN = "/api/v2/signin"
_SETTING = "B2COPY_BACK_OFFICE_PASSWORD_FILE"
_FORGET = "after the account was unlocked: `b2copy-sync session forget --login back_office`"
_SECOND_FACTOR = "a second factor"


class Refusals(Protocol):
    """Which passwords were refused, by fingerprint. Raises `Unavailable` if nobody can tell."""

    def begin(self, fingerprint: str) -> str | None:
        """Store that this password is presented now, or return why it was refused: then it must not be presented.

        Raises `Unavailable` also if it is being presented, or was a short time ago and the answer is not known.
        """

    def refuse(self, fingerprint: str, reason: str) -> None:
        """Store that this password was refused."""

    def end(self, fingerprint: str) -> None:
        """Store that this password was not refused."""

    def forget(self, note: str) -> None:
        """Forget every refusal, for the reason `note`."""


class SecondFactorRequired(CredentialsRejected):
    """The password is right, and the account's settings are not: we cannot give a second factor."""


class BackOffice:
    """Signs in with the password that stands in a file, which is read again for each sign-in."""

    def __init__(self, settings: Settings, timings: Timings, wall: Callable[[], float], *, refusals: Refusals) -> None:
        """`wall` gives this machine's clock in Unix seconds. Raises `SettingsError` without e-mail or password file."""
        if settings.back_office_email is None or settings.back_office_password_file is None:
            raise SettingsError(f"B2COPY_BACK_OFFICE_EMAIL and {_SETTING} are not set")
        self._email, self._file, self._refusals = (
            settings.back_office_email, settings.back_office_password_file, refusals,
        )  # fmt: skip
        self._endpoints = TokenEndpoints(settings, timings, wall)
        self.identity = SessionIdentity("back_office", settings.host, self._email)
        self._fingerprint: tuple[tuple[int, ...], str] = ((), "")

    def fingerprint(self) -> str:
        """Identify the password in the file. It is derived slowly (RFC 7914), so that nobody guesses the password."""
        version = secret_file.version(self._file)
        if not version or version != self._fingerprint[0]:
            try:
                self._fingerprint = (version, self._fingerprint_of(self._password()))
            except CredentialsRejected:
                return "unreadable"
        return self._fingerprint[1]

    def log_in(self, before_call: BeforeCall) -> Pair:
        """Sign in, unless this password was refused before.

        Only an answer that refuses the password is remembered. Without any answer nobody presents it for a while.
        """
        password = self._password()
        fingerprint = self._fingerprint_of(password)
        if (reason := self._refusals.begin(fingerprint)) is not None:
            what = f"the Back Office refused this password, so it is not tried again; {_FORGET}"
            raise CredentialsRejected(what, None, reason)
        try:
            before_call()
            answer = self._endpoints.post(SIGN_IN, password, as_field("password", email=self._email))
            pair = _read_pair(answer, self._email)
        except NoAnswer:
            raise
        except CredentialsRejected as error:
            is_refused = not isinstance(error, NotFromTheApi | SecondFactorRequired)
            self._remember(fingerprint, str(error) if is_refused else None)
            raise
        except BaseException:
            self._remember(fingerprint, None)
            raise
        self._remember(fingerprint, None)
        return pair

    def refresh(self, refresh_token: Secret[str]) -> Pair | None:
        """There is no documented route for the refresh token."""
        return None

    def check(self) -> None:
        """Raise `SettingsError` if the password file cannot be used."""
        password_of(self._file)

    def explain(self, refusal: str) -> tuple[str, str]:
        """Return what to do about the password, or about the account's settings."""
        if _SECOND_FACTOR in refusal:
            return "", "then: `b2copy-sync session renew --login back_office`"
        return "", f"put the right password into {self._file}, and it is tried at once; {_FORGET}"

    def forget_refusals(self) -> None:
        """Present a password that was refused again: a person has had the account unlocked."""
        self._refusals.forget("the session was forgotten by hand")

    def _remember(self, fingerprint: str, refused: str | None) -> None:
        """Store whether the password was refused. What goes wrong here changes nothing of what was learned."""
        try:
            if refused is None:
                self._refusals.end(fingerprint)
            else:
                self._refusals.refuse(fingerprint, refused)
        except Exception:
            log.exception("what the Back Office answered to the password of %s could not be stored", self._email)

    def _password(self) -> Secret[str]:
        with key_errors_as_refused_login():
            return password_of(self._file)

    def _fingerprint_of(self, password: Secret[str]) -> str:
        salt = f"{self.identity.host}\n{self._email}".encode()
        return hashlib.scrypt(password.reveal().encode(), salt=salt, n=2**14, r=8, p=1, dklen=12).hex()


def password_of(file: Any) -> Secret[str]:
    """Read the password. Raises `SettingsError`."""
    password = Secret(secret_file.read(_SETTING, file).decode(errors="replace").rstrip("\r\n"))
    secret_file.check_line(_SETTING, file, password.reveal)
    return password


def _read_pair(answer: Answer, email: str) -> Pair:
    """Read the tokens. Raises `CredentialsRejected` for a second factor, `Unavailable` if there are no tokens."""
    pair = _pair_of(answer, email)
    if pair == "2faRequired":
        raise SecondFactorRequired(
            f"POST {SIGN_IN}", answer.status,
            f"B2COPY asks {email} for {_SECOND_FACTOR}, and documents no way to give one: switch it off for this"
            " account, or set B2COPY_ACCOUNTS_LOGIN and B2COPY_WIDGETS_LOGIN to service_admin",
        )  # fmt: skip
    if isinstance(pair, str):
        raise Unavailable(f"POST {SIGN_IN}: {pair}", answer.status)
    return pair


def _pair_of(answer: Answer, email: str) -> Pair | str:
    """Return the pair, or what is wrong. It raises nothing, because its frame holds the tokens."""
    try:
        body = answer.json()
    except AmbiguousJson:
        return "the answer gives two values to one name"
    except ValueError:
        return "the answer is not JSON"
    if not isinstance(body, Mapping):
        return "the answer is not a JSON object"
    if body.get("2faRequired") not in (None, False, "0", "false"):  # a list has no hash
        return "2faRequired"
    access = body.get("accessToken")
    dated = access if isinstance(access, Mapping) else {}
    token = dated.get("token")
    if not is_token(token):
        return "the answer holds no usable access token"
    return Pair(Secret(token), None, _life_s(dated, answer.server_time), credential=email)


def _life_s(dated: Mapping[str, Any], server_time: float | None) -> float | None:
    """Return how long the token lives: both dates are in the server's clock. None if they cannot be read."""
    expires, created = _unix(dated.get("expiresAt")), _unix(dated.get("createdAt"))
    created = server_time if created is None else created
    return believed_life(expires - created if expires is not None and created is not None else None)


def _unix(value: Any) -> float | None:
    try:
        instant = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
