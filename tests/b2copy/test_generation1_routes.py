"""The routes of generation 1: real requests to the sandbox, and answers in every documented shape."""

from collections.abc import Coroutine
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar

import jsonschema
import pytest

from tests.b2copy.documented import check
from worker.b2copy import B2Copy
from worker.b2copy.response_mapping import data_of
from worker.b2copy.routes import account_create, account_list, client_registration, leaderboard, seamless_login
from worker.b2copy.routes import statistics as statistics_widget
from worker.b2copy.routes.account_create import NewAccount
from worker.b2copy.routes.account_list import AccountSearch, read_accounts
from worker.b2copy.routes.client_registration import NewClient, read_client
from worker.b2copy.routes.leaderboard import Board, Product, read_leaders
from worker.b2copy.routes.seamless_login import Visitor, read_url
from worker.b2copy.routes.statistics import OfAccount
from worker.errors import B2CopyError, Conflict, NotFound, Rejected, Unavailable, UnknownOutcome
from worker.flow.meaning_table import meaning_of
from worker.http import Answer, event_loop
from worker.instances import b2copy
from worker.sandbox.control_client import SandboxControl
from worker.testbed.local_system import Environment

NEW = NewAccount(client_id=5, platform=1, number="700100", product_currency_id=2, is_master=1, name="Master of one")
T = TypeVar("T")
SECRET = "sandbox-secret"
VISITOR = Visitor(account="700100", secret_key=SECRET)


def now(sent: Coroutine[Any, Any, T]) -> T:
    return event_loop().run(sent)


@pytest.fixture
def client(active_environment: Environment) -> B2Copy:
    return b2copy()


@pytest.mark.parametrize("where", ["query", "body", "either"])
def test_an_account_is_created_and_found_by_its_number_wherever_the_list_reads_its_parameters(
    client: B2Copy, sandbox: SandboxControl, where: str
) -> None:
    sandbox.switches(list_parameters=where)
    created = now(client.create_account(NEW))
    now(client.create_account(NEW.model_copy(update={"number": "700101", "is_master": 0})))

    [found] = now(client.accounts(AccountSearch(platform=1, number="700100", is_master=True)))

    assert found == created
    assert (found.number, found.client_id, found.platform, found.is_master) == ("700100", "5", 1, True)
    assert (found.name, found.product_currency_id) == ("Master of one", 2)
    assert found.created is not None
    assert found.created.tzinfo is not None
    assert len(now(client.accounts(AccountSearch(limit=1, sort_by="created_at", sort_order="desc")))) == 1
    assert now(client.accounts(AccountSearch(number="1"))) == []


@pytest.mark.parametrize("asked", [{"email": "client-5@sandbox.example"}, {"platform": 1}, {"is_master": True}])
def test_nobody_gets_the_accounts_of_others_if_the_list_ignores_its_parameters(
    client: B2Copy, sandbox: SandboxControl, asked: dict[str, Any]
) -> None:
    now(client.create_account(NEW))
    now(client.create_account(NewAccount(client_id=6, platform=2, number="700100", product_currency_id=2)))
    assert [found.client_id for found in now(client.accounts(AccountSearch(**asked)))] == ["5"]

    sandbox.switches(list_filters="ignored")

    with pytest.raises(UnknownOutcome, match="the answer holds others"):
        now(client.accounts(AccountSearch(**asked)))
    assert [found.client_id for found in now(client.accounts(AccountSearch(number="700100", **asked)))] == ["5"]


@pytest.mark.parametrize("data", [{}, [], None, "7"])
def test_an_answer_about_nothing_is_no_new_account(data: Any) -> None:
    with pytest.raises(UnknownOutcome):
        account_create.read_created({"data": data, "status": 200}, {"accountNumber": "7"})


