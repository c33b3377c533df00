"""What a request may ask for, and how each route is sent."""

from typing import Any

import pytest
from pydantic import ValidationError

from worker.b2copy.route import Route
from worker.b2copy.routes import account_create, account_list, client_registration, fees, leaderboard, seamless_login
from worker.b2copy.routes import statistics as statistics_widget
from worker.b2copy.routes.account_create import NewAccount
from worker.b2copy.routes.account_list import AccountSearch
from worker.b2copy.routes.client_registration import NewClient
from worker.b2copy.routes.generic import route_to
from worker.b2copy.routes.leaderboard import Board, Product
from worker.b2copy.routes.seamless_login import Visitor
from worker.b2copy.routes.statistics import OfAccount

NEW = {"client_id": 1, "platform": 1, "number": "7", "product_currency_id": 1}


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (AccountSearch(), {}),
        (
            AccountSearch(platform=1, number="7", email="a", limit=1, offset=0),
            {"investment_platform_id": 1, "account_number": "7", "email": "a", "limit": 1, "offset": 0},
        ),
        (
            NewAccount(**NEW),
            {"clientId": 1, "investmentPlatformId": 1, "accountNumber": "7", "productCurrencyId": 1, "isMaster": 0},
        ),
        (OfAccount(account="7"), {"account": "7", "investment_platform_id": 1}),
        (Board(), {"investment_platform_id": 1, "platform": 1}),
        (Board(platform=2, product=Product.PAMM), {"investment_platform_id": 2, "platform": 2}),
        (Board(platform=1, product=Product.MAM), {"investment_platform_id": 1, "platform": 3}),
        (
            Visitor(account="7", secret_key="s", platform="2"),
            {"account_id": "7", "secret_key": "s", "investment_platform_id": "2"},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_request_has_b2copys_names_and_nothing_that_was_not_asked_for(request_: Any, fields: dict[str, Any]) -> None:
    assert request_.fields() == fields


def test_a_registration_names_us_by_a_fingerprint() -> None:
    fields = NewClient(uuid="u", login="7", token="t").fields()

    assert fields.pop("device_fingerprint")
    assert fields == {"uuid": "u", "side_login": "7", "token": "t", "investment_platform_id": "1"}
    assert NewClient(uuid="u", login="7", token="t", platform="2").fields()["investment_platform_id"] == "2"


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (AccountSearch, {"platform": 0}),
        (AccountSearch, {"number": ""}),
        (AccountSearch, {"email": ""}),
        (AccountSearch, {"limit": 0}),
        (AccountSearch, {"offset": -1}),
        (AccountSearch, {"account": "7"}),
        (NewAccount, NEW | {"client_id": 0}),
        (NewAccount, NEW | {"platform": 0}),
        (NewAccount, NEW | {"number": ""}),
        (NewAccount, NEW | {"product_currency_id": 0}),
        (NewAccount, NEW | {"is_master": 2}),
        (OfAccount, {"account": ""}),
        (OfAccount, {"account": "7", "platform": 0}),
        (Board, {"platform": 0}),
        (Visitor, {"account": "", "secret_key": "s"}),
        (Visitor, {"account": "7", "secret_key": "s", "platform": ""}),
        (NewClient, {"uuid": "u", "login": "", "token": "t"}),
        (NewClient, {"uuid": "u", "login": "7", "token": "t", "platform": ""}),
    ],
)
def test_a_request_that_b2copy_cannot_mean_is_refused_by_the_name_of_its_field(
    model: Any, fields: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError) as caught:
        model(**fields)

    assert caught.value.error_count() == 1


ROUTES: list[tuple[Route[Any], str | None, bool, tuple[str, ...], bool]] = [
    (fees.PROCESS, "service_admin", True, (), False),
    (route_to("/api/admin/a/v1/b/c"), "service_admin", True, (), False),
    (account_create.CREATE, "accounts", True, (), False),
    (account_list.LIST, "accounts", False, (), False),
    (statistics_widget.DETAIL, "widgets", False, (), False),
    (statistics_widget.STATISTICS, "widgets", False, (), False),
    (leaderboard.LEADERBOARD, "widgets", False, (), False),
    (seamless_login.GET_AUTH_URL, None, False, ("secret_key",), True),
    (client_registration.INIT, None, False, (), False),
    (client_registration.REGISTER, None, True, ("token",), False),
]


@pytest.mark.parametrize(
    ("route", "login", "has_effect", "secrets", "is_secret"), ROUTES, ids=[route.name or "call" for route, *_ in ROUTES]
)
def test_a_route_says_who_sends_it_whether_it_has_an_effect_and_what_is_secret(
    route: Route[Any], login: str | None, has_effect: bool, secrets: tuple[str, ...], is_secret: bool
) -> None:
    assert (route.login, route.has_effect, route.secrets, route.is_secret) == (login, has_effect, secrets, is_secret)
    assert route.over_http


@pytest.mark.parametrize(
    ("where", "method", "parameters", "query", "body"),
    [
        ("body", "POST", {"a": True, "b": 1}, None, {"a": True, "b": 1}),
        ("body", "POST", {}, None, {}),
        ("body", "GET", {}, None, None),
        ("query", "GET", {"a": True, "b": 1}, {"a": "true", "b": "1"}, None),
        ("query", "GET", {}, None, None),
        ("query and body", "GET", {"a": False}, {"a": "false"}, {"a": False}),
        ("query and body", "GET", {}, None, None),
    ],
)
def test_parameters_stand_where_the_route_says(where: Any, method: str, parameters: Any, query: Any, body: Any) -> None:
    route = Route("x", "", method, "/x", lambda body, sent: body, parameters_in=where)

    assert route.message(parameters) == ("/x", query, body)


def test_a_parameter_of_the_path_stands_there_only_and_one_with_two_spellings_under_both() -> None:
    route = Route("x", "", "POST", "/x/{id}/y", lambda body, sent: body, also_as={"a": "A"})

    assert route.message({"id": 7, "a": 1, "b": 2}) == ("/x/7/y", None, {"a": 1, "A": 1, "b": 2})
    assert route.message({"id": 7, "b": 2}) == ("/x/7/y", None, {"b": 2})
