"""Generation 1: the Back Office's sign-in, its accounts, and a standalone solution's clients.

Pages of docs.b2copy.b2broker.com are named at each method. Field names of accounts and clients are not documented:
those of the request are used.
"""

import base64
import binascii
import itertools
import json
import secrets
import time
import uuid
from typing import Any

from worker.sandbox.effect_log import Effects
from worker.sandbox.responses import Refused
from worker.sandbox.switches import Switches

SIGN_IN = "/api/v2/signin"
ACCOUNTS = "/api/v2/b2copy/accounts"
CREATE = "/api/v2/b2copy/accounts/create"
AUTH_URL = "/api/v1/standalone/auth/getAuthUrl"
INIT = "/api/v1/standalone/auth/init"
WIZARDS = "/api/v1/wizards/"

_WANTED = {  # an account's required fields
    "clientId": int,
    "investmentPlatformId": int,
    "accountNumber": str,
    "productCurrencyId": int,
    "isMaster": int,
}


class BackOffice:
    def __init__(self, effects: Effects) -> None:
        self.accounts: list[dict[str, Any]] = []
        self.clients: dict[int, dict[str, Any]] = {}
        self._effects = effects
        self._ids = itertools.count(1)
        self._signed_in: dict[str, float] = {}
        self._visitors: dict[str, str] = {}  # token in the redirect URL: MT login
        self._workflows: set[str] = set()

    def sign_in(self, body: Any, mono: float, now: float, switches: Switches) -> dict[str, Any]:
        """Page "Authorization in the Back Office"."""
        if _field(body, "email", str) != switches.email or _field(body, "password", str) != switches.password:
            raise Refused(401, "wrong e-mail or password")
        if switches.two_factor:
            return {"2faRequired": True}
        access = "bo_" + secrets.token_urlsafe(32)
        self._signed_in[access] = mono + switches.access_lifetime
        return {
            "2faRequired": False,
            "accessToken": _dated(access, now, switches.access_lifetime),
            "refreshToken": _dated("br_" + secrets.token_urlsafe(32), now, switches.refresh_lifetime),
        }

    def check(self, access: str, mono: float) -> None:
        if mono >= self._signed_in.get(access, 0.0):
            raise Refused(401, "not signed in, or no longer")

    def sign_out_all(self) -> None:
        self._signed_in.clear()

    def list_accounts(self, query: dict[str, str], body: Any, switches: Switches) -> list[dict[str, Any]]:
        """Page "Get a list of Master and Investment accounts": its parameters stand in the body of a GET."""
        given: dict[str, Any] = {}
        if switches.list_parameters in {"query", "either"}:
            given |= query
        if switches.list_parameters in {"body", "either"} and isinstance(body, dict):
            given |= body
        found = [account for account in self.accounts if _matches(account, given)]
        found.sort(key=lambda account: str(account["createdAt"]), reverse=given.get("sort_order") == "desc")
        offset, limit = _number(given, "offset", 0), _number(given, "limit", 100)
        return found[offset : offset + limit]

    def create_account(self, body: Any, now: float, mono: float, switches: Switches) -> dict[str, Any]:
        """Page "Create a Master or Investment account using the existing MT account"."""
        wanted = {name: _field(body, name, kind) for name, kind in _WANTED.items()}
        if wanted["isMaster"] not in {0, 1}:
            raise Refused(400, "isMaster must be 0 or 1")
        if switches.clients == "registered" and wanted["clientId"] not in self.clients:
            raise Refused(404, f"client {wanted['clientId']} is not registered")
        number, platform = wanted["accountNumber"], wanted["investmentPlatformId"]
        for account in self.accounts:
            if (account["accountNumber"], account["investmentPlatformId"]) == (number, platform):
                if switches.duplicates == "refused":
                    raise Refused(409, f"account {number} exists already")
                if switches.duplicates == "returned":
                    return account
        optional = {name: body[name] for name in ("accountName", "accountDescription") if name in body}
        account = {"id": next(self._ids), **wanted, **optional, "createdAt": _date(now)}
        self.accounts.append(account)
        self._effects.record("accounts.create", f"{platform}/{number}", mono, body)
        return account

    def auth_url(self, body: Any, switches: Switches) -> dict[str, Any]:
        """Page "Seamless authorization (only for a standalone solution)"."""
        login = _field(body, "account_id", str)
        _field(body, "investment_platform_id", str)
        if switches.secret_key is None or _field(body, "secret_key", str) != switches.secret_key:
            raise Refused(403, "secret_key is wrong")
        token = secrets.token_urlsafe(16)
        self._visitors[token] = login
        return enveloped({"url": f"https://copy.broker.example/{token}"})

    def init(self) -> dict[str, Any]:
        """Page "Register a client and create their payment account (only for a standalone solution)", first step."""
        workflow = str(uuid.uuid4())
        self._workflows.add(workflow)
        return enveloped({"uuid": workflow, "workflow": "side_login"})

    def register_client(self, workflow: str, body: Any, mono: float, switches: Switches) -> dict[str, Any]:
        """The same page, second step. The workflow and the token are good for one registration."""
        if workflow not in self._workflows:
            raise Refused(404, "unknown wizard")
        login = _field(body, "side_login", str)
        token = _field(body, "token", str)
        platform = _field(body, "investment_platform_id", str)
        _check_fingerprint(_field(body, "device_fingerprint", str))
        if self._visitors.get(token) != login:
            raise Refused(403, "the token does not belong to this login")
        for client in self.clients.values():
            if (client["side_login"], client["investment_platform_id"]) == (login, platform):
                if switches.duplicates == "refused":
                    raise Refused(409, f"login {login} is registered already")
                if switches.duplicates == "returned":
                    return enveloped(client)
        self._workflows.discard(workflow)
        del self._visitors[token]
        number = next(self._ids)
        payment_account = {"id": next(self._ids)}
        self.clients[number] = {
            "id": number,
            "side_login": login,
            "investment_platform_id": platform,
            "payment_account": payment_account,
        }
        self._effects.record("clients.register", f"{platform}/{login}", mono)
        return enveloped(self.clients[number])


def enveloped(data: Any) -> dict[str, Any]:
    return {"status": 200, "meta": {"behaviours": [], "status": 200}, "data": data}


def _field(body: Any, name: str, kind: type) -> Any:
    value = body.get(name) if isinstance(body, dict) else None
    if type(value) is not kind or value == "":
        raise Refused(400, f"{name} must be {'a non-empty string' if kind is str else 'a whole number'}")
    return value


def _number(given: dict[str, Any], name: str, otherwise: int) -> int:
    try:
        return int(given.get(name, otherwise))
    except (TypeError, ValueError):
        raise Refused(400, f"{name} must be a whole number") from None


def _matches(account: dict[str, Any], given: dict[str, Any]) -> bool:
    names = {"investment_platform_id": "investmentPlatformId", "account_number": "accountNumber"}
    for parameter, field in names.items():
        if parameter in given and str(given[parameter]) != str(account[field]):
            return False
    if "is_master" in given:
        return (str(given["is_master"]).lower() in {"1", "true"}) == bool(account["isMaster"])
    return True


def _check_fingerprint(text: str) -> None:
    try:
        fingerprint = json.loads(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise Refused(400, "device_fingerprint must be Base64 of JSON") from None
    if not isinstance(fingerprint, dict) or "user_agent" not in fingerprint:
        raise Refused(400, "device_fingerprint must hold user_agent")


def _dated(token: str, now: float, life: float) -> dict[str, str]:
    return {"token": token, "createdAt": _date(now), "expiresAt": _date(now + life)}


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(at))