@pytest.mark.parametrize(
    "body",
    [
        {"error": "client not found"},
        {"status": "error", "message": "no", "data": {"id": 7}},
        {"status": False, "message": "no"},
        {"success": False, "data": [], "message": "no"},
        {"items": [], "error": "the database is away"},
        {"status": 200, "data": {"id": 7, "errors": ["no"]}},
        {"status": 200, "meta": {"error": "no"}, "data": []},
        {"code": 5, "message": "not found", "details": []},
    ],
)
@pytest.mark.parametrize(
    "read", [account_create.read_created, read_accounts, read_client, read_leaders, statistics_widget.DETAIL.read]
)
def test_a_200_whose_body_says_failure_is_not_believed(read: Any, body: Any) -> None:
    with pytest.raises(UnknownOutcome, match="the body says failure"):
        read(body, {"accountNumber": "7", "side_login": "7", "account_number": "7"})


@pytest.mark.parametrize("data", [{"message": "accepted"}, {"id": None}, {"id": 0}, {"data": {"id": 7}}, {"status": 2}])
def test_an_answer_with_neither_a_number_nor_an_id_is_no_new_account(data: Any) -> None:
    with pytest.raises(UnknownOutcome):
        account_create.read_created(data, {"accountNumber": "7"})


@pytest.mark.parametrize("client_id", [0, -1, "0", 2**63, 10**400])
def test_a_number_that_no_database_gives_is_no_client(client_id: Any) -> None:
    with pytest.raises(UnknownOutcome, match="without a usable client_id"):
        read_client({"client_id": client_id}, {"side_login": "7"})


def test_an_id_that_fits_into_no_index_is_none() -> None:
    long = "9" * 256

    assert account_create.read_created({"login": 7, "id": long}, {"accountNumber": "7"}).account_id is None
    assert read_client({"id": 5, "payment_account": long}, {"side_login": "7"}).payment_account is None
    with pytest.raises(UnknownOutcome, match="without a usable login"):
        read_accounts([{"login": long}], {})


def test_a_list_stands_bare_or_under_one_of_its_names() -> None:
    for body in (
        [{"login": 7}],
        {"rows": [{"login": 7}]},
        {"status": 200, "data": {"total": 1, "items": [{"login": 7}]}},
    ):
        assert [account.number for account in read_accounts(body, {})] == ["7"]
        assert [account.number for account in read_accounts(body, {"account_number": "7"})] == ["7"]
    for odd in ({"total": 1}, "7", None, [{"id": 7}], [7]):
        with pytest.raises(UnknownOutcome):
            read_accounts(odd, {})


@pytest.mark.parametrize("body", [{"accounts": {}}, {}, [], None, "x", {"accounts": [{"name": "x"}]}])
def test_a_leaderboard_without_accounts_is_not_believed(body: Any) -> None:
    with pytest.raises(UnknownOutcome):
        read_leaders(body, {})


@pytest.mark.parametrize("uuid", ["", "../auth", "a/b", "x" * 65, None, "a b"])
def test_a_wizard_whose_uuid_cannot_stand_in_a_path_is_not_used(uuid: Any) -> None:
    with pytest.raises(UnknownOutcome):
        client_registration.read_wizard({"uuid": uuid}, {})


def test_a_list_that_was_not_searched_says_nothing_about_an_account() -> None:
    with pytest.raises(UnknownOutcome, match="asked for account 7, and the answer holds 8"):
        read_accounts([{"accountNumber": "8"}], {"account_number": "7"})


def test_a_list_that_was_searched_for_a_part_of_the_number_holds_the_account() -> None:
    found = read_accounts([{"accountNumber": "71"}, {"accountNumber": "7"}], {"account_number": "7"})

    assert [account.number for account in found] == ["7"]


def test_a_name_without_a_value_hides_no_other_name() -> None:
    row = {"accountNumber": None, "login": "6", "id": None, "accountId": 9}

    [found] = read_accounts([row], {"account_number": "6"})

    assert (found.number, found.account_id) == ("6", "9")


