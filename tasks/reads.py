"""What a CRM can read at B2COPY through a worker: for each read its parameters, and how a worker makes it.

A read has no effect and leaves no row in the ledger. `tasks.enqueue.read` asks for one.
"""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import Field

from tasks.read_threads import in_read_thread
from tasks.seamless_url import seamless_url
from worker.b2copy.fields import Answered
from worker.b2copy.routes import account_list, leaderboard, statistics
from worker.b2copy.routes.seamless_login import SeamlessUrl
from worker.errors import BadPayload
from worker.id_fields import Login
from worker.operation_kind import Call, Payload, checked_fields
from worker.settings import Settings

P = TypeVar("P", bound=Payload)

SEAMLESS_URL = "seamless_url"
PAGE_MAX = 200  # accounts of one page


class OfLogin(Payload):
    """`login` is the MT login on `platform`, a B2COPY investment platform."""

    login: Login
    platform: int = Field(1, ge=1, le=2**31 - 1)


class Accounts(Payload):
    """Which accounts, and which page of them, oldest first. What is None is not asked for.

    An account for which B2COPY has no number is left out, so a page may hold fewer accounts than there are on it.
    """

    login: Login | None = None
    platform: int | None = Field(None, ge=1, le=2**31 - 1)
    email: str | None = Field(None, min_length=1, max_length=254)
    is_master: bool | None = None
    limit: int = Field(100, ge=1, le=PAGE_MAX)
    offset: int = Field(0, ge=0)


class Board(Payload):
    """Which leaderboard: `product` 1 is copy trading, 2 PAMM, 3 MAM."""

    platform: int = Field(1, ge=1, le=2**31 - 1)
    product: leaderboard.Product = Field(leaderboard.Product.COPY_TRADING, strict=False)  # JSON has its number


@dataclass(frozen=True)
class Read(Generic[P]):
    """`payload` are the parameters. `make` sends requests by its first argument; `as_json` writes what it returns."""

    name: str
    payload: type[P]
    make: Callable[[Call, P, Settings], Coroutine[Any, Any, Any]]

    def checked(self, fields: Mapping[str, Any]) -> P:
        """Return the parameters. Raises `BadPayload` naming the field and the remedy."""
        return checked_fields(self.name, self.payload, fields)


async def accounts(call: Call, which: Accounts, settings: Settings) -> Any:
    search = account_list.AccountSearch(
        number=which.login, platform=which.platform, email=which.email, is_master=which.is_master, limit=which.limit,
        offset=which.offset, sort_by="created_at", sort_order="asc",
    )  # fmt: skip
    return [account for account in await call(account_list.LIST, search.fields()) if account.number]


async def account_detail(call: Call, of: OfLogin, settings: Settings) -> Any:
    asked = statistics.OfAccount(account=of.login, platform=of.platform)
    return await call(statistics.DETAIL, asked.fields())


async def account_statistics(call: Call, of: OfLogin, settings: Settings) -> Any:
    asked = statistics.OfAccount(account=of.login, platform=of.platform)
    return await call(statistics.STATISTICS, asked.fields())


async def leaders(call: Call, which: Board, settings: Settings) -> Any:
    asked = leaderboard.Board(platform=which.platform, product=which.product)
    return await call(leaderboard.LEADERBOARD, asked.fields())


async def seamless(call: Call, of: OfLogin, settings: Settings) -> SeamlessUrl:
    return await seamless_url(call, settings, of.login, of.platform, in_read_thread)


READS: dict[str, Read[Any]] = {
    read.name: read
    for read in (
        Read("accounts", Accounts, accounts),
        Read("account_detail", OfLogin, account_detail),
        Read("account_statistics", OfLogin, account_statistics),
        Read("leaderboard", Board, leaders),
        Read(SEAMLESS_URL, OfLogin, seamless),
    )
}
"""All reads by name: those of `worker.b2copy.B2Copy`'s methods."""


def as_json(value: Any) -> Any:
    """Return what a read has read, as JSON: B2COPY's whole answer as `raw`, but not in each object of a list.

    A seamless URL stays an object that hides itself.
    """
    if isinstance(value, list):
        return [one.model_dump(mode="json", exclude={"raw"}) for one in value]
    return value.model_dump(mode="json") if isinstance(value, Answered) else value


def read_named(name: str) -> Read[Any]:
    """Return a read. Raises `BadPayload` that lists them."""
    if not isinstance(name, str) or name not in READS:
        known = "; ".join(f"{read.name} ({', '.join(read.payload.model_fields)})" for read in READS.values())
        raise BadPayload(f"{name!r} is no read: there are {known}")
    return READS[name]
