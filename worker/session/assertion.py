"""The signed assertion a service admin logs in with.

Source: B2COPY's "Integrate your external CRM system with B2COPY API"; ES256 is RFC 7518 section 3.4.
"""

import jwt

from worker.session.key_files import SigningKey
from worker.session.secret import Secret
from worker.settings import Settings


def assertion(settings: Settings, key: SigningKey, now: float, backdate: float = 30.0) -> Secret[str]:
    """Sign a new assertion: the documented claims and no others.

    `now` is in Unix seconds by B2COPY's clock. `iat` is `backdate` seconds earlier, so that a small difference between
    the clocks does no harm, and `exp - iat` is the configured life (at most 1800 s). B2COPY may accept an assertion
    once only, so each attempt needs a new one.
    """
    issued = int(now - backdate)
    claims = {
        "admin_id": int(settings.admin_id) if settings.admin_id_type == "integer" else settings.admin_id,
        "device_ip": settings.device_ip,
        "key_id": key.key_id,
        "iss": settings.issuer,
        "iat": issued,
        "exp": issued + int(settings.assertion_ttl),
    }
    return Secret(jwt.encode(claims, key.private, algorithm="ES256"))
