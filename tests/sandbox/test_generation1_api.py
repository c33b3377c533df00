"""Generation 1 of the sandbox's API: sign-in, accounts, widgets, clients."""

import base64
from typing import Any

import pytest
import requests

from tests.sandbox.caller import Caller
from tests.support import until
from worker.sandbox.control_client import SandboxControl
from worker.sandbox.routes import (
    ACCOUNTS,
    AUTH_URL,
    CREATE,
    DETAIL,
    INIT,
    LEADERBOARD,
    SIGN_IN,
    STATISTICS,
    WIZARDS,
)

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


def numbers(listed: list[Any]) -> list[str]:
    return [account["accountNumber"] for account in listed]


def get(caller: Caller, path: str, token: str, **query: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return caller.http.get(caller.base_url + path, params=query, headers=headers, timeout=5)


def sign_in(caller: Caller, password: str = "sandbox") -> requests.Response:
    return caller.post(SIGN_IN, {"email": "office@broker.example", "password": password})


class TestSignIn:
    def test_answers_dated_tokens(self, caller: Caller) -> None:
        answer = sign_in(caller).json()

        assert answer["2faRequired"] is False
        assert set(answer["accessToken"]) == set(answer["refreshToken"]) == {"token", "createdAt", "expiresAt"}

    def test_is_refused_with_a_wrong_password(self, caller: Caller) -> None:
        assert sign_in(caller, "wrong").status_code == 401

    def test_may_require_a_second_factor(self, caller: Caller, sandbox: SandboxControl) -> None:
        sandbox.switches(two_factor=True)

        assert sign_in(caller).json() == {"2faRequired": True}

    def test_is_refused_while_the_account_is_locked(self, caller: Caller, sandbox: SandboxControl) -> None:
        sandbox.switches(locked=True)

        assert sign_in(caller).status_code == 403
        assert sign_in(caller, "wrong").status_code == 401

    def test_answers_tokens_that_expire(self, caller: Caller, sandbox: SandboxControl) -> None:
        sandbox.switches(sign_in_lifetime=0.5)
        token = sign_in(caller).json()["accessToken"]["token"]
        assert get(caller, ACCOUNTS, token).status_code == 200

        until(lambda: get(caller, ACCOUNTS, token).status_code == 401)

    @pytest.mark.parametrize(
        ("opens", "crm", "office"), [("external_crm", 200, 401), ("back_office", 401, 200), ("either", 200, 200)]
    )
    def test_which_login_is_valid_for_generation_1_is_a_switch(
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

    def test_may_be_forbidden_to_all(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        sandbox.switches(access=False)

        assert get(caller, ACCOUNTS, token).status_code == 403
        assert caller.post(CREATE, ACCOUNT, token).status_code == 403

    def test_may_need_a_registered_client(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        sandbox.switches(clients="registered")

        assert caller.post(CREATE, ACCOUNT, token).status_code == 404

    @pytest.mark.parametrize(
        "wrong", [{"isMaster": 2}, {"clientId": "5"}, {"accountNumber": 700100}, {"clientID": 6}, {"clientID": "5"}]
    )
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

        assert numbers(accounts(caller, token, {"limit": 2, "offset": 1})) == ["2", "3"]
        assert numbers(accounts(caller, token, {"limit": 2, "sort_order": "desc"})) == ["3", "2"]

    def test_a_page_may_be_shorter_than_asked_or_always_the_first(
        self, caller: Caller, token: str, sandbox: SandboxControl
    ) -> None:
        for number in ("1", "2", "3"):
            caller.post(CREATE, ACCOUNT | {"accountNumber": number}, token)

        sandbox.switches(list_limit_max=2)
        assert numbers(accounts(caller, token, {"limit": 3})) == ["1", "2"]

        sandbox.switches(list_pages=False)
        assert numbers(accounts(caller, token, {"limit": 1, "offset": 2})) == ["1", "2"]

    def test_a_search_may_obey_nothing_but_the_number(
        self, caller: Caller, token: str, sandbox: SandboxControl
    ) -> None:
        caller.post(CREATE, ACCOUNT, token)
        wrong = {"email": "x@y.example", "is_master": "false", "investment_platform_id": 2}
        assert accounts(caller, token, wrong) == []

        sandbox.switches(list_filters="ignored")

        assert numbers(accounts(caller, token, wrong)) == ["700100"]
        assert accounts(caller, token, wrong | {"account_number": "7"}) == []

    def test_may_be_listed_in_an_envelope(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        created = caller.post(CREATE, ACCOUNT, token).json()
        sandbox.switches(list_as="enveloped")

        answer: Any = accounts(caller, token, {})

        assert (answer["status"], answer["meta"]["status"], answer["data"]) == (200, 200, [created])

    def test_the_order_may_shift_between_two_pages(self, caller: Caller, token: str, sandbox: SandboxControl) -> None:
        created = [str(number) for number in range(12)]
        for number in created:
            caller.post(CREATE, ACCOUNT | {"accountNumber": number}, token)
        assert numbers(accounts(caller, token, {})) == numbers(accounts(caller, token, {})) == created

        sandbox.switches(list_order="shifting")

        first, second = (numbers(accounts(caller, token, {})) for _ in range(2))
        assert first != second
        assert sorted(first) == sorted(second) == sorted(created)

    def test_may_be_created_with_their_client_in_both_spellings(self, caller: Caller, token: str) -> None:
        assert caller.post(CREATE, ACCOUNT | {"clientID": ACCOUNT["clientId"]}, token).status_code == 200

    @pytest.mark.parametrize(
        "wrong",
        [
            {"limit": -1},
            {"offset": "x"},
            {"sort_by": "name"},
            {"sort_order": "up"},
            {"is_master": "no"},
            {"is_master": ""},
            {"investment_platform_id": "one"},
            {"investment_platform_id": 1, "investmentPlatformId": 2},
        ],
        ids=str,
    )
    def test_a_wrong_parameter_is_refused(self, caller: Caller, token: str, wrong: dict[str, Any]) -> None:
        assert get(caller, ACCOUNTS, token, **wrong).status_code == 400

    @pytest.mark.parametrize("investor", ["false", "False", "0"])
    @pytest.mark.parametrize("master", ["true", "1"])
    def test_are_searched_by_their_type(self, caller: Caller, token: str, investor: str, master: str) -> None:
        caller.post(CREATE, ACCOUNT, token)

        assert numbers(accounts(caller, token, {"is_master": master})) == ["700100"]
        assert accounts(caller, token, {"is_master": investor}) == []

    def test_a_parameter_in_the_body_may_be_no_text(self, caller: Caller, token: str) -> None:
        answer: Any = accounts(caller, token, {}, {"sort_order": ["asc"]})

        assert (answer["code"], answer["message"]) == (3, "sort_order must be asc or desc")

    def test_are_found_by_the_email_of_their_client(self, caller: Caller, token: str) -> None:
        caller.post(CREATE, ACCOUNT, token)

        assert numbers(accounts(caller, token, {"email": "client-5@sandbox.example"})) == ["700100"]
        assert accounts(caller, token, {"email": "client-6@sandbox.example"}) == []


class TestWidgets:
    @pytest.fixture
    def token(self, caller: Caller) -> str:
        token = caller.pair()[0]
        caller.post(CREATE, ACCOUNT | {"accountName": "Ada"}, token)
        caller.post(CREATE, ACCOUNT | {"accountNumber": "700101", "isMaster": 0}, token)
        return token

    @pytest.mark.parametrize("path", [DETAIL, STATISTICS])
    def test_describe_one_account(self, caller: Caller, token: str, path: str) -> None:
        assert get(caller, path + "700100", token, investment_platform_id=1).json()["data"]["id"] == 1
        assert get(caller, path + "700100", token, investment_platform_id=2).status_code == 404
        assert get(caller, path + "1", token, investment_platform_id=1).status_code == 404
        assert get(caller, path + "700100", token).status_code == 400
        for odd in ("x/700100", "700100/", "/700100", "x%2F700100"):
            assert get(caller, path + odd, token, investment_platform_id=1).status_code == 404

    def test_the_leaderboard_lists_masters(self, caller: Caller, token: str) -> None:
        board = get(caller, LEADERBOARD, token, investment_platform_id=1, platform=2).json()["data"]

        assert [(account["login"], account["name"]) for account in board["accounts"]] == [("700100", "Ada")]
        assert get(caller, LEADERBOARD, token, investment_platform_id=1, platform=4).status_code == 400


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
        [
            ({"token": "guessed"}, 403),
            ({"side_login": "1"}, 403),
            ({"investment_platform_id": "2"}, 403),
            ({"device_fingerprint": "{}"}, 400),
        ],
    )
    def test_are_not_registered_on_a_guess(
        self, caller: Caller, sandbox: SandboxControl, changes: dict[str, Any], status: int
    ) -> None:
        assert self.register(caller, **changes).status_code == status
        assert sandbox.effects() == []

    @pytest.mark.parametrize(
        ("duplicates", "status", "times"), [("refused", 409, 1), ("returned", 200, 1), ("created", 200, 2)]
    )
    def test_registered_twice_are_what_the_switch_says(
        self, caller: Caller, sandbox: SandboxControl, duplicates: str, status: int, times: int
    ) -> None:
        sandbox.switches(duplicate_clients=duplicates)
        first = self.register(caller).json()["data"]

        second = self.register(caller)

        assert second.status_code == status
        assert sandbox.effects("clients.register")[0]["times"] == times
        if status == 200:
            assert (second.json()["data"] == first) == (duplicates == "returned")

    def test_are_refused_a_url_if_the_two_spellings_of_the_secret_differ(self, caller: Caller) -> None:
        wanted = {"account_id": "1", "secret_key": "sandbox-secret", "investment_platform_id": "1"}

        assert caller.post(AUTH_URL, wanted | {"secrete_key": "sandbox-secret"}).status_code == 200
        assert caller.post(AUTH_URL, wanted | {"secrete_key": "other"}).status_code == 400

    def test_a_wizard_has_no_further_path(self, caller: Caller, sandbox: SandboxControl) -> None:
        workflow = caller.http.get(caller.base_url + INIT, timeout=5).json()["data"]["uuid"]
        token = self.visitor(caller).json()["data"]["url"].rpartition("/")[2]
        body = {"side_login": "700100", "token": token, "investment_platform_id": "1"}

        answer = caller.post(f"{WIZARDS}x/{workflow}", body | {"device_fingerprint": FINGERPRINT})

        assert answer.status_code == 404
        assert sandbox.effects() == []

    def test_are_refused_while_the_back_office_has_no_secret(self, caller: Caller, sandbox: SandboxControl) -> None:
        sandbox.switches(secret_key=None)

        assert self.visitor(caller).status_code == 403
