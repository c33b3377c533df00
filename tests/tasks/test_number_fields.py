"""Which numbers and lengths operations and reads take, and what a field is that was not given."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tasks.accounts import ACCOUNTS
from tasks.clients import CLIENTS
from tasks.generic_call import CALL
from tasks.reads import READS
from worker.errors import BadPayload
from worker.settings import crm_settings

INT4_MAX, INT8_MAX = 2_147_483_647, 9_223_372_036_854_775_807
OPENING = {"login": "7", "product_currency_id": 2, "client_id": 5}


@pytest.fixture(autouse=True)
def crm_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set what a CRM host must have: the checks read it."""
    monkeypatch.setenv("B2COPY_DATABASE_URL", "sqlite:////nowhere/ledger.sqlite")
    monkeypatch.setenv("B2COPY_REDIS_URL", "redis://127.0.0.1:1/0")
    crm_settings.cache_clear()
    yield
    crm_settings.cache_clear()


def checked(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the payload of a kind, or the parameters of a read, as they are stored or asked."""
    kinds = {kind.name: kind for kind in (ACCOUNTS, CLIENTS, CALL)}
    if name in kinds:
        return dict(kinds[name].new(fields, crm_settings()).payload)
    return dict(READS[name].checked(fields).model_dump(mode="json"))


@pytest.mark.parametrize(
    ("name", "others", "field", "least", "most"),
    [
        ("accounts.create", OPENING, "platform", 1, INT4_MAX),
        ("accounts.create", OPENING, "product_currency_id", 1, INT4_MAX),
        ("accounts.create", OPENING, "client_id", 1, INT8_MAX),
        ("clients.register", {"login": "7"}, "platform", 1, INT4_MAX),
        ("accounts", {}, "platform", 1, INT4_MAX),
        ("accounts", {}, "limit", 1, 200),
        ("accounts", {}, "offset", 0, None),
        ("account_detail", {"login": "7"}, "platform", 1, INT4_MAX),
        ("leaderboard", {}, "platform", 1, INT4_MAX),
        ("leaderboard", {}, "product", 1, 3),
    ],
)
def test_a_number_has_a_least_and_a_largest_value(
    name: str, others: dict[str, Any], field: str, least: int, most: int | None
) -> None:
    for good in (least, least if most is None else most):
        assert checked(name, others | {field: good})[field] == good
    for bad in (least - 1, *([] if most is None else [most + 1])):
        with pytest.raises(BadPayload, match=field):
            checked(name, others | {field: bad})


@pytest.mark.parametrize(
    ("name", "others", "field", "least", "most"),
    [
        ("accounts.create", OPENING, "name", 0, 255),
        ("accounts.create", OPENING, "description", 0, 255),
        ("accounts", {}, "email", 1, 254),
    ],
)
def test_a_text_has_a_least_and_a_largest_length(
    name: str, others: dict[str, Any], field: str, least: int, most: int
) -> None:
    for good in ("x" * least, "x" * most):
        assert checked(name, others | {field: good})[field] == good
    for bad in ("x" * (most + 1), *([""] if least else [])):
        with pytest.raises(BadPayload, match=field):
            checked(name, others | {field: bad})


@pytest.mark.parametrize(
    ("name", "given", "defaults"),
    [
        ("accounts.create", OPENING, {"platform": 1, "is_master": False, "registration": None, "reopens": None}),
        ("clients.register", {"login": "7"}, {"platform": 1, "crm_id": None}),
        ("call", {"path": "/api/admin/a/v2/a/a/a", "payload": {}, "key": "K"}, {"repeatable": False}),
        ("accounts", {}, {"login": None, "platform": None, "is_master": None, "limit": 100, "offset": 0}),
        ("account_detail", {"login": "7"}, {"platform": 1}),
        ("leaderboard", {}, {"platform": 1, "product": 1}),
    ],
)
def test_a_field_that_is_not_given_has_its_default(name: str, given: dict[str, Any], defaults: dict[str, Any]) -> None:
    assert defaults.items() <= {**dict.fromkeys(defaults), **checked(name, given)}.items()
