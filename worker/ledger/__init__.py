"""The ledger: the source of truth about every operation, in SQL, on SQLite or PostgreSQL.

    record ──> claim ──> (renew_leases) ──> settle       what the engine does
    find, attempts_of, search                            what anybody may ask
    replay, cancel, poll_now, pause                      what people decide

Every function is one transaction that happens completely or not at all, except `purge`, `sweep`, `compare_identities`
and `store_identities`, which make many short ones. SQLAlchemy's errors (disk full, database gone) pass through.
`worker.operation` holds the vocabulary and the table of states.

Commands and the console decide through `approvals`, which proposes what needs a second person.
"""

from worker.ledger.batches import sweep
from worker.ledger.claims import LEASE_S, renew_leases, return_unsent
from worker.ledger.database import DATABASE_UNAVAILABLE_ERRORS, Ledger, open_ledger
from worker.ledger.due import count_due, count_waiting, make_due, try_start_dispatch
from worker.ledger.fleet_flags import raise_flag
from worker.ledger.identities import (
    Identity,
    compare_identities,
    identities_of,
    identity_of,
    mark_closed,
    store_identities,
)
from worker.ledger.operator_actions import cancel, poll_now, replay
from worker.ledger.pauses import pause
from worker.ledger.purge import purge
from worker.ledger.queries import active_flags, attempts_of, audit_of, find, find_many, search
from worker.ledger.record_operations import fail_message, leave_request, record
from worker.ledger.settle import settle, settle_and_claim

__all__ = [
    "DATABASE_UNAVAILABLE_ERRORS",
    "LEASE_S",
    "Identity",
    "Ledger",
    "active_flags",
    "attempts_of",
    "audit_of",
    "cancel",
    "compare_identities",
    "count_due",
    "count_waiting",
    "fail_message",
    "find",
    "find_many",
    "identities_of",
    "identity_of",
    "leave_request",
    "make_due",
    "mark_closed",
    "open_ledger",
    "pause",
    "poll_now",
    "purge",
    "raise_flag",
    "record",
    "renew_leases",
    "replay",
    "return_unsent",
    "search",
    "settle",
    "settle_and_claim",
    "store_identities",
    "sweep",
    "try_start_dispatch",
]