def test_an_account_without_a_number_does_not_make_the_list_unreadable(caplog: pytest.LogCaptureFixture) -> None:
    rows: list[Any] = [{"id": 1, "accountNumber": "5"}, {"id": 2, "accountNumber": None}, {"id": 3, "login": ""}]

    assert [account.number for account in read_accounts(rows, {})] == ["5", "", ""]

    assert caplog.messages == ["accounts.list: 2 of 3 accounts have no number and are left out"]
    for asked, answer in (({"account_number": "5"}, rows), ({}, rows[1:]), ({}, [*rows, 7])):
        with pytest.raises(UnknownOutcome):
            read_accounts(answer, asked)
    assert len(caplog.messages) == 1


ANNS = {"accountNumber": "7", "email": "Ann@x.example", "investmentPlatformId": 2, "isMaster": 1}
BOBS = {"accountNumber": "8", "email": "bob@x.example", "investmentPlatformId": "1", "isMaster": "0"}


@pytest.mark.parametrize(
    "asked",
    [
        {"email": "ann@X.example"},
        {"investment_platform_id": 2},
        {"is_master": True},
        {"email": "ann@x.example", "limit": 1, "is_master": True},
    ],
)
def test_a_list_that_overlooks_a_parameter_is_not_given_out(asked: dict[str, Any]) -> None:
    for answer in ([ANNS, BOBS], [BOBS]):
        with pytest.raises(UnknownOutcome, match="the answer holds others") as raised:
            read_accounts(answer, asked)
        assert "bob" not in str(raised.value)
    assert [account.number for account in read_accounts([ANNS, {"accountNumber": "9"}], asked)] == ["7", "9"]
    assert read_accounts([], asked) == []


@pytest.mark.parametrize("asked", [{"email": "ann@x.example"}, {"investment_platform_id": 2}, {"is_master": True}])
def test_an_account_that_was_asked_for_by_its_number_is_not_there_if_another_has_that_number(
    asked: dict[str, Any],
) -> None:
    bobs = BOBS | {"accountNumber": "7"}

    assert read_accounts([bobs], {"account_number": "7", **asked}) == []
    [found] = read_accounts([bobs, ANNS], {"account_number": "7", **asked})
    assert found.email == "Ann@x.example"


@pytest.mark.parametrize("status", [408, 500, 503])
def test_a_200_whose_envelope_says_that_it_was_not_processed_is_no_proof(status: int) -> None:
    with pytest.raises(Unavailable) as raised:
        read_accounts({"status": status, "message": "the trading platform is unavailable"}, {})

    assert meaning_of(raised.value).outcome == "unknown"


def test_the_widgets_show_an_account(client: B2Copy) -> None:
    now(client.create_account(NEW))
    account = OfAccount(account="700100", platform=1)

    detail = now(client.account_detail(account))
    assert (detail.aum, detail.followers, detail.currency) == (Decimal("0.00"), 0, "USD")
    assert detail.created is not None
    assert now(client.account_statistics(account)).raw["profit"] == []
    [leader] = now(client.leaderboard(Board(product=Product.PAMM)))
    assert (leader.login, leader.risk, leader.created) == ("700100", Decimal(0), detail.created)
    with pytest.raises(NotFound):
        now(client.account_detail(OfAccount(account="1")))


def test_a_client_is_registered_through_its_seamless_url(client: B2Copy, sandbox: SandboxControl) -> None:
    url = now(client.seamless_url(VISITOR))
    uuid = now(client.start_wizard())
    new = NewClient(uuid=uuid, login="700100", token=url.token)
    registered = now(client.register_client(new))

    assert registered.client_id == 1
    assert registered.payment_account == "2"
    assert [effect["key"] for effect in sandbox.effects("clients.register")] == ["1/700100"]
    secret = url.token.get_secret_value()
    assert secret not in repr((url, new, registered))
    again = NewClient(uuid=now(client.start_wizard()), login="700100", token=now(client.seamless_url(VISITOR)).token)
    with pytest.raises(Conflict):
        now(client.register_client(again))


