"""The sandbox's generation 1: sign-in, accounts, clients."""

import base64
from typing import Any

import pytest
import requests

from tests.sandbox.caller import Caller
from worker.sandbox.control_client import SandboxControl
from worker.sandbox.routes import ACCOUNTS, AUTH_URL, CREATE, INIT, SIGN_IN, WIZARDS

ACCOUNT = {
    "clientId": 5,
    "investmentPlatformId": 1,
    "accountNumber": "700100",
    "productCurrencyId": 2,
    "isMaster": 1,
}
FINGERPRINT = base64.b64encode(b'{"user_agent": "test"}').decode()


def accounts(caller: Caller, token: str, query: dict[str, Any], body: dict[str, Any] | None = None) -> list[Any]:
    headers = {"Authorization": f"Bearer {token}"}
    url = caller.base_url + ACCOUNTS
    found: list[Any] = caller.http.get(url, params=query, json=body, headers=headers, timeout=5).json()
    return found


def sign_in(caller: Caller, password: str = "sandbox") -> requests.Response:
    return caller.post(SIGN_IN, {"email": "office@broker.example", "password": password})


class TestSignIn:
    def test_answers_dated_tokens(self, caller: Caller) -> None:
        told = sign_in(caller).json()

        assert told["2faRequired"] is False
        assert set(told["accessToken"]) == set(told["refreshToken"]) == {"token", "createdAt", "expiresAt"}

    def test_is_refused_with_a_wrong_password(self, caller: Caller) -> None:
        assert sign_in(caller, "wrong").status_code == 401

    def test_may_want_a_second_factor_that_nobody_documents(self, caller: Caller, sandbox: SandboxControl) -> None:
        sandbox.switches(two_factor=True)

        assert sign_in(caller).json() == {"2faRequired": True}

    @pytest.mark.parametrize(
        ("opens", "crm", "office"), [("external_crm", 200, 401), ("back_office", 401, 200), ("either", 200, 200)]
    )
    def test_which_login_opens_generation_1_is_a_switch(
        self, caller: Caller, sandbox: SandboxControl, opens: str, crm: int, office: int
    ) -> None:
        sandbox.switches(generation1_login=opens, duplicate_accounts="returned")
        tokens = [caller.pair()[0], sign_in(caller).json()["accessToken"]["token"]]

        assert [caller.post(CREATE, ACCOUNT, token).status_code for token in tokens] == [crm, office]


class TestAccounts:
    @pytest.fixture
    def token(self, caller: Caller) -> str:
        return caller.pair()[0]

    def test_are_created_and_found_again(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        created = caller.post(CREATE, ACCOUNT, token).json()

        assert accounts(caller, token, {"account_number": "700100"}) == [created]
        assert accounts(caller, token, {}, {"is_master": False}) == []
        assert [effect["key"] for effect in sandbox.effects("accounts.create")] == ["1/700100"]

    @pytest.mark.parametrize(
        ("duplicates", "status", "times"), [("refused", 409, 1), ("returned", 200, 1), ("created", 200, 2)]
    )
    def test_created_twice_are_what_the_switch_says(
        self, caller: Caller, token: str, sandbox: SandboxControl, duplicates: str, status: int, times: int
    ) -> None:
        sandbox.switches(duplicate_accounts=duplicates)
        caller.post(CREATE, ACCOUNT, token)

        assert caller.post(CREATE, ACCOUNT, token).status_code == status
        assert sandbox.effects("accounts.create")[0]["times"] == times

    def test_may_need_a_registered_client(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        sandbox.switches(clients="registered")

        assert caller.post(CREATE, ACCOUNT, token).status_code == 404

    @pytest.mark.parametrize("wrong", [{"isMaster": 2}, {"clientId": "5"}, {"accountNumber": 700100}])
    def test_are_checked_field_by_field(self, caller: Caller, token: str, wrong: dict[str, Any]) -> None:
        assert caller.post(CREATE, ACCOUNT | wrong, token).status_code == 400

    @pytest.mark.parametrize(("read", "by_query", "by_body"), [("query", 0, 1), ("body", 1, 0)])
    def test_are_searched_by_query_or_body(
        self, caller: Caller, token: str, sandbox: SandboxControl, read: str, by_query: int, by_body: int
    ) -> None:
        sandbox.switches(list_parameters=read)
        caller.post(CREATE, ACCOUNT, token)

        assert len(accounts(caller, token, {"account_number": "other"})) == by_query
        assert len(accounts(caller, token, {}, {"account_number": "other"})) == by_body

    def test_are_listed_page_by_page(self, caller: Caller, token: str) -> None:
        for number in ("1", "2", "3"):
            caller.post(CREATE, ACCOUNT | {"accountNumber": number}, token)

        listed = accounts(caller, token, {"limit": 2, "offset": 1})

        assert [account["accountNumber"] for account in listed] == ["2", "3"]


class TestClients:
    def visitor(self, caller: Caller, login: str = "700100", secret: str = "sandbox-secret") -> requests.Response:
        wanted = {"account_id": login, "secret_key": secret, "investment_platform_id": "1"}
        return caller.post(AUTH_URL, wanted)

    def register(self, caller: Caller, login: str = "700100", **changes: Any) -> requests.Response:
        token = self.visitor(caller, login).json()["data"]["url"].rpartition("/")[2]
        workflow = caller.http.get(caller.base_url + INIT, timeout=5).json()["data"]["uuid"]
        body = {"side_login": login, "token": token, "investment_platform_id": "1", "device_fingerprint": FINGERPRINT}
        return caller.post(WIZARDS + workflow, body | changes)

    def test_are_registered_in_three_steps(self, caller: Caller, sandbox: SandboxControl) -> None:
        client = self.register(caller).json()["data"]

        assert client["side_login"] == "700100"
        assert [effect["key"] for effect in sandbox.effects("clients.register")] == ["1/700100"]

    @pytest.mark.parametrize(
        ("changes", "status"),
        [({"token": "guessed"}, 403), ({"side_login": "1"}, 403), ({"device_fingerprint": "{}"}, 400)],
    )
    def test_are_not_registered_on_a_guess(
        self, caller: Caller, sandbox: SandboxControl, changes: dict[str, Any], status: int
    ) -> None:
        assert self.register(caller, **changes).status_code == status
        assert sandbox.effects() == []

    def test_registered_twice_are_refused(self, caller: Caller) -> None:
        assert [self.register(caller).status_code for _ in range(2)] == [200, 409]

    def test_are_refused_while_the_back_office_holds_no_secret(self, caller: Caller, sandbox: SandboxControl) -> None:
        sandbox.switches(secret_key=None)

        assert self.visitor(caller).status_code == 403
