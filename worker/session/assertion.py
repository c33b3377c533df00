"""The signed assertion a service admin logs in with.

Source: B2COPY's "Integrate your external CRM system with B2COPY API"; ES256 is RFC 7518 section 3.4.
"""

from collections.abc import Callable

import jwt

from worker.session.key_files import SigningKey
from worker.settings import Settings


def assertion(settings: Settings, key: SigningKey, now: Callable[[], float], backdate: float = 30.0) -> str:
    """Sign a new assertion: the documented claims and no others.

    `now` gives Unix seconds as B2COPY's clock has them. `iat` is back-dated against what is left of the skew, and
    `exp - iat` stays the configured life (at most 1800 s). One is made for every attempt: B2COPY may take each once.
    """
    issued = int(now() - backdate)
    claims = {
        "admin_id": int(settings.admin_id) if settings.admin_id_type == "integer" else settings.admin_id,
        "device_ip": settings.device_ip,
        "key_id": key.key_id,
        "iss": settings.issuer,
        "iat": issued,
        "exp": issued + int(settings.assertion_ttl),
    }
    return jwt.encode(claims, key.private, algorithm="ES256")
