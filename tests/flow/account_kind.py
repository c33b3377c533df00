"""A small kind that reads back: it opens an account at the sandbox. Run as a program, it is a worker of this kind."""

import sys
from collections.abc import Mapping
from typing import Any

from worker.b2copy import Route
from worker.errors import UnknownOutcome
from worker.flow.pusher import Pusher
from worker.instances import b2copy, ledger
from worker.operation import Done, OnUnknown, Outcome
from worker.operation_kind import Attempt, Description, Kind, Payload, read_back
from worker.settings import worker_settings

PLATFORM = 1


class Account(Payload):
    number: str


def read_accounts(body: Any, sent: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not isinstance(body, list):
        raise UnknownOutcome("accounts: the answer is not a list", 200)
    return body


LOOK = Route("accounts.list", "", "GET", "/api/v2/b2copy/accounts", read_accounts, has_effect=False)
CREATE = Route("accounts.create", "", "POST", "/api/v2/b2copy/accounts/create", lambda body, sent: body)


async def attempt(attempt: Attempt, account: Account) -> Outcome:
    async def look() -> Outcome | None:
        found = await attempt.call(LOOK, {"account_number": account.number})
        return Done(found[0]) if found else None

    if outcome := await read_back(attempt, look):
        return outcome
    body = {
        "clientId": 1,
        "investmentPlatformId": PLATFORM,
        "accountNumber": account.number,
        "productCurrencyId": 1,
        "isMaster": 0,
    }
    return Done(await attempt.call(CREATE, body))


ACCOUNT = Kind(
    name="test.account",
    payload=Account,
    describe=lambda account: Description(account.number),
    attempt=attempt,
    on_unknown=OnUnknown.READ_BACK,
    time_allowed_s=lambda settings: 3600.0,
)

if __name__ == "__main__":
    Pusher(ledger(), {ACCOUNT.name: ACCOUNT}, {"b2copy": b2copy}, worker_settings()).drain("default")
    sys.exit(0)