def test_nothing_quotes_the_shared_secret_or_the_url(client: B2Copy, sandbox: SandboxControl) -> None:
    sandbox.faults({"what": "status", "status": 400, "route": "auth_url", "message": f"{SECRET} is not right"})
    with pytest.raises(Rejected) as refused:
        now(client.seamless_url(VISITOR))
    assert SECRET not in str(refused.value)
    assert "is not right" in str(refused.value)

    with pytest.raises(UnknownOutcome) as unclear:
        read_url({"data": {"a": "https://copy.example/t0p", "b": "https://copy.example/t0p"}, "status": 200}, {})
    assert "t0p" not in str(unclear.value)
    for said in ({"success": False}, {"status": 400}):
        with pytest.raises(B2CopyError) as failed:
            read_url({**said, "data": {"a": "https://copy.example/t0p"}}, {})
        assert "t0p" not in repr(failed.value.args)
    assert SECRET not in repr(VISITOR)


@pytest.mark.parametrize("secret", ["broker", "https", "data"])
def test_a_shared_secret_that_is_a_word_of_the_answer_leaves_the_url_whole(
    client: B2Copy, sandbox: SandboxControl, secret: str
) -> None:
    sandbox.switches(secret_key=secret)
    visitor = Visitor(account="700100", secret_key=secret)

    url = now(client.seamless_url(visitor))

    assert url.reveal().startswith("https://copy.broker.example/")
    new = NewClient(uuid=now(client.start_wizard()), login="700100", token=url.token)
    assert now(client.register_client(new)).client_id == 1
    sandbox.faults({"what": "status", "status": 400, "route": "auth_url", "message": f"{secret} is not right"})
    with pytest.raises(Rejected) as refused:
        now(client.seamless_url(visitor))
    assert secret not in str(refused.value.server_message)


@pytest.mark.parametrize("data", ["https://copy.example/in/t0p/", {"anything": "https://copy.example/in/t0p", "n": 1}])
def test_the_only_https_url_of_an_answer_is_the_seamless_one(data: Any) -> None:
    url = read_url({"data": data, "status": 200}, {})

    assert url.reveal().startswith("https://copy.example/in/t0p")
    assert url.token.get_secret_value() == "t0p"


