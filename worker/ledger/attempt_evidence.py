"""Evidence: every attempt is stored. Equal answers in a row ("pending" for three days) extend one row.

Such a row has the number of answers (`times`), and the times of the first (`started_at`) and last (`last_at`).
"""

import hashlib
import json
from time import time
from typing import Any

from sqlalchemy import Connection, case, select, true

from worker.ledger.prepared_statements import Given, PreparedForRows
from worker.ledger.schema import attempts, insert_into
from worker.operation import MESSAGE_LIMIT, AttemptRecord, Claim
from worker.storable import storable_json

LEASE_LAPSED = "lease_lapsed"
"""The outcome word of an attempt whose holder let its lease lapse."""

_COLUMNS = (
    "operation_id", "fence", "started_at", "last_at", "times", "duration_ms", "http_status", "outcome", "message",
    "steps", "counted", "request_id", "worker", "version", "late",
)  # fmt: skip
_REPLACED = (
    "last_at", "duration_ms", "http_status", "outcome", "message", "steps", "request_id", "worker", "version", "late",
)  # fmt: skip


def _upsert(given: Given, dialect: str) -> Any:
    # The row exists if this answer equals the last one, or if the lease lapsed and another process claimed since.
    # SQLite needs a WHERE here, or it reads ON CONFLICT as the ON of a join.
    rows = select(*(given[name].label(name) for name in _COLUMNS)).where(true())
    insert = insert_into(attempts, dialect).from_select(list(_COLUMNS), rows)
    new = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=["operation_id", "fence"],
        set_={
            "times": case((new.late, new.times), else_=attempts.c.times + new.times),
            **{name: new[name] for name in _REPLACED},
        },
        # Late evidence never replaces what the holder wrote itself, for instance when the answer to its COMMIT is lost.
        where=~new.late | (attempts.c.outcome == LEASE_LAPSED),
    )


_STORE = PreparedForRows({name: attempts.c[name].type for name in _COLUMNS}, _upsert)


class Evidence:
    """Collects the attempts of one transaction and stores them at its end. `now` is the database's clock, in ms."""

    def __init__(self, now: int) -> None:
        # Database time minus local time: attempts arrive in local time and are stored in database time.
        self._clock_offset_ms = now - round(time() * 1000)
        self._rows: list[tuple[Any, ...]] = []

    def add(self, claim: Claim, attempt: AttemptRecord, fence: int, late: bool = False) -> None:
        """Add an attempt of a claim, to be stored in the row of `fence`."""
        started_at = attempt.started_at + self._clock_offset_ms
        steps = json.dumps(attempt.steps) if attempt.steps else None
        self._rows.append((
            claim.id, fence, started_at, started_at + attempt.duration_ms, 1, attempt.duration_ms, attempt.http_status,
            attempt.outcome, _message(attempt), steps, attempt.counted, storable_json(attempt.request_id),
            attempt.worker, attempt.version, late,
        ))  # fmt: skip

    def store(self, connection: Connection) -> None:
        _STORE.run(connection, self._rows)


def fence_of_answer(claim: Claim, answer: str) -> int:
    """Return the fence of the row that stores an answer: the last answer's row if the two are equal."""
    if claim.last_answer_fence is None or claim.last_answer != answer:
        return claim.fence
    return claim.last_answer_fence


def digest(attempt: AttemptRecord) -> str:
    """Return what two answers have in common if they are stored as one row: everything except when they came."""
    steps = tuple((step.name, step.http_status, step.outcome) for step in attempt.steps)
    answer = (
        attempt.http_status, attempt.outcome, _message(attempt), attempt.counted, attempt.request_id, attempt.version,
        steps,
    )  # fmt: skip
    return hashlib.blake2b(repr(answer).encode(), digest_size=8).hexdigest()


def _message(attempt: AttemptRecord) -> str | None:
    """Return the server message as both databases can store it: no NUL, and no half of a surrogate pair."""
    message = attempt.message
    if not message:
        return message
    message = message[:MESSAGE_LIMIT]
    if not message.isascii():
        message = message.encode("utf-8", "replace").decode()
    return message.replace("\0", "\ufffd")
