"""Tokens at rest: encrypted, and bound to the place and generation they were stored for."""

import json
from dataclasses import dataclass

from cryptography.fernet import InvalidToken, MultiFernet


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """What a sealed blob holds."""

    access: str
    refresh: str | None


def seal(keys: MultiFernet, place: str, generation: int, secrets: Secrets) -> bytes:
    """Encrypt a pair for `place` (its Redis key) and `generation`."""
    content = {"access": secrets.access, "refresh": secrets.refresh, "gen": generation, "key": place}
    return keys.encrypt(json.dumps(content).encode())


def unseal(keys: MultiFernet, place: str, generation: int, blob: bytes) -> Secrets | None:
    """Decrypt a pair; None if it cannot be, or was moved here from elsewhere: then it is no session."""
    try:
        content = json.loads(keys.decrypt(blob))
    except (InvalidToken, ValueError):
        return None
    if content.get("gen") != generation or content.get("key") != place:
        return None
    return Secrets(content["access"], content["refresh"])
