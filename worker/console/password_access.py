"""Access by password: a file of people, a login form, and sessions in the memory of the console's process.

A line of the file is `name:argon2id hash:roles`. The file is read again when it changes, which ends all sessions. So
does a restart of the console. A session lasts eight hours; its cookie is random and only its hash is stored.

Guessing is limited for the console as a whole and not per name, so that nobody can lock a person out by wrong tries in
that person's name. Two hashes are computed in parallel, each with 64 MiB. Sessions that exist do not notice a flood.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from starlette.requests import Request

from worker.console.access import NAME_LIMIT, Person
from worker.console.roles import Role
from worker.errors import SettingsError

SESSION_S = 8 * 3600.0  # seconds for which a login is valid
TRIES_PER_S = 5.0  # passwords that the whole console verifies each second; more are refused unread
TRIES_AT_ONCE = 10  # passwords that may come together
VERIFIED_AT_ONCE = 2
WRONG_S = 0.5  # seconds until a wrong password is answered
SESSIONS = 1000  # most sessions that are stored
PASSWORD_MIN = 12  # characters
PASSWORD_LIMIT = 1024  # characters

_HASHER = PasswordHasher()
_NOBODY = _HASHER.hash(secrets.token_urlsafe())  # verified for unknown names: all answers take equally long


class TooManyTries(Exception):
    """More passwords are tried than the console verifies."""


class PasswordAccess:
    """People of a file. `secure`: browsers reach the console by https only, so the cookie is sent by https only."""

    login_page = True

    def __init__(self, path: Path | None, secure: bool) -> None:
        self._path = path
        self._secure = secure
        self.cookie = "__Host-b2copy" if secure else "b2copy"
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._people: dict[str, tuple[str, Person]] = {}
        self._sessions: dict[str, tuple[Person, float]] = {}
        self._tries_left, self._tried_at = float(TRIES_AT_ONCE), time.monotonic()
        self._verifying = threading.Semaphore(VERIFIED_AT_ONCE)
        self._read()

    @property
    def secure(self) -> bool:
        return self._secure

    def person(self, request: Request) -> Person | None:
        self._read()
        token = request.cookies.get(self.cookie, "")
        with self._lock:
            person, ends = self._sessions.get(_hashed(token), (None, 0.0))
            return person if time.monotonic() < ends else None

    def log_in(self, name: str, password: str) -> str | None:
        """Return the new session's cookie, None if name or password is wrong. Raises `TooManyTries`."""
        self._read()
        self._count_try()
        hashed, person = self._people.get(name, (_NOBODY, None))
        try:
            with self._verifying:
                _HASHER.verify(hashed, password[:PASSWORD_LIMIT])
        except (Argon2Error, InvalidHashError):
            return None
        if person is None:
            return None
        token = secrets.token_urlsafe(32)
        self._read()
        with self._lock:
            if self._people.get(name) != (hashed, person):  # the file was changed while the password was verified
                return None
            while len(self._sessions) >= SESSIONS:
                self._sessions.pop(next(iter(self._sessions)))
            self._sessions[_hashed(token)] = (person, time.monotonic() + SESSION_S)
        return token

    def log_out(self, request: Request) -> None:
        """End the session of a request."""
        with self._lock:
            self._sessions.pop(_hashed(request.cookies.get(self.cookie, "")), None)

    def _count_try(self) -> None:
        now = time.monotonic()
        with self._lock:
            self._tries_left = min(TRIES_AT_ONCE, self._tries_left + (now - self._tried_at) * TRIES_PER_S)
            self._tried_at = now
            if self._tries_left < 1:
                raise TooManyTries
            self._tries_left -= 1

    def _read(self) -> None:
        """Read the file if it has changed. Raises `SettingsError` if it cannot be used."""
        path = self._path
        if path is None:
            raise SettingsError("B2COPY_CONSOLE_PASSWORD_FILE is not set: access by password needs it")
        try:
            state = path.stat()
        except OSError as error:
            raise SettingsError(f"B2COPY_CONSOLE_PASSWORD_FILE: {path}: {error.strerror}") from None
        with self._lock:
            if self._stamp == (state.st_ctime_ns, state.st_ino):
                return
            try:
                self._people = read_people(path)
            except OSError as error:
                raise SettingsError(f"B2COPY_CONSOLE_PASSWORD_FILE: {path}: {error.strerror}") from None
            self._sessions.clear()
            self._stamp = (state.st_ctime_ns, state.st_ino)


def read_people(path: Path) -> dict[str, tuple[str, Person]]:
    """Read the file of people: name -> (hash, person). Raises `SettingsError` naming the line that is wrong."""
    where = f"B2COPY_CONSOLE_PASSWORD_FILE: {path}"
    if path.stat().st_mode & 0o037:  # the group may read: systemd and Kubernetes mount secrets so
        raise SettingsError(f"{where} may be read by others: chmod 600 {path}")
    people: dict[str, tuple[str, Person]] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise SettingsError(f"{where} is not UTF-8 text: `b2copy-sync console-user` writes it") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            name, hashed, roles = line.split(":")
            person = Person(name, frozenset(Role(role) for role in roles.split(",")))
        except ValueError:
            raise SettingsError(f"{where}: line {number} is not name:hash:roles") from None
        if name in people:
            raise SettingsError(f"{where}: line {number} names {name!a} a second time: which one counts?")
        people[name] = hashed, person
    return people


def set_person(path: Path, name: str, password: str, roles: list[Role]) -> None:
    """Add a person to the file or change one. Raises `SettingsError` for a name or password that cannot be used."""
    if not name.isprintable() or ":" in name or not 0 < len(name.strip()) <= NAME_LIMIT or name != name.strip():
        raise SettingsError("the name must be printable, without a colon and without spaces at its ends")
    if not PASSWORD_MIN <= len(password) <= PASSWORD_LIMIT:
        raise SettingsError(f"the password must have {PASSWORD_MIN} to {PASSWORD_LIMIT} characters")
    added = f"{name}:{_HASHER.hash(password)}:{','.join(roles)}"
    try:
        with _changing_files_in(path.parent):
            before, owner = _read_private(path)
            lines = [line for line in before.splitlines() if line.partition(":")[0] != name]
            _replace(path, "\n".join([*lines, added]) + "\n", owner)
    except PermissionError:
        raise SettingsError(f"{path} belongs to another user: run this as that user, or as root") from None


@contextmanager
def _changing_files_in(folder: Path) -> Iterator[None]:
    """Wait until no other `console-user` changes a file in this folder, because one would lose the other's person."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read_private(path: Path) -> tuple[str, os.stat_result | None]:
    """Return the text of a file and whose it is; no text and nobody if there is no such file.

    Both come from one descriptor and through no link: root may read the file in a folder of another user, who could put
    another file in its place between the two.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return "", None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SettingsError(f"{path} is a link: name the file itself") from None
        raise
    with os.fdopen(descriptor, encoding="utf-8-sig") as file:
        return file.read(), os.fstat(descriptor)


def _replace(path: Path, text: str, owner: os.stat_result | None) -> None:
    """Replace a private file as a whole. Its owner stays, because root may write the file of the console's user."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)  # of a process that was killed
    descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            os.fchmod(descriptor, 0o600)  # independent of the umask
            if owner is not None and owner.st_uid != os.fstat(descriptor).st_uid:
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            out.write(text)
            out.flush()
            os.fsync(descriptor)
        new.rename(path)
    except BaseException as error:
        new.unlink(missing_ok=True)
        if isinstance(error, OSError):  # that of a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
