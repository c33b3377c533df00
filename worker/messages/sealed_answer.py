"""An answer that only the asking process can read: HPKE (RFC 9180) to a key pair which that process makes for one read.

The message carries the public key. The private one never leaves the memory of the process. So what opens an answer is
neither in Redis nor in its files.
"""

import base64
import binascii

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_INFO = "b2copy-sync answer "  # the read's id follows: an answer to another read cannot be opened


class OneTimeKey:
    """The key pair of one read. `public` is its public key as text."""

    __slots__ = ("_private", "public")

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        raw = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public = base64.b64encode(raw).decode()

    def unseal(self, read_id: str, sealed: bytes) -> bytes | None:
        """Return the content; None if it was not sealed for this read."""
        try:
            return _SUITE.decrypt(sealed, self._private, (_INFO + read_id).encode())
        except (InvalidTag, ValueError):
            return None


class Seal:
    """Seals the answer to one read. Raises `ValueError` if `public` is no public key."""

    __slots__ = ("_info", "_public")

    def __init__(self, read_id: str, public: str) -> None:
        try:
            self._public = X25519PublicKey.from_public_bytes(base64.b64decode(public, validate=True))
        except (binascii.Error, TypeError) as error:
            raise ValueError(f"not base64: {error}") from None
        self._info = (_INFO + read_id).encode()

    def seal(self, content: bytes) -> bytes:
        return _SUITE.encrypt(content, self._public, self._info)
