"""A book of accounts that B2COPY and the identity map both have, apart from planted differences."""

from typing import Any

from worker.ledger import Identity, Ledger, store_identities
from worker.sandbox.control_client import SandboxControl

SORTS = ("missing_there", "missing_here", "client_id", "account_id")


def number_of(place: int) -> str:
    return str(700_000 + place)


def plant(ledger: Ledger, control: SandboxControl, accounts: int, planted: int = 0) -> dict[str, str]:
    """Fill both sides; the sandbox must be empty. Returns login -> difference of what is planted, spread evenly."""
    chosen = {accounts * at // planted: SORTS[at % len(SORTS)] for at in range(planted)}
    there: list[dict[str, Any]] = []
    here: list[Identity] = []
    for place in range(accounts):
        sort = chosen.get(place)
        client = place + 1
        if sort != "missing_there":
            there.append({"accountNumber": number_of(place), "clientId": client})
        known_client = client + 1_000_000 if sort == "client_id" else client
        account = len(there) + (1_000_000 if sort in {"account_id", "missing_there"} else 0)
        if sort != "missing_here":
            identity = Identity("1", number_of(place), account_id=str(account), client_id=str(known_client))
            here.append(identity)
    control.add_accounts(there)
    store_identities(ledger, here)
    return {number_of(place): sort if sort.startswith("missing") else "different" for place, sort in chosen.items()}
