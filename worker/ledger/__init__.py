"""The ledger: the truth about every operation, in SQL, on SQLite or PostgreSQL.

    record ──> claim ──> (renew) ──> settle            what the engine does
    find, attempts, search                             what anybody may ask
    replay, cancel, stop_asking, pause                 what people decide

Every function is one transaction that either happens whole or not at all; SQLAlchemy's errors (disk full, database
gone) pass through. `operation` holds the words and the table of states.
"""

from worker.ledger.decide import cancel, lower_flag, pause, raise_flag, refresh, replay, resume, stop_asking
from worker.ledger.dispatch import backlog, dispatch_turn, due, release
from worker.ledger.intake import fail_message, record
from worker.ledger.lease import LEASE, claim, hand_back, renew
from worker.ledger.lookup import attempts, decisions, find, find_many, raised, search
from worker.ledger.operation import (
    FINAL,
    LANES,
    Attempt,
    Claim,
    Decision,
    New,
    Operation,
    Reason,
    Recorded,
    State,
    Verdict,
    Why,
)
from worker.ledger.retention import purge
from worker.ledger.store import AWAY, Ledger, open_ledger
from worker.ledger.verdicts import settle, turn

__all__ = [
    "AWAY",
    "FINAL",
    "LANES",
    "LEASE",
    "Attempt",
    "Claim",
    "Decision",
    "Ledger",
    "New",
    "Operation",
    "Reason",
    "Recorded",
    "State",
    "Verdict",
    "Why",
    "attempts",
    "backlog",
    "cancel",
    "claim",
    "decisions",
    "dispatch_turn",
    "due",
    "fail_message",
    "find",
    "find_many",
    "hand_back",
    "lower_flag",
    "open_ledger",
    "pause",
    "purge",
    "raise_flag",
    "raised",
    "record",
    "refresh",
    "release",
    "renew",
    "replay",
    "resume",
    "search",
    "settle",
    "stop_asking",
    "turn",
]
