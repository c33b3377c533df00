"""A ledger that was restored from a backup: what had not been done then may have been done since.

So the outcome of every operation that could be sent counts as unknown. What follows is `on_unknown` as always: the kind
asks how it stands, or looks first, or leaves it to a person. `sent` stays as it is: what this ledger never sent can
still be paused, put aside and cancelled, and a person must cancel again what was cancelled since the backup.

Two more things must not be done twice: an open proposal may have been approved since, so it is closed; and a
reconciliation under way has not read the accounts that were opened since, so it is forgotten. And the number of a
proposal that was made since must name no other one: `number_by_time`.
"""

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, case, delete, func, or_, select, true, update

from worker.errors import NotAllowed
from worker.ledger.approvals import close_open, number_by_time
from worker.ledger.audit import record_audit
from worker.ledger.batches import CANCELLED
from worker.ledger.database import Ledger
from worker.ledger.schema import (
    accounts_there,
    audit,
    batches,
    c,
    differences,
    due_now,
    now_ms,
    operations,
    reconciliation,
    requests,
    sql_literal,
)
from worker.ledger.schema import ledger as ledger_row
from worker.operation import MESSAGE_KIND, State

QUIET_MS = 10_000  # a worker writes to the ledger four times a second
SUBJECT = "restored ledger"
"""The `subject` of the audit entry about the restore."""

_failed = c.state == sql_literal(State.FAILED)
# An open operation of a cancelled import that was not sent is left out. The import was cancelled before the backup, so
# the operation was not sent since either. A failed one is included, because it may have been replayed since the backup.
_cancelled = select(batches.c.id).where(batches.c.decision == CANCELLED)
_is_open = c.due_at.is_not(None) & or_(c.sent, c.batch.is_(None), c.batch.not_in(_cancelled))
_may_be_sent = or_(_is_open, _failed) & (c.kind != MESSAGE_KIND)
_never_sent = func.sum(case((c.due_at.is_not(None) & ~c.sent, 1), else_=0))
_COUNT = (
    select(c.kind, c.on_unknown, _failed, func.count(), _never_sent)
    .where(_may_be_sent)
    .group_by(c.kind, c.on_unknown, _failed)
    .order_by(c.kind, c.on_unknown, _failed)
)
_DISTRUST = update(operations).where(_may_be_sent).values(outcome_unknown=true())
_NAME_STEP = (
    update(operations)
    .where(_may_be_sent, c.kind == bindparam("of_kind"), c.unknown_step.is_(None))
    .values(unknown_step=bindparam("step"))
)
# A lease of before the backup: its holder has no part in this ledger.
_END_LEASES = update(operations).where(c.state == sql_literal(State.RUNNING)).values(due_at=due_now())
_OLDEST_REQUEST = select(func.min(requests.c.id))
_RESTORED_AT = select(func.max(audit.c.at)).where(audit.c.subject == SUBJECT)


class Distrusted(NamedTuple):
    """How many operations of a kind count as unknown now. `failed`: they are only sent if a person replays them.

    `never_sent`: so many of them are open, and this ledger has sent nothing of them. A person can cancel these.
    """

    kind: str
    on_unknown: str
    failed: bool
    operations: int
    never_sent: int


def restored_at(ledger: Ledger) -> int | None:
    """Return when this ledger was last marked as one from a backup (ms since the epoch); None if it never was."""
    with ledger.reading() as connection:
        at: int | None = connection.execute(_RESTORED_AT).scalar()
        return at


def check_quiet(ledger: Ledger) -> None:
    """Raises `NotAllowed` if a worker has dispatched within ten seconds: it would send what has not been marked yet.

    Beat alone is not noticed, and does no harm: it only sends messages that start jobs in workers.
    """
    with ledger.reading() as connection:
        _check_quiet(connection)


def distrust_restored(ledger: Ledger, steps: Mapping[str, str], actor: str, note: str) -> list[Distrusted]:
    """Mark the outcome of every open or failed operation as unknown, once, before the workers start.

    A second time would also mark what was recorded in between. `steps`: kind -> its step with the effect, for kinds
    that store which step has begun. Raises `NotAllowed` as `check_quiet` does, or if `b2copy_requests` holds rows: a
    worker would take them as new operations, and they may have been taken and done since the backup.
    """

    def work(connection: Connection) -> list[Distrusted]:
        _check_quiet(connection)
        if (oldest := connection.execute(_OLDEST_REQUEST).scalar()) is not None:
            raise NotAllowed(
                f"row {oldest} of b2copy_requests is not recorded as an operation, so a worker would take it for a new"
                " request, although it may have been done since the backup: repeat this; if the row stays, find out"
                " whether it was done and delete it"
            )
        counted = [Distrusted(*row) for row in connection.execute(_COUNT)]
        connection.execute(_DISTRUST)
        for kind, step in steps.items():
            connection.execute(_NAME_STEP, {"of_kind": kind, "step": step})
        connection.execute(_END_LEASES)
        close_open(connection, "the ledger came from a backup: it may have been decided since")
        number_by_time(connection)
        for table in (differences, accounts_there, reconciliation):
            connection.execute(delete(table))
        total = sum(one.operations for one in counted)
        record_audit(connection, "distrust", actor, note, SUBJECT, after={"operations": total})
        return counted

    return ledger.write(work)


def _check_quiet(connection: Connection) -> None:
    # The clock of the database that the backup came from may have been ahead. Running workers set it right.
    now, dispatched_at = connection.execute(select(now_ms(), ledger_row.c.dispatched_at)).one()
    if abs(now - dispatched_at) < QUIET_MS:
        raise NotAllowed("workers are running on this ledger: stop all of them, and repeat this ten seconds later")
