"""Key files: the P-256 keys that sign the login, and the keys that encrypt the tokens in Redis.

They are read from files alone, never from the environment, and no error ever quotes their text. A file is read again
when it changes, so that rotating a key means writing a file.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from worker.errors import CredentialsRejected, SettingsError
from worker.settings import Settings

_TOO_OPEN = 0o037  # group may read (Kubernetes does), nobody else may do anything
_LARGEST = 64 * 1024  # bytes: no key file is larger


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """A private key and the identifier it is registered under at B2COPY."""

    key_id: str
    private: ec.EllipticCurvePrivateKey

    @property
    def fingerprint(self) -> str:
        """Identify the key id and the public key, without telling either."""
        public = self.private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(self.key_id.encode() + b"\0" + public).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"<SigningKey {self.key_id}>"


def signing_keys(settings: Settings) -> list[SigningKey]:
    """Read the signing keys, newest first; an absent file is skipped, so that a key can be announced before it exists.

    Raises `SettingsError` when there is none at all, or when one that exists is unusable.
    """
    passphrase = None
    if settings.private_key_passphrase_file is not None:
        secret = _read("B2COPY_PRIVATE_KEY_PASSPHRASE_FILE", settings.private_key_passphrase_file)
        passphrase = secret.rstrip(b"\r\n")
    found = [
        SigningKey(key_id, _private_key(str(path), _version(path), passphrase))
        for key_id, path in zip(settings.key_id, settings.private_key_file, strict=True)
        if path.exists()
    ]
    if not found:
        names = ", ".join(str(path) for path in settings.private_key_file)
        raise SettingsError(
            f"B2COPY_PRIVATE_KEY_FILE: none of {names} exists; `b2copy-sync keygen` makes a key, or correct the path"
        )
    return found


def storage_keys(settings: Settings) -> MultiFernet:
    """Read the keys that encrypt the tokens in Redis; the first one encrypts, all decrypt. Raises `SettingsError`."""
    return _storage_keys(str(settings.storage_key_file), _version(settings.storage_key_file))


def fingerprint(settings: Settings) -> str:
    """Identify the signing keys there are now: it changes when one comes, goes or is replaced."""
    try:
        found = signing_keys(settings)
    except SettingsError:
        return "none"
    return hashlib.sha256("".join(key.fingerprint for key in found).encode()).hexdigest()[:16]


@contextmanager
def at_work() -> Iterator[None]:
    """Once started, an unusable key file is a login that cannot be made: operations wait for it, none fails."""
    try:
        yield
    except SettingsError as error:
        raise CredentialsRejected(str(error)) from None


def check(settings: Settings) -> None:
    """Read every key file once, at start. Raises `SettingsError` with a line for each that is unusable."""
    problems = []
    if settings.ca_file is not None and not settings.ca_file.is_file():
        problems.append(f"B2COPY_CA_FILE: {settings.ca_file} is not a file; correct the path")
    for read in (signing_keys, storage_keys):
        try:
            read(settings)
        except SettingsError as error:
            problems.append(str(error))
    if problems:
        raise SettingsError("\n".join(problems))


def generate(private: Path, public: Path) -> None:
    """Write a new P-256 key: PKCS#8 PEM with mode 0600, its public half beside it with 0644.

    Raises `FileExistsError` rather than overwrite a key. The same as B2COPY's integration guide does with openssl.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.PrivateFormat.PKCS8
    _write(private, key.private_bytes(serialization.Encoding.PEM, pem, serialization.NoEncryption()), mode=0o600)
    _write(
        public,
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        mode=0o644,
    )


def generate_storage(path: Path) -> None:
    """Write a new storage key file, mode 0600. Raises `FileExistsError` rather than overwrite one."""
    _write(path, Fernet.generate_key() + b"\n", mode=0o600)


@lru_cache(maxsize=16)
def _private_key(path: str, version: tuple[int, ...], passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
    name = "B2COPY_PRIVATE_KEY_FILE"
    text = _read(name, Path(path))
    how = "make one with `b2copy-sync keygen`, or openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
    if b"PRIVATE KEY" not in text:
        kind = "a public key" if b"PUBLIC KEY" in text else "no PEM private key"
        raise SettingsError(f"{name}: {path} holds {kind}; {how}")
    encrypted = b"ENCRYPTED" in text
    if encrypted and passphrase is None:
        raise SettingsError(
            f"{name}: {path} is encrypted; name the file with its passphrase in {name[:-5]}_PASSPHRASE_FILE"
        )
    try:
        key = serialization.load_pem_private_key(text, password=passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's own words are dropped: they may quote what it read.
        reason = "the passphrase does not open it" if encrypted else "it cannot be parsed"
        raise SettingsError(f"{name}: {path} is unusable: {reason}; {how}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SettingsError(f"{name}: {path} is not a P-256 key, which ES256 needs (RFC 7518 section 3.4); {how}")
    return key


@lru_cache(maxsize=16)
def _storage_keys(path: str, version: tuple[int, ...]) -> MultiFernet:
    name = "B2COPY_STORAGE_KEY_FILE"
    keys = []
    for number, line in enumerate(_read(name, Path(path)).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            keys.append(Fernet(line.strip()))
        except ValueError:
            raise SettingsError(
                f"{name}: line {number} of {path} is not urlsafe base64 of 32 bytes; see `b2copy-sync keygen --storage`"
            ) from None
    if not keys:
        raise SettingsError(f"{name}: {path} is empty; `b2copy-sync keygen --storage` makes a key")
    return MultiFernet(keys)


def _version(path: Path) -> tuple[int, ...]:
    """What changes when the file does; symlinks are followed, as Kubernetes swaps those."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


def _read(name: str, path: Path) -> bytes:
    """Read a secret file that is nobody else's to read or write. Raises `SettingsError` naming the setting."""
    try:
        # O_NONBLOCK: opening a pipe must not hang the start.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            for problem in _problems(found):
                raise SettingsError(f"{name}: {path} {problem}")
            return file.read(_LARGEST)
    except OSError as error:
        raise SettingsError(
            f"{name}: {path} cannot be read ({error.strerror}); correct the path or its owner"
        ) from None


def _problems(found: os.stat_result) -> Iterator[str]:
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        yield "is not a regular file"
    if mode & _TOO_OPEN:
        yield f"has mode {mode:04o}, so that others may read or change it; chmod 600 (or 640) it"
    if found.st_uid not in {0, os.geteuid()}:
        yield "belongs to another user; chown it to the user this runs as"
    if found.st_size > _LARGEST:
        yield "is too large to be a key"


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # whatever the umask says
        file.write(content)
