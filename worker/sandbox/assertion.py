"""The ES256 assertion of a login, checked as strictly as the documentation allows.

https://docs.b2copy.b2broker.com, "Integrate your external CRM system with B2COPY API"
"""

import ipaddress
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from worker.sandbox.responses import Refused
from worker.sandbox.switches import Switches

_CLAIMS = {"admin_id", "device_ip", "key_id", "iss", "iat", "exp"}


class Keys:
    """The registered public keys, and the assertions that were used."""

    def __init__(self) -> None:
        self._registered: dict[str, ec.EllipticCurvePublicKey] = {}
        self._used: dict[str, float] = {}

    def register(self, key_id: str, pem: str) -> None:
        """Raises ValueError unless the PEM holds a P-256 public key."""
        key = load_pem_public_key(pem.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("ES256 needs a P-256 public key (RFC 7518 section 3.4)")
        self._registered[key_id] = key

    def withdraw(self, key_id: str) -> None:
        self._registered.pop(key_id, None)

    def copy(self) -> "Keys":
        """Return a copy with the same keys and no used assertion."""
        keys = Keys()
        keys._registered = dict(self._registered)
        return keys

    def names(self) -> list[str]:
        return sorted(self._registered)

    def check(self, assertion: str, peer: str, now: float, switches: Switches) -> str:
        """Return the key id of a valid assertion. Raises Refused (401) with the reason."""
        try:
            # The key id is a claim, not in the JOSE header. So read the claims first, then verify them with that key.
            unverified = jwt.decode(assertion, options={"verify_signature": False})
            key_id = unverified.get("key_id")
            if not isinstance(key_id, str) or key_id not in self._registered:
                raise Refused(401, "key_id is not registered")
            claims = jwt.decode(
                assertion,
                self._registered[key_id],
                algorithms=["ES256"],
                options={"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False},
            )
        except (jwt.PyJWTError, ValueError) as error:
            raise Refused(401, f"external_token is not a valid ES256 JWT: {error}") from None
        _check_claims(claims, peer, now, switches)
        if switches.assertion_single_use:
            self._mark_used(assertion, claims["exp"] + switches.clock_skew, now)
        return key_id

    def _mark_used(self, assertion: str, until: float, now: float) -> None:
        if assertion in self._used:
            raise Refused(401, "external_token was used before")
        self._used = {used: end for used, end in self._used.items() if end > now}
        self._used[assertion] = until


def _check_claims(claims: dict[str, Any], peer: str, now: float, switches: Switches) -> None:
    unknown = claims.keys() - _CLAIMS
    if unknown and switches.extra_claims == "refused":
        raise Refused(401, f"unexpected claims: {', '.join(sorted(unknown))}")
    if missing := _CLAIMS - claims.keys():
        raise Refused(401, f"missing claims: {', '.join(sorted(missing))}")
    _check_admin(claims["admin_id"], switches)
    _check_times(claims["iat"], claims["exp"], now, switches)
    _check_device(claims["device_ip"], peer, switches)
    if not isinstance(claims["iss"], str) or not claims["iss"]:
        raise Refused(401, "iss must be a name")


def _check_admin(admin_id: Any, switches: Switches) -> None:
    allowed = {"integer": (int,), "string": (str,), "either": (int, str)}[switches.admin_id_type]
    if isinstance(admin_id, bool) or not isinstance(admin_id, allowed):
        raise Refused(401, f"admin_id must be {switches.admin_id_type}")
    if str(admin_id) != switches.admin_id:
        raise Refused(401, "admin_id is not a service admin")


def _check_times(iat: Any, exp: Any, now: float, switches: Switches) -> None:
    if type(iat) is not int or type(exp) is not int:
        raise Refused(401, "iat and exp must be whole seconds")
    if iat > now + switches.clock_skew:
        raise Refused(401, "iat is in the future")
    if exp <= now - switches.clock_skew:
        raise Refused(401, "external_token has expired")
    if not 0 < exp - iat <= switches.assertion_max_life:
        raise Refused(401, f"exp - iat must not exceed {switches.assertion_max_life:g} s")


def _check_device(device_ip: Any, peer: str, switches: Switches) -> None:
    try:
        address = str(ipaddress.ip_address(device_ip if isinstance(device_ip, str) else ""))
    except ValueError:
        raise Refused(401, "device_ip must be an IP address") from None
    if switches.device_ip == "peer" and address != peer:
        raise Refused(401, f"device_ip {address} is not the address of the request, {peer}")
    if switches.device_ip == "listed" and address not in switches.device_ips:
        raise Refused(401, f"device_ip {address} is not on the allow-list")
