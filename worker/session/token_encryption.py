"""Tokens at rest: encrypted, and bound to the Redis key and the generation they were stored for."""

import json

from cryptography.fernet import InvalidToken, MultiFernet

from worker.session.secret import Secret
from worker.session.tokens import Pair

_BEGINNING = b"gAAAAA"  # of every Fernet token: version 0x80, and the first bytes of the time until the year 2106


def seal(keys: MultiFernet, key_prefix: str, generation: int, pair: Pair) -> bytes:
    """Encrypt a pair for the session at `key_prefix` and for `generation`."""
    content = {
        "access": pair.access.reveal(),
        "refresh": pair.refresh.reveal() if pair.refresh else None,
        "is_refresh_token_used": pair.is_refresh_token_used,
        "generation": generation,
        "key_prefix": key_prefix,
    }
    return keys.encrypt(json.dumps(content).encode())


def is_of_other_keys(keys: MultiFernet, blob: bytes) -> bool:
    """Return whether the blob looks encrypted, and none of `keys` opens it."""
    try:
        keys.decrypt(blob)
    except InvalidToken:
        return blob.startswith(_BEGINNING)
    return False


def unseal(keys: MultiFernet, key_prefix: str, generation: int, blob: bytes) -> Pair | None:
    """Decrypt a pair. None if no key opens it, or if it was copied here from another session or generation."""
    try:
        content = json.loads(keys.decrypt(blob))
    except (InvalidToken, ValueError):
        return None
    match content:
        case {"access": str(access), "refresh": str() | None as refresh, "generation": at, "key_prefix": prefix}:
            if (at, prefix) == (generation, key_prefix):
                is_refresh_token_used = content.get("is_refresh_token_used") is True
                return Pair(
                    Secret(access), Secret(refresh) if refresh else None, is_refresh_token_used=is_refresh_token_used
                )
    return None
