"""Ids from outside: printable ASCII as the CRM has them, and never what a spreadsheet made of them."""

from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest

from tasks.accounts import ACCOUNTS
from tasks.fees import FEES
from tasks.generic_call import CALL
from worker.errors import BadPayload
from worker.operation_kind import Kind
from worker.settings import crm_settings

UPDATE = "/api/admin/clients/v2/client/clientservice/update"


def fields_of(kind: Kind[Any], **changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {"account_login": "7", "request_id": "W1"}
    if kind is CALL:
        good = {"path": UPDATE, "payload": {}, "key": "K1"}
    return good | changes


@pytest.fixture(autouse=True)
def crm_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set what a CRM host must have; a call's path is checked against the settings."""
    monkeypatch.setenv("B2COPY_DATABASE_URL", "sqlite:////nowhere/ledger.sqlite")
    monkeypatch.setenv("B2COPY_REDIS_URL", "redis://127.0.0.1:1/0")
    crm_settings.cache_clear()
    yield
    crm_settings.cache_clear()


ID_FIELDS = [(FEES, "account_login"), (FEES, "request_id"), (CALL, "key"), (CALL, "entity")]


@pytest.mark.parametrize(
    ("kind", "field"), ID_FIELDS, ids=lambda value: value if isinstance(value, str) else value.name
)
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("", "is empty"),
        ("W" * 200, "at most"),
        ("two words", r"U\+0020"),
        ("tab\t", r"U\+0009"),
        ("line\n", r"U\+000A"),
        ("\x00", r"U\+0000"),
        ("W\u200b1", r"U\+200B"),
        ("\uff11\uff12\uff13", r"U\+FF11"),
        ("\u0661\u0662", r"U\+0661"),
        ("W\u00fc", r"U\+00FC"),
        ("\ufeffW1", r"U\+FEFF"),
        (123456.0, "floating-point"),
        (float("nan"), "floating-point"),
        ("123456.0", "spreadsheet"),
        ("1.23457E+11", "spreadsheet"),
        ("1e-05", "spreadsheet"),
        ("NaN", "spreadsheet"),
        ("NULL", "missing value"),
        ("None", "missing value"),
        ("undefined", "missing value"),
        ("-inf", "spreadsheet"),
        (True, "string"),
        (["7"], "string"),
    ],
    ids=repr,
)
def test_an_unusable_id_is_refused_with_its_field_and_the_reason(
    kind: Kind[Any], field: str, bad: Any, reason: str
) -> None:
    with pytest.raises(BadPayload, match=rf"{field}:? .*{reason}"):
        kind.checked(fields_of(kind, **{field: bad}))


@pytest.mark.parametrize("kind", [FEES, CALL], ids=lambda kind: kind.name)
def test_whole_numbers_are_taken_as_their_digits(kind: Kind[Any]) -> None:
    field = "account_login" if kind is FEES else "entity"

    assert getattr(kind.checked(fields_of(kind, **{field: 123456})), field) == "123456"


class Number(int, Enum):
    FIRST = 5


class Name(str, Enum):  # noqa: UP042 - as CRMs write it
    FIRST = "W1"


@pytest.mark.parametrize(("member", "value"), [(Number.FIRST, "5"), (Name.FIRST, "W1")])
def test_a_member_of_an_enumeration_is_taken_as_its_value(member: Enum, value: str) -> None:
    new = FEES.new({"account_login": member, "request_id": member}, crm_settings())

    assert new.key == f"fees.process:{value}"
    assert new.payload == {"account_login": value, "request_id": value}


@pytest.mark.parametrize(
    "good", ["W1", "2024-01", "a/b:c", "1E5", "2024.01", "{6f1c}", "0", "007", "W#1", "01.02.2026", "NONE-1"]
)
def test_usual_ids_of_a_crm_are_taken_as_they_are(good: str) -> None:
    assert FEES.checked({"account_login": "7", "request_id": good}).request_id == good


@pytest.mark.parametrize("bad", ["-7", "+7", "a/b", "7;8", "7'", ".7", "7:8"])
def test_a_login_has_letters_digits_dots_underscores_and_hyphens(bad: str) -> None:
    with pytest.raises(BadPayload, match=r"account_login: .*not a login"):
        FEES.checked({"account_login": bad, "request_id": "W1"})


@pytest.mark.parametrize("bad", ["123.456", "1.234.567", "1.234", "Jan-45", "01.02.2026", "2026-01-02", "3-Mai"])
def test_a_login_is_no_number_with_separators_and_no_date(bad: str) -> None:
    with pytest.raises(BadPayload, match=r"account_login: .*no login looks like that"):
        FEES.checked({"account_login": bad, "request_id": "W1"})


@pytest.mark.parametrize("bad", ["1" * 100_000 + ".5", "1." + "0" * 100_000, "x" * 100_000 + "é"])
def test_a_long_login_is_not_shown_whole(bad: str) -> None:
    with pytest.raises(BadPayload) as refused:
        FEES.checked({"account_login": bad, "request_id": "W1"})

    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("good", ["123456", "007", "demo-1", "eu.123456", "1234567890123450000", "janet-45", "2024-01"])
def test_usual_logins_are_taken_as_they_are(good: str) -> None:
    assert FEES.checked({"account_login": good, "request_id": "W1"}).account_login == good


@pytest.mark.parametrize("field", ["platform", "product_currency_id", "client_id"])
@pytest.mark.parametrize("bad", [1.23457e11, 5.0, True, "5", "1.23457E+11"], ids=repr)
def test_a_number_is_a_whole_number_or_refused_with_its_field(field: str, bad: Any) -> None:
    good = {"login": "7", "platform": 1, "product_currency_id": 1, "client_id": 5}

    assert ACCOUNTS.checked(good).client_id == 5
    with pytest.raises(BadPayload, match=rf"{field} must be a whole number in digits"):
        ACCOUNTS.checked(good | {field: bad})


def test_a_switch_is_true_or_false_and_nothing_else() -> None:
    with pytest.raises(BadPayload, match="repeatable"):
        CALL.checked(fields_of(CALL, repeatable=1))


def test_only_whole_numbers_stand_for_text_and_only_in_ids() -> None:
    with pytest.raises(BadPayload, match="path"):
        CALL.checked(fields_of(CALL, path=7))


def test_the_id_of_a_restarted_fee_run_can_be_no_other_withdrawals() -> None:
    with pytest.raises(BadPayload, match=r"request_id: 'W1~1' holds '~'"):
        FEES.checked({"account_login": "7", "request_id": "W1~1"})


def test_a_parent_is_a_key() -> None:
    assert CALL.checked(fields_of(CALL, parent="fees.process:W1")).parent == "fees.process:W1"
    with pytest.raises(BadPayload, match=r"parent: .*U\+0020"):
        CALL.checked(fields_of(CALL, parent="fees.process: W1"))


@pytest.mark.parametrize(
    "wrong",
    [
        {f"field{number}": 1 for number in range(5_000)},
        {"x" * 100_000: 1},
        {"\n".join("abc"): 1, "\u202e": 1},
    ],
    ids=["many", "long", "odd"],
)
def test_an_error_about_many_fields_or_long_names_is_short(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadPayload, match="is not a field") as refused:
        FEES.checked({"account_login": "7", "request_id": "W1", **wrong})

    assert len(str(refused.value)) < 2_000
