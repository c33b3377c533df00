"""Key pairs and storage keys for demo and tests. For production use `b2copy-sync keygen`."""

import base64
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


@dataclass(frozen=True)
class KeyPair:
    """A P-256 key pair as in B2COPY's guide: a PKCS#8 file of mode 0600, and the public key as PEM text."""

    key_id: str
    private_file: Path
    public_key: str


def new_key_pair(folder: Path, key_id: str) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    private_file = folder / f"{key_id}.pem"
    write_secret(private_file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public_key = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return KeyPair(key_id, private_file, public_key.decode())


def new_storage_key(folder: Path) -> Path:
    path = folder / "storage.key"
    write_secret(path, base64.urlsafe_b64encode(secrets.token_bytes(32)) + b"\n")
    return path


def write_secret(path: Path, secret: bytes) -> None:
    """Create a file that only its owner may read, from the first moment on. Raises FileExistsError."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
