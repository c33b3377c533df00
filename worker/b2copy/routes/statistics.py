"""What the statistics widget shows about an account.

Documentation: docs.b2copy.b2broker.com, get-data-for-the-statistics-widget. The fields of the statistics are not
documented.
"""

from pydantic import Field

from worker.b2copy.fields import Answered, Instant, Money, Text, WholeNumber, named, read_as
from worker.b2copy.route import Request, Route

_PAGE_URL = "https://docs.b2copy.b2broker.com/get-data-for-the-statistics-widget"


class OfAccount(Request):
    """An account, by its MT login."""

    account: str = Field(min_length=1)
    platform: int = Field(1, alias="investment_platform_id", ge=1)


class Detail(Answered):
    """`aum` are the assets under management, in `currency`."""

    account_id: Text = named("id")
    aum: Money = None
    followers: WholeNumber = None
    badge: Text = None
    created: Instant = None
    currency: Text = None
    description: Text = None


class Statistics(Answered):
    """The figures of an account: all of them are in `raw`."""


DETAIL = Route(
    name="widget.detail",
    page_url=_PAGE_URL,
    method="GET",
    path="/api/v1/investment/widget/detail/{account}",
    read=read_as(Detail, "widget.detail"),
    login="widgets",
    has_effect=False,
    parameters_in="query",
)
STATISTICS = Route(
    name="widget.statistics",
    page_url=_PAGE_URL,
    method="GET",
    path="/api/v1/investment/widget/statistics/{account}",
    read=read_as(Statistics, "widget.statistics"),
    login="widgets",
    has_effect=False,
    parameters_in="query",
)
