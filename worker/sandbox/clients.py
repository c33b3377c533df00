"""Clients of a standalone solution. Field names of a client are not documented: those of the request are used.

Pages "Seamless authorization (only for a standalone solution)" and "Register a client and create their payment account
(only for a standalone solution)".
"""

import base64
import binascii
import itertools
import json
import secrets
import uuid
from typing import Any

from worker.sandbox.effect_log import Effects
from worker.sandbox.fields import check_spellings, text
from worker.sandbox.responses import Refused, enveloped
from worker.sandbox.switches import Switches

Client = dict[str, Any]


class Clients:
    def __init__(self, effects: Effects) -> None:
        self.by_id: dict[int, Client] = {}
        self._effects = effects
        self._ids = itertools.count(1)
        self._visitors: dict[str, tuple[str, str]] = {}  # token in the redirect URL: MT login and platform
        self._wizards: set[str] = set()

    def auth_url(self, body: Any, switches: Switches) -> dict[str, Any]:
        """Return a redirect URL that ends in a token for the MT login. Raises Refused (403) for a wrong secret."""
        login, platform = text(body, "account_id"), text(body, "investment_platform_id")
        check_spellings(body, "secret_key", "secrete_key")
        if text(body, "secret_key") != switches.secret_key:
            raise Refused(403, "secret_key is wrong")
        token = secrets.token_urlsafe(16)
        self._visitors[token] = (login, platform)
        return enveloped({"url": f"https://copy.broker.example/{token}"})

    def init(self) -> dict[str, Any]:
        """Return the UUID of a new wizard."""
        wizard = str(uuid.uuid4())
        self._wizards.add(wizard)
        return enveloped({"uuid": wizard, "workflow": "side_login"})

    def register(self, wizard: str, body: Any, mono: float, switches: Switches) -> dict[str, Any]:
        """Register a client; wizard and token are valid for one registration.

        Raises Refused: 400 a field, 403 the token, 404 the wizard, 409 the login is registered already.
        """
        if wizard not in self._wizards:
            raise Refused(404, "unknown wizard")
        login, token = text(body, "side_login"), text(body, "token")
        platform = text(body, "investment_platform_id")
        _check_fingerprint(text(body, "device_fingerprint"))
        if self._visitors.get(token) != (login, platform):
            raise Refused(403, "the token does not belong to this login on this platform")
        existing = self._find(login, platform)
        if existing and switches.duplicate_clients == "refused":
            raise Refused(409, f"login {login} is registered already")
        if existing and switches.duplicate_clients == "returned":
            return enveloped(_answer(existing, wizard, switches))
        self._wizards.discard(wizard)
        del self._visitors[token]
        number = next(self._ids)
        client = {
            "id": number,
            "side_login": login,
            "investment_platform_id": platform,
            "payment_account": {"id": next(self._ids)},
        }
        self.by_id[number] = client
        self._effects.record("clients.register", f"{platform}/{login}", mono)
        return enveloped(_answer(client, wizard, switches))

    def _find(self, login: str, platform: str) -> Client | None:
        for client in self.by_id.values():
            if (client["side_login"], client["investment_platform_id"]) == (login, platform):
                return client
        return None


def _answer(client: Client, wizard: str, switches: Switches) -> dict[str, Any]:
    """Return what the end of a wizard answers. The wizard has an id of its own."""
    finished = {"id": 4711, "uuid": wizard, "workflow": "side_login", "state": "finished"}
    match switches.registration_answer:
        case "client":
            return client
        case "wizard_with_client":
            return {**finished, "client": client}
        case "wizard":
            return finished


def _check_fingerprint(fingerprint: str) -> None:
    try:
        decoded = json.loads(base64.b64decode(fingerprint, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise Refused(400, "device_fingerprint must be Base64 of JSON") from None
    if not isinstance(decoded, dict) or "user_agent" not in decoded:
        raise Refused(400, "device_fingerprint must hold user_agent")