@pytest.mark.parametrize(
    "data",
    [
        {},
        None,
        7,
        "http://copy.example/t0p",
        "https://copy.example",
        "https://copy.example/",
        {"url": "t0p"},
        "https://[domain_name]/t0p",
        {"url": "https://copy.example[/t0p"},
        "https://copy.example\u2100/t0p",
    ],
)
def test_an_answer_without_a_seamless_url_is_not_believed(data: Any) -> None:
    with pytest.raises(UnknownOutcome) as unclear:
        read_url({"data": data, "status": 200}, {})
    assert "t0p" not in str(unclear.value)
    assert unclear.value.__context__ is None, "the frames of another error hold the URL"


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (account_create.CREATE.message(NEW.fields()), account_create.CREATE),
        (account_list.LIST.message(AccountSearch(platform=1, number="7", limit=5).fields()), account_list.LIST),
        (statistics_widget.DETAIL.message(OfAccount(account="7").fields()), statistics_widget.DETAIL),
        (statistics_widget.STATISTICS.message(OfAccount(account="7").fields()), statistics_widget.STATISTICS),
        (leaderboard.LEADERBOARD.message(Board().fields()), leaderboard.LEADERBOARD),
        (seamless_login.GET_AUTH_URL.message(VISITOR.fields()), seamless_login.GET_AUTH_URL),
        (client_registration.INIT.message({}), client_registration.INIT),
        (
            client_registration.REGISTER.message(NewClient(uuid="u-1", login="7", token="t").fields()),
            client_registration.REGISTER,
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_our_requests_are_as_documented(message: Any, name: Any) -> None:
    check(name, message)

    if message.body:
        with pytest.raises(jsonschema.ValidationError):  # the check does find a mistake
            check(name, message._replace(body={key: ["wrong"] for key in message.body}))


def test_both_spellings_of_a_parameter_are_sent() -> None:
    assert account_create.CREATE.message(NEW.fields()).body == NEW.fields() | {"clientID": 5}
    assert seamless_login.GET_AUTH_URL.message(VISITOR.fields()).body == {
        "account_id": "700100", "investment_platform_id": "1", "secret_key": SECRET, "secrete_key": SECRET,
    }  # fmt: skip
    listed = account_list.LIST.message({"investment_platform_id": 1, "is_master": True})
    assert listed.query == {"investment_platform_id": "1", "investmentPlatformId": "1", "is_master": "true"}
    assert listed.body == {"investment_platform_id": 1, "investmentPlatformId": 1, "is_master": True}


@pytest.mark.parametrize(
    "body",
    [
        {"status": 200, "meta": {"behaviours": [], "status": 200}, "data": {"id": 7, "payment_account": {"id": 9}}},
        {"status": "200", "data": {"client_id": "7", "paymentAccount": 9, "side_login": 12}},
        {"id": 7, "payment_account": "9", "side_login": "12"},
        {"status": 200, "data": {"id": 3, "client": {"id": 7, "payment_account": {"id": "9"}, "side_login": "12"}}},
        {"status": 200, "data": {"id": 7, "payment_account": 9, "investment_platform_id": 1}},
    ],
)
def test_a_client_is_read_from_an_envelope_or_bare_with_numbers_as_text(body: dict[str, Any]) -> None:
    read = read_client(body, {"side_login": "12", "investment_platform_id": "1"})

    assert (read.client_id, read.payment_account) == (7, "9")
    assert read.raw == body.get("data", body)


@pytest.mark.parametrize("inner", [{"id": 7}, {"client_id": 7}, {"clientId": "7"}])
@pytest.mark.parametrize("outer", [{}, {"id": 900}, {"id": 900, "uuid": "u-1", "workflow": "side_login"}])
def test_the_client_in_a_wizard_is_read(inner: dict[str, Any], outer: dict[str, Any]) -> None:
    assert read_client({"data": {**outer, "client": inner}, "status": 200}, {"side_login": "12"}).client_id == 7


@pytest.mark.parametrize(
    "other", [{"uuid": "u-1"}, {"workflow": "side_login"}, {"client": None}, {"client": {"name": "x"}}], ids=str
)
def test_the_id_of_something_else_is_not_the_clients(other: dict[str, Any]) -> None:
    with pytest.raises(UnknownOutcome, match="without a usable client_id"):
        read_client({"data": {"id": 4711, "state": "finished", **other}, "status": 200}, {"side_login": "12"})
    assert read_client({"data": {"id": 4711, "client_id": 7, **other}, "meta": {}}, {"side_login": "12"}).client_id == 7


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"status": 409, "meta": {"status": 409}, "data": None, "message": "it exists"}, Conflict),
        ({"status": 200, "meta": {"status": "404"}, "data": {}}, NotFound),
        ({"status": 500, "data": []}, Unavailable),
        ({"status": 422}, Rejected),
        ({"status": 200, "data": {"id": True}}, UnknownOutcome),
        ({"status": 200, "data": {"id": "7x"}}, UnknownOutcome),
        ({"status": 200, "data": {"id": 7, "side_login": "13"}}, UnknownOutcome),
        ({"status": 200, "data": {"id": 7, "investment_platform_id": 2}}, UnknownOutcome),
        ({"status": 200, "data": {"client": {"id": 7, "investment_platform_id": "2"}}}, UnknownOutcome),
        ({"status": 200, "data": [7]}, UnknownOutcome),
        (None, UnknownOutcome),
    ],
)
def test_what_cannot_be_believed_is_no_client(body: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_client(body, {"side_login": "12", "investment_platform_id": "1"})


@pytest.mark.parametrize("name", ["accountNumber", "account_number", "login"])
def test_an_answer_about_another_account_is_no_new_account(name: str) -> None:
    sent = {"accountNumber": "7"}

    assert account_create.read_created({"data": {"id": 1, name: 7}, "status": 200}, sent).number == "7"
    unnamed = account_create.read_created({"data": {"id": 1}, "status": 200}, sent)
    assert (unnamed.number, unnamed.account_id) == ("7", "1")
    with pytest.raises(UnknownOutcome, match="got 8"):
        account_create.read_created({"data": {"id": 1, name: 8}, "status": 200}, sent)


@pytest.mark.parametrize(
    ("status", "is_one"),
    [
        (99, False), (100, True), ("100", True), (200, True), (399, True), ("0200", False), (True, False),
        ("two", False), ("²⁰⁰", False), (200.0, False), (None, False),
    ],
)  # fmt: skip
def test_an_envelope_has_the_status_of_an_answer(status: Any, is_one: bool) -> None:
    body = {"data": 7, "status": status}

    assert data_of(body, "route") == (7 if is_one else body)


def test_an_envelope_without_a_status_has_a_meta() -> None:
    assert data_of({"data": 7, "meta": None}, "route") == 7
    assert data_of({"data": 7}, "route") == {"data": 7}
    assert data_of({"meta": {}, "status": 200, "id": 7}, "route") == {"meta": {}, "status": 200, "id": 7}
    assert data_of([7], "route") == [7]


@pytest.mark.parametrize("body", [{"status": 400, "data": 7}, {"data": 7, "meta": {"status": "400"}}])
def test_an_envelope_with_the_status_of_an_error_is_that_error(body: Any) -> None:
    with pytest.raises(Rejected) as caught:
        data_of(body, "route")

    assert caught.value.status == 400


@pytest.mark.parametrize("status", [600, "600", 1000])
def test_a_status_beyond_those_of_http_is_no_error(status: Any) -> None:
    body = {"data": 7, "status": status}

    assert data_of(body, "route") == body
    with pytest.raises(Unavailable):
        data_of({"data": 7, "status": 599}, "route")


@pytest.mark.parametrize(
    "digits",
    ["1000.10", "0.1", "1234567890123456.78", "12345678901234567.89", "-0.123456789012345678", "1e999", "7", "10.0"],
)
def test_an_amount_that_comes_as_a_json_number_keeps_its_digits(digits: str) -> None:
    body = Answer(200, {}, b'{"status": 200, "data": {"aum": %s}}' % digits.encode()).json()

    assert str(statistics_widget.DETAIL.read(body, {}).aum) == str(Decimal(digits))


def test_dates_have_two_formats_and_figures_are_exact() -> None:
    sample = {"login": 12, "risk": "86", "created": "2024-07-18T08:19:11+00:00", "profit": [{"x": 1}], "new": "x"}
    detail = statistics_widget.DETAIL.read({"data": {"aum": 0.1, "created": "2024-07-18 08:19:11"}, "status": 200}, {})

    [leader] = read_leaders({"status": 200, "data": {"accounts": [sample]}}, {})

    assert (leader.login, leader.risk, leader.raw["new"]) == ("12", Decimal(86), "x")
    assert leader.created == detail.created == datetime(2024, 7, 18, 8, 19, 11, tzinfo=UTC)
    assert detail.aum == Decimal("0.1")
    odd = statistics_widget.DETAIL.read({"data": {"aum": "a lot", "created": "soon", "followers": []}, "meta": {}}, {})
    assert (odd.aum, odd.created, odd.followers) == (None, None, None)
