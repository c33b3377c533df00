"""The leaderboard of master accounts.

Documentation: docs.b2copy.b2broker.com, get-data-for-the-leaderboard-widget.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from pydantic import Field, JsonValue

from worker.b2copy.fields import Answered, Instant, Money, Needed, Text, named, needed, object_of
from worker.b2copy.response_mapping import data_of
from worker.b2copy.route import Request, Route
from worker.errors import UnknownOutcome
from worker.http.answer import server_message

_NAME = "widget.leaderboard"


class Product(IntEnum):
    """What the documentation calls `platform` here."""

    COPY_TRADING = 1
    PAMM = 2
    MAM = 3


class Board(Request):
    """Which leaderboard. No aliases, because B2COPY's `platform` is our `product`."""

    platform: int = Field(1, ge=1)
    product: Product = Product.COPY_TRADING

    def fields(self) -> dict[str, Any]:
        return {"investment_platform_id": self.platform, "platform": int(self.product)}


class Leader(Answered):
    """A master account. `login` is its MT login."""

    login: Needed = needed("login")
    name: Text = None
    badge: Text = None
    created: Instant = None
    currency: Text = None
    risk: Money = None
    profit: list[JsonValue] = named("profit", default=[])


def read_leaders(body: Any, sent: Mapping[str, Any]) -> list[Leader]:
    """Return the accounts of the board, the first one first. Raises `UnknownOutcome` if there is no list of them."""
    data = data_of(body, _NAME)
    accounts = data.get("accounts") if isinstance(data, dict) else None
    if not isinstance(accounts, list):
        raise UnknownOutcome(f"{_NAME}: an answer without accounts", 200, server_message(data))
    return [object_of(Leader, one, _NAME) for one in accounts]


LEADERBOARD = Route(
    name=_NAME,
    page_url="https://docs.b2copy.b2broker.com/get-data-for-the-leaderboard-widget",
    method="GET",
    path="/api/v1/investment/widget/leaderboard",
    read=read_leaders,
    login="widgets",
    has_effect=False,
    parameters_in="query",
)
