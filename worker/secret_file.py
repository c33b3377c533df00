"""Files that hold a secret: read only if no other user may read or change them, written with such a mode."""

import errno
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from worker.errors import SettingsError

_FORBIDDEN = 0o037  # the group may read, as it does in Kubernetes; others may do nothing
_SIZE_LIMIT = 64 * 1024  # bytes; no key file is larger


def exists(path: Path) -> bool:
    """Return whether there is a file, readable or not. True also if the folder cannot be searched."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def version(path: Path) -> tuple[int, ...]:
    """Return what changes when the file does. Symlinks are followed, because Kubernetes swaps those."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


def read(setting: str, path: Path) -> bytes:
    """Read a secret file. Raises `SettingsError` naming the setting. Do not bind the result in a frame that raises."""
    try:
        # O_NONBLOCK: opening a pipe must not hang the start.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if problem := _problem(os.fstat(file.fileno())):
                raise SettingsError(f"{setting}: {path} {problem}")
            return file.read(_SIZE_LIMIT)
    except OSError as error:
        raise SettingsError(
            f"{setting}: {path} cannot be read ({error.strerror}); correct the path, its owner, or its folder's mode"
        ) from None


def check_line(setting: str, path: Path, text: Callable[[], str]) -> None:
    """Raise `SettingsError` unless the secret that was read is one line of UTF-8 text.

    `text` returns the secret, decoded with `errors="replace"`: a function, so that no frame of the error holds it.
    """
    if problem := problem_of_line(text()):
        raise SettingsError(f"{setting}: {path} {problem}")


def problem_of_line(text: str) -> str:
    """Return why a secret, decoded with `errors="replace"`, is not one line of UTF-8 text; empty if it is."""
    if text and text.isprintable() and "\ufffd" not in text:
        return ""
    return "must hold one line of UTF-8 text, without a byte order mark or other invisible characters"


def write(path: Path, content: bytes, mode: int, replace: bool = False) -> None:
    """Write a file as a whole or not at all: beside `path`, and then under this name, so that no reader finds a part.

    Raises `FileExistsError` rather than overwrite one, unless `replace`. Each `OSError` names `path`.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # independent of the umask
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if replace:
            beside.rename(path)
        else:
            _link(beside, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):
            beside.unlink()


def _link(beside: Path, path: Path) -> None:
    """Give a file its name. Unlike a rename this fails if there is such a file; not every file system has links."""
    try:
        path.hardlink_to(beside)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS} or path.exists():
            raise
        beside.rename(path)


def _problem(found: os.stat_result) -> str:
    """Return why a file must not hold a secret; empty if it may."""
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    if mode & _FORBIDDEN:
        return (
            f"has mode {mode:04o}, so that others may read or change it; chmod 600 (or 640) it,"
            " or in a mounted secret set defaultMode 0440 (Kubernetes) or mode 0400 (Docker)"
        )
    if found.st_uid not in {0, os.geteuid()}:
        return "belongs to another user; chown it to the user this runs as"
    if found.st_size > _SIZE_LIMIT:
        return "is too large to be a key"
    return ""
