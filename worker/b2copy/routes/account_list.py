"""Get a list of master and investment accounts: the only way to read back what a creation did.

Documentation: docs.b2copy.b2broker.com, get-a-list-of-master-and-investment-accounts. The parameters stand in the JSON
body of a GET, which many servers do not read. So they are sent in the query as well.
"""

import logging
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from worker.b2copy.fields import IdOrEmpty, named, object_of
from worker.b2copy.response_mapping import data_of
from worker.b2copy.route import Request, Route
from worker.b2copy.routes.account_fields import NUMBER_NAMES, Account
from worker.errors import UnknownOutcome
from worker.http.answer import server_message

log = logging.getLogger(__name__)

_NAME = "accounts.list"
_FILTERS = {"investment_platform_id", "is_master", "email"}
_LISTS = ("items", "accounts", "data", "rows", "list")


class AccountSearch(Request):
    """Which accounts, and which page of them. What is None is not asked for."""

    platform: int | None = Field(None, alias="investment_platform_id", ge=1)
    number: str | None = Field(None, alias="account_number", min_length=1)
    email: str | None = Field(None, min_length=1)
    is_master: bool | None = None
    limit: int | None = Field(None, ge=1)
    offset: int | None = Field(None, ge=0)
    sort_by: Literal["created_at"] | None = None
    sort_order: Literal["asc", "desc"] | None = None


class Unnumbered(Account):
    """An account of a list for which B2COPY has no number. Nothing can be done with it, but it has its place in a page.

    Its `number` is empty.
    """

    number: IdOrEmpty = named(*NUMBER_NAMES, default="")


def read_accounts(body: Any, sent: Mapping[str, Any]) -> list[Account]:
    """Return the accounts of one page. If some have a number, the others are `Unnumbered`.

    Raises `UnknownOutcome` if the answer is no list, if no account has a number, or if one has none although a number
    was asked for. Also if the list was not searched: if it has accounts only with other numbers than the one that was
    asked for, or, asked for no number, an account that contradicts another parameter. Such a list is not complete, and
    its accounts may be other people's.
    """
    data = rows_of(body)
    wanted = sent.get("account_number")
    accounts = [_read_row(one, needs_number=wanted is not None) for one in data]
    if unnumbered := sum(not account.number for account in accounts):
        if unnumbered == len(accounts):
            _read_row(data[0], needs_number=True)  # it raises
        log.warning("%s: %s of %s accounts have no number and are left out", _NAME, unnumbered, len(accounts))
    if wanted is None:
        if any(_contradicts(account, sent) for account in accounts):
            asked_by = " and ".join(sorted(_FILTERS & sent.keys()))
            raise UnknownOutcome(f"{_NAME}: asked for accounts by {asked_by}, and the answer holds others", 200)
        return accounts
    found = [account for account in accounts if account.number == wanted]  # it may search for a part of the number
    if accounts and not found:
        raise UnknownOutcome(f"{_NAME}: asked for account {wanted}, and the answer holds {accounts[0].number}", 200)
    return [account for account in found if not _contradicts(account, sent)]


def rows_of(body: Any) -> list[Any]:
    """Return the list in an answer, which may stand in an envelope. Raises `UnknownOutcome` if there is none."""
    data = data_of(body, _NAME)
    if isinstance(data, dict):
        data = next((data[name] for name in _LISTS if isinstance(data.get(name), list)), data)
    if not isinstance(data, list):
        raise UnknownOutcome(f"{_NAME}: the answer is not a list", 200, server_message(data))
    return data


def _read_row(row: Any, needs_number: bool) -> Account:
    try:
        return object_of(Account, row, _NAME)
    except UnknownOutcome:
        if needs_number:
            raise
        return object_of(Unnumbered, row, _NAME)


def _contradicts(account: Account, sent: Mapping[str, Any]) -> bool:
    """Return whether the account names another platform, type or e-mail address than was asked for."""
    email = sent.get("email")
    return (
        account.platform not in {None, sent.get("investment_platform_id", account.platform)}
        or account.is_master not in {None, sent.get("is_master", account.is_master)}
        or (email is not None and account.email is not None and account.email.casefold() != email.casefold())
    )


LIST = Route(
    name=_NAME,
    page_url="https://docs.b2copy.b2broker.com/get-a-list-of-master-and-investment-accounts",
    method="GET",
    path="/api/v2/b2copy/accounts",
    read=read_accounts,
    login="accounts",
    has_effect=False,
    parameters_in="query and body",
    also_as={"investment_platform_id": "investmentPlatformId"},
)
