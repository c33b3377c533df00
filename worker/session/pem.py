"""Parses a private key's PEM file, and says what to do with a good key that is in another shape.

A new key must be registered by B2COPY support, which takes days. So making one is advised only where the file holds no
key that could be used.
"""

import base64
import binascii
import re
from collections.abc import Callable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from worker.session.secret import Secret

_NEW_KEY = "make one with `b2copy-sync keygen` and have B2COPY support register it"
_PASSPHRASE_SETTING = "B2COPY_PRIVATE_KEY_PASSPHRASE_FILE"  # noqa: S105 (the name of a setting)


def load_private_key(text: bytes, passphrase: Secret[bytes] | None) -> ec.EllipticCurvePrivateKey | str:
    """Return the P-256 key in `text`, or what is wrong with the file and the remedy.

    It raises nothing, because its frame holds the key. The library's own error texts are dropped: they may quote it.
    """
    if b"ENCRYPTED" in text and passphrase is None:
        return f"is encrypted; name the file with its passphrase in {_PASSPHRASE_SETTING}"
    key = _parsed(text, passphrase)
    if key is None:
        for remedy, repair in _REPAIRS:
            if (repaired := repair(text)) is not None and _is_p256(_parsed(repaired, passphrase)):
                return remedy
        if b"ENCRYPTED" in text:
            return f"is unusable: the passphrase does not open it; correct {_PASSPHRASE_SETTING}"
        if b"PRIVATE KEY" in text:
            return f"is unusable: it cannot be parsed; copy it again from where it was made, or {_NEW_KEY}"
        kind = (
            "a public key; name the private key's file" if b"PUBLIC KEY" in text else f"no PEM private key; {_NEW_KEY}"
        )
        return f"holds {kind}"
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not _is_p256(key):
        return f"is not a P-256 key, which ES256 needs (RFC 7518 section 3.4); {_NEW_KEY}"
    return key


def _parsed(text: bytes, passphrase: Secret[bytes] | None) -> object | None:
    password = passphrase.reveal() if passphrase is not None and b"ENCRYPTED" in text else None
    try:
        return serialization.load_pem_private_key(text, password=password)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _is_p256(key: object) -> bool:
    return isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)


def _with_line_ends(text: bytes) -> bytes | None:
    return text.replace(b"\\r", b"").replace(b"\\n", b"\n") if b"\\n" in text else None


def _from_utf_16(text: bytes) -> bytes | None:
    try:
        return text.decode("utf-16").encode("ascii") if b"\0" in text else None
    except ValueError:
        return None


def _from_base64(text: bytes) -> bytes | None:
    try:
        return base64.b64decode(b"".join(text.split()), validate=True) or None
    except (binascii.Error, ValueError):
        return None


def _labelled(label: bytes) -> Callable[[bytes], bytes | None]:
    return lambda text: re.sub(rb"(BEGIN|END) (?:EC )?PRIVATE KEY", rb"\1 " + label, text)


def _from_der(text: bytes, label: bytes = b"PRIVATE KEY") -> bytes | None:
    if text[:1] != b"\x30":
        return None
    return b"-----BEGIN %s-----\n%s-----END %s-----\n" % (label, base64.encodebytes(text), label)


def _from_der_of_sec1(text: bytes) -> bytes | None:
    return _from_der(text, b"EC PRIVATE KEY")


_CONVERT_DER = "is in DER form; convert it: openssl pkey -inform DER -in FILE -out key.pem"


_REPAIRS: tuple[tuple[str, Callable[[bytes], bytes | None]], ...] = (
    (r"holds the two characters \n instead of line ends; turn each \n into a line end", _with_line_ends),
    (
        "ends its lines with carriage returns alone; turn them into line feeds: tr '\\r' '\\n'",
        lambda text: text.replace(b"\r", b"\n"),
    ),
    ("is UTF-16 text; save it as plain ASCII: iconv -f UTF-16 -t ASCII", _from_utf_16),
    (_CONVERT_DER, _from_der),
    (_CONVERT_DER, _from_der_of_sec1),
    ("is the base64 of a PEM file; decode it: openssl base64 -d -A -in FILE -out key.pem", _from_base64),
    (
        "lacks its first and last line; put -----BEGIN PRIVATE KEY----- before and -----END PRIVATE KEY----- after it",
        lambda text: _from_der(_from_base64(text) or b""),
    ),
    (
        "is labelled EC PRIVATE KEY but holds PKCS#8; label it PRIVATE KEY in its first and last line",
        _labelled(b"PRIVATE KEY"),
    ),
    (
        "is labelled PRIVATE KEY but holds SEC1; label it EC PRIVATE KEY in its first and last line",
        _labelled(b"EC PRIVATE KEY"),
    ),
)
