"""The keys: those of P-256 that sign the login, and those that encrypt the tokens in Redis.

They are read from files only, never from the environment, and no error quotes their text. A file is read again when it
changes, so that writing a file is all it takes to rotate a key.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from worker import secret_file
from worker.errors import CredentialsRejected, SettingsError
from worker.session.pem import load_private_key
from worker.session.secret import Secret
from worker.settings import Settings


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """A private key and the identifier it is registered under at B2COPY."""

    key_id: str
    private: ec.EllipticCurvePrivateKey

    @property
    def fingerprint(self) -> str:
        """Identify the key id and the public key, without showing either."""
        public = self.private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(self.key_id.encode() + b"\0" + public).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"<SigningKey {self.key_id}>"


def signing_keys(settings: Settings) -> list[SigningKey]:
    """Read the signing keys, newest first. An absent file is skipped, so that a key can be announced before it exists.

    Raises `SettingsError` if none exists, or if one that exists is unusable.
    """
    passphrase = None
    if (path := settings.private_key_passphrase_file) is not None:
        passphrase = Secret(secret_file.read("B2COPY_PRIVATE_KEY_PASSPHRASE_FILE", path).rstrip(b"\r\n"))
    found = [
        SigningKey(key_id, _private_key(str(path), secret_file.version(path), passphrase))
        for key_id, path in zip(settings.key_id, settings.private_key_file, strict=True)
        if secret_file.exists(path)
    ]
    if not found:
        names = ", ".join(str(path) for path in settings.private_key_file)
        raise SettingsError(
            f"B2COPY_PRIVATE_KEY_FILE: none of {names} exists; `b2copy-sync keygen` makes a key, or correct the path"
        )
    return found


def storage_keys(settings: Settings) -> MultiFernet:
    """Read the keys that encrypt the tokens in Redis; the first one encrypts, all decrypt. Raises `SettingsError`."""
    return _storage_keys(str(settings.storage_key_file), secret_file.version(settings.storage_key_file))


def fingerprint(settings: Settings) -> str:
    """Identify the signing keys that exist now: it changes when one is added, removed or replaced."""
    try:
        found = signing_keys(settings)
    except SettingsError:
        return "none"
    return hashlib.sha256("".join(key.fingerprint for key in found).encode()).hexdigest()[:16]


@contextmanager
def key_errors_as_refused_login() -> Iterator[None]:
    """Convert `SettingsError` to `CredentialsRejected`.

    At start a bad key file stops the process; later it must only make operations wait.
    """
    try:
        yield
    except SettingsError as error:
        raise CredentialsRejected(str(error)) from None


def check(settings: Settings) -> None:
    """Read every key file once, at start. Raises `SettingsError` with a line for each that is unusable."""
    problems = []
    for read in (signing_keys, storage_keys):
        try:
            read(settings)
        except SettingsError as error:
            problems.append(str(error))
    if problems:
        raise SettingsError("\n".join(problems))


def generate(private: Path, public: Path) -> None:
    """Write a new P-256 key: PKCS#8 PEM with mode 0600, its public half beside it with 0644.

    Raises `FileExistsError` rather than overwrite a key, and leaves none if one of the two files cannot be written.
    B2COPY's integration guide does the same with openssl.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    pkcs8 = serialization.PrivateFormat.PKCS8
    secret_file.write(
        private, key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption()), 0o600
    )
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        secret_file.write(public, key.public_key().public_bytes(serialization.Encoding.PEM, spki), 0o644)
    except OSError:
        private.unlink()
        raise


def generate_storage(path: Path) -> None:
    """Write a new storage key file, mode 0600. Raises `FileExistsError` rather than overwrite one."""
    secret_file.write(path, Fernet.generate_key() + b"\n", 0o600)


@lru_cache(maxsize=16)
def _private_key(path: str, version: tuple[int, ...], passphrase: Secret[bytes] | None) -> ec.EllipticCurvePrivateKey:
    setting = "B2COPY_PRIVATE_KEY_FILE"
    found = load_private_key(secret_file.read(setting, Path(path)), passphrase)
    if isinstance(found, str):
        raise SettingsError(f"{setting}: {path} {found}")
    return found


@lru_cache(maxsize=16)
def _storage_keys(path: str, version: tuple[int, ...]) -> MultiFernet:
    setting = "B2COPY_STORAGE_KEY_FILE"
    found = _fernets(secret_file.read(setting, Path(path)))
    if isinstance(found, int):
        raise SettingsError(
            f"{setting}: line {found} of {path} is not urlsafe base64 of 32 bytes; see `b2copy-sync keygen --storage`"
        )
    if not found:
        raise SettingsError(f"{setting}: {path} is empty; `b2copy-sync keygen --storage` makes a key")
    return MultiFernet(found)


def _fernets(text: bytes) -> list[Fernet] | int:
    """Return the keys, one per line, or the number of the first line that is none. It raises nothing."""
    keys = []
    for number, line in enumerate(text.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        try:
            if line.strip():
                keys.append(Fernet(line.strip()))
        except ValueError:
            return number
    return keys
