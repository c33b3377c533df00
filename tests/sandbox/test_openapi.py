"""The sandbox's answers to each documented route, compared with the OpenAPI document."""

import base64
from typing import Any

import jsonschema
import pytest

from tests.sandbox.caller import Caller
from worker.sandbox.control_client import SandboxControl
from worker.sandbox.openapi import DOCUMENT
from worker.sandbox.routes import CREATE, PROCESS, route_of

ACCOUNT: dict[str, Any] = {
    "clientId": 5,
    "investmentPlatformId": 1,
    "accountNumber": "1",
    "productCurrencyId": 2,
    "isMaster": 0,
}
BODIES: dict[str, Any] = {
    "processext": {"account_login": "1", "request_id": "W"},
    "signin": {"email": "office@broker.example", "password": "sandbox"},
    "accounts.create": ACCOUNT,
    "accounts.list": {"limit": 5},
    "auth_url": {"account_id": "1", "secret_key": "sandbox-secret", "investment_platform_id": "1"},
}


QUERIES: dict[str, dict[str, int]] = {
    "widget.detail": {"investment_platform_id": 1},
    "widget.statistics": {"investment_platform_id": 1},
    "widget.leaderboard": {"investment_platform_id": 1, "platform": 1},
}

OPERATIONS = [
    pytest.param(method.upper(), path, operation, id=operation["operationId"])
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


def schema(operation: dict[str, Any], status: int) -> dict[str, Any]:
    found: dict[str, Any] = operation["responses"][str(status)]["content"]["application/json"]["schema"]
    return found | {"components": DOCUMENT["components"]}


class Documented:
    """A caller that calls any documented route with the body, parameters and token that it needs."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._access, refresh = caller.pair()
        self.tokens = {"accessToken": self._access, "refreshToken": refresh}

    def call(self, method: str, path: str, operation: dict[str, Any]) -> Any:
        name = operation["operationId"]
        needed = [self.tokens[scheme] for security in operation["security"] for scheme in security]
        headers = {"Authorization": f"Bearer {needed[0]}"} if needed else {}
        if name.startswith("widget."):
            self._caller.post(CREATE, ACCOUNT | {"isMaster": 1}, self._access)
        url = self._caller.base_url + path.replace("{account}", ACCOUNT["accountNumber"])
        if name == "wizard":
            url = url.replace("{uuid}", self._new_wizard())
        query = QUERIES.get(name)
        return self._caller.http.request(method, url, params=query, json=self._body(name), headers=headers, timeout=5)

    def _body(self, name: str) -> Any:
        if name == "authexternalcrm":
            return {"external_token": self._caller.assertion()}
        if name == "wizard":
            visitor = self._caller.post("/api/v1/standalone/auth/getAuthUrl", BODIES["auth_url"]).json()["data"]["url"]
            fingerprint = base64.b64encode(b'{"user_agent": "test"}').decode()
            known = {"side_login": "1", "investment_platform_id": "1", "device_fingerprint": fingerprint}
            return known | {"token": visitor.rpartition("/")[2]}
        return BODIES.get(name)

    def _new_wizard(self) -> str:
        init = self._caller.http.get(f"{self._caller.base_url}/api/v1/standalone/auth/init", timeout=5)
        return str(init.json()["data"]["uuid"])


def test_covers_the_twelve_documented_routes() -> None:
    assert len(OPERATIONS) == 12


def test_is_served(caller: Caller) -> None:
    assert caller.http.get(f"{caller.base_url}/openapi.json", timeout=5).json() == DOCUMENT


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_names_the_routes_that_the_sandbox_has(method: str, path: str, operation: dict[str, Any]) -> None:
    assert route_of(method, path) == operation["operationId"]


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
class TestEachRoute:
    def test_answers_as_documented(self, caller: Caller, method: str, path: str, operation: dict[str, Any]) -> None:
        answer = Documented(caller).call(method, path, operation)

        assert answer.status_code == 200, answer.text
        jsonschema.validate(answer.json(), schema(operation, 200))

    def test_refuses_as_documented(
        self, caller: Caller, sandbox: SandboxControl, method: str, path: str, operation: dict[str, Any]
    ) -> None:
        documented = Documented(caller)
        sandbox.faults({"what": "status", "status": 429, "route": operation["operationId"]})

        answer = documented.call(method, path, operation)

        assert answer.status_code == 429
        jsonschema.validate(answer.json(), schema(operation, 429))

    def test_requires_the_documented_credentials(
        self, caller: Caller, method: str, path: str, operation: dict[str, Any]
    ) -> None:
        documented = Documented(caller)
        documented.tokens = {"accessToken": "guessed", "refreshToken": "guessed"}

        answer = documented.call(method, path, operation)

        assert answer.status_code == (401 if operation["security"] else 200)
        jsonschema.validate(answer.json(), schema(operation, answer.status_code))


def test_a_wrong_answer_fails_its_schema() -> None:
    fees = DOCUMENT["paths"][PROCESS]["post"]

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"account_login": "1", "request_id": "W", "status": 9}, schema(fees, 200))
