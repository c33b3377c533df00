"""Master and investment accounts of generation 1. Field names of an account are not documented: the request's are used.

Pages "Get a list of Master and Investment accounts" and "Create a Master or Investment account using the existing MT
account".
"""

import itertools
from collections.abc import Container, Iterable
from typing import Any

from worker.sandbox.effect_log import Effects
from worker.sandbox.fields import boolean, check_spellings, date, integer, optional_text, parameter, text
from worker.sandbox.responses import Refused
from worker.sandbox.switches import Switches

Account = dict[str, Any]


class Accounts:
    def __init__(self, effects: Effects) -> None:
        self.all: list[Account] = []
        self._by_number: dict[str, list[Account]] = {}
        self._effects = effects
        self._ids = itertools.count(1)
        self._pages = itertools.count()

    def list(self, query: dict[str, str], body: Any, switches: Switches) -> "list[Account]":
        """Return the accounts that match, one page of them. The documentation has the parameters in a GET's body."""
        given: dict[str, Any] = {}
        if switches.list_parameters in {"query", "either"}:
            given |= query
        if switches.list_parameters in {"body", "either"} and isinstance(body, dict):
            given |= body
        if given.get("sort_by", "created_at") != "created_at":
            raise Refused(400, "sort_by must be created_at")
        if given.get("sort_order", "asc") not in ("asc", "desc"):
            raise Refused(400, "sort_order must be asc or desc")
        if len({parameter(given, name) for name in _PLATFORM_NAMES if name in given}) > 1:
            raise Refused(400, "the two spellings of investment_platform_id differ")
        if "is_master" in given:
            given["is_master"] = boolean(given, "is_master")
        limit, offset = parameter(given, "limit", switches.list_limit_max), parameter(given, "offset", 0)
        # A search by number, and a list of all, must be quick for a hundred thousand accounts.
        some = self._by_number.get(str(given["account_number"]), []) if "account_number" in given else self.all
        is_filtered = given.keys() & _FILTERS and switches.list_filters == "obeyed"
        found = [account for account in some if _matches(account, given)] if is_filtered else some
        if switches.list_order == "shifting":
            found = found[:: -1 if next(self._pages) % 2 else 1]
        elif given.get("sort_order") == "desc":
            found = found[::-1]
        if not switches.list_pages:
            return found[: switches.list_limit_max]
        return found[offset : offset + min(limit, switches.list_limit_max)]

    def create(self, body: Any, clients: Container[int], mono: float, now: float, switches: Switches) -> Account:
        """Create an account for an MT login. Raises Refused: 400 a field, 404 the client, 409 it exists already."""
        check_spellings(body, "clientId", "clientID")
        platform, number = integer(body, "investmentPlatformId"), text(body, "accountNumber")
        account: Account = {
            "clientId": integer(body, "clientId"),
            "investmentPlatformId": platform,
            "accountNumber": number,
            "productCurrencyId": integer(body, "productCurrencyId"),
            "isMaster": integer(body, "isMaster"),
            **optional_text(body, "accountName"),
            **optional_text(body, "accountDescription"),
        }
        if account["isMaster"] not in (0, 1):
            raise Refused(400, "isMaster must be 0 or 1")
        if switches.clients == "registered" and account["clientId"] not in clients:
            raise Refused(404, f"client {account['clientId']} is not registered")
        existing = self.find(platform, number)
        if existing and switches.duplicate_accounts == "refused":
            raise Refused(409, f"account {number} exists already")
        if existing and switches.duplicate_accounts == "returned":
            return existing
        email = f"client-{account['clientId']}@sandbox.example"
        account = {"id": next(self._ids), **account, "email": email, "createdAt": date(now)}
        self._add(account)
        self._effects.record("accounts.create", f"{platform}/{number}", mono, body)
        return account

    def add(self, accounts: Iterable[Account], now: float) -> None:
        """Add accounts that nobody has created here: clientId, accountNumber and what else is not as usual."""
        usual = {"investmentPlatformId": 1, "productCurrencyId": 1, "isMaster": 0, "createdAt": date(now)}
        for account in accounts:
            email = f"client-{account['clientId']}@sandbox.example"
            self._add({"id": next(self._ids), **usual, "email": email, **account})

    def close(self, numbers: Iterable[str]) -> int:
        """Remove the accounts with these MT logins; return how many."""
        closed = {number for number in numbers if number in self._by_number}
        before = len(self.all)
        self.all = [account for account in self.all if account["accountNumber"] not in closed]
        for number in closed:
            del self._by_number[number]
        return before - len(self.all)

    def find(self, platform: int, number: str) -> Account | None:
        """Return the first account with this platform and MT login."""
        for account in self._by_number.get(number, []):
            if account["investmentPlatformId"] == platform:
                return account
        return None

    def _add(self, account: Account) -> None:
        self.all.append(account)
        self._by_number.setdefault(account["accountNumber"], []).append(account)


_PLATFORM_NAMES = ("investment_platform_id", "investmentPlatformId")  # the documentation has both
_FILTERS = {*_PLATFORM_NAMES, "account_number", "email", "is_master"}


def _matches(account: Account, given: dict[str, Any]) -> bool:
    fields = {"account_number": "accountNumber", "email": "email"}
    for name, field in (fields | dict.fromkeys(_PLATFORM_NAMES, "investmentPlatformId")).items():
        if name in given and str(given[name]) != str(account[field]):
            return False
    if "is_master" in given:
        return bool(given["is_master"]) == bool(account["isMaster"])
    return True
