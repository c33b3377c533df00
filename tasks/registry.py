"""All kinds of operation, and a Celery task for each: `b2copy.<kind>` takes in messages that ask for one."""

from typing import Any

from tasks.accounts import ACCOUNTS
from tasks.clients import CLIENTS
from tasks.fees import FEES
from tasks.generic_call import CALL
from worker.kind import Kind
from worker.messages.inbox import register_task

KINDS: dict[str, Kind[Any]] = {kind.name: kind for kind in (FEES, CLIENTS, ACCOUNTS, CALL)}

for kind in KINDS.values():
    register_task(kind)
