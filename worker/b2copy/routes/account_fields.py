"""A master or investment account, as the pages of the list and of the creation describe it.

The field names of an answer are not documented. Those of the requests are assumed, in both spellings.
"""

from typing import Any

from pydantic import model_validator

from worker.b2copy.fields import Answered, Flag, IdText, Instant, Needed, Text, WholeNumber, named, needed

NUMBER_NAMES = ("accountNumber", "account_number", "login")


class Account(Answered):
    """`number` is the MT login, `account_id` B2COPY's own id of the account."""

    number: Needed = needed(*NUMBER_NAMES)
    account_id: IdText = named("id", "accountId", "account_id")
    client_id: IdText = named("clientId", "clientID", "client_id")
    platform: WholeNumber = named("investmentPlatformId", "investment_platform_id")
    product_currency_id: WholeNumber = named("productCurrencyId", "product_currency_id")
    is_master: Flag = named("isMaster", "is_master")
    name: Text = named("accountName", "account_name", "name")
    description: Text = named("accountDescription", "account_description", "description")
    email: Text = named("email")
    created: Instant = named("createdAt", "created_at", "created")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, answered: dict[str, Any]) -> dict[str, Any]:
        """A name without a value must not hide the next name of the same field."""
        return {name: value for name, value in answered.items() if value is not None}
