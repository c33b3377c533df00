"""Create a master or investment account for an MT login that exists. Its client must be registered.

Documentation: docs.b2copy.b2broker.com, create-a-master-or-investment-account-using-the-existing-mt-account. Its sample
uses GET, its table POST: an effect needs POST.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from worker.b2copy.fields import object_of
from worker.b2copy.response_mapping import data_of
from worker.b2copy.route import Request, Route
from worker.b2copy.routes.account_fields import Account
from worker.errors import UnknownOutcome

_NAME = "accounts.create"
_NUMBERS = {"accountNumber", "account_number", "login"}
_IDS = ("id", "accountId", "account_id")


class NewAccount(Request):
    """`number` is the MT login, `client_id` B2COPY's id of its client; support tells the `product_currency_id`."""

    client_id: int = Field(alias="clientId", ge=1)
    platform: int = Field(alias="investmentPlatformId", ge=1)
    number: str = Field(alias="accountNumber", min_length=1)
    product_currency_id: int = Field(alias="productCurrencyId", ge=1)
    is_master: Literal[0, 1] = Field(0, alias="isMaster")
    name: str | None = Field(None, alias="accountName")
    description: str | None = Field(None, alias="accountDescription")


def read_created(body: Any, sent: Mapping[str, Any]) -> Account:
    """Return the new account. Raises `UnknownOutcome` if the answer is about another one, or about none.

    An answer that names neither the account's number nor its id is about none.
    """
    data = data_of(body, _NAME)
    if isinstance(data, dict) and any(data.get(name) for name in _IDS) and not _NUMBERS & data.keys():
        data = {**data, "accountNumber": sent["accountNumber"]}
    account = object_of(Account, data, _NAME)
    if account.number != sent["accountNumber"]:
        raise UnknownOutcome(f"{_NAME}: asked for account {sent['accountNumber']}, got {account.number}", 200)
    return account


CREATE = Route(
    name=_NAME,
    page_url="https://docs.b2copy.b2broker.com/create-a-master-or-investment-account-using-the-existing-mt-account",
    method="POST",
    path="/api/v2/b2copy/accounts/create",
    read=read_created,
    login="accounts",
    also_as={"clientId": "clientID"},
)
