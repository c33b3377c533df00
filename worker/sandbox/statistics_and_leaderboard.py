"""The data of the statistics and leaderboard widgets, for accounts that were created in this sandbox.

Pages "Get data for the statistics widget" and "Get data for the leaderboard widget". As in their samples, dates have
two formats and numbers may be strings. The fields of statistics are not documented.
"""

from typing import Any

from worker.sandbox.accounts import Account, Accounts
from worker.sandbox.fields import parameter
from worker.sandbox.responses import Refused, enveloped

_PLATFORMS = {1, 2, 3}  # copy trading, PAMM, MAM


def detail(accounts: Accounts, number: str, query: dict[str, str]) -> dict[str, Any]:
    """Return one account. Raises Refused: 400 a parameter, 404 the account."""
    account = _account(accounts, number, query)
    return enveloped(
        {
            "id": account["id"],
            "aum": "0.00",
            "followers": 0,
            "badge": "",
            "created": account["createdAt"].partition("+")[0].replace("T", " "),
            "currency": "USD",
            "description": account.get("accountDescription", ""),
        }
    )


def statistics(accounts: Accounts, number: str, query: dict[str, str]) -> dict[str, Any]:
    """Return the profit of one account, which is none. Raises Refused: 400 a parameter, 404 the account."""
    account = _account(accounts, number, query)
    return enveloped({"id": account["id"], "profit": []})


def leaderboard(accounts: Accounts, query: dict[str, str]) -> dict[str, Any]:
    """Return the master accounts; the sandbox does not know for which `platform` they are. Raises Refused (400)."""
    platform = parameter(query, "investment_platform_id")
    if parameter(query, "platform") not in _PLATFORMS:
        raise Refused(400, "platform must be 1, 2 or 3")
    masters = [a for a in accounts.all if a["isMaster"] and a["investmentPlatformId"] == platform]
    return enveloped(
        {
            "accounts": [
                {
                    "name": account.get("accountName", account["accountNumber"]),
                    "badge": "",
                    "created": account["createdAt"],
                    "login": account["accountNumber"],
                    "currency": "USD",
                    "risk": "0",
                    "profit": [],
                }
                for account in masters
            ]
        }
    )


def _account(accounts: Accounts, number: str, query: dict[str, str]) -> Account:
    account = accounts.find(parameter(query, "investment_platform_id"), number)
    if account is None:
        raise Refused(404, f"account {number} is not found")
    return account
