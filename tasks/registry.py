"""All kinds of operation."""

from typing import Any

from tasks.accounts import ACCOUNTS
from tasks.clients import CLIENTS
from tasks.fees import FEES
from tasks.generic_call import CALL
from tasks.notices import NOTIFY
from worker.operation_kind import Kind

KINDS: dict[str, Kind[Any]] = {kind.name: kind for kind in (FEES, CLIENTS, ACCOUNTS, CALL)}

ALL_KINDS: dict[str, Kind[Any]] = KINDS | {NOTIFY.name: NOTIFY}
"""With the kind that nobody requests: the ledger records it."""
