"""A ledger that came from a backup: what it believes was not sent may have been sent since the backup.

So every operation that could be sent counts as one whose outcome is unknown. What follows is `on_unknown` as always:
the kind asks how it stands, or looks first, or leaves it to a person.
"""

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import bindparam, func, or_, select, true, update

from worker.errors import NotAllowed
from worker.ledger.audit import record_audit
from worker.ledger.database import Ledger
from worker.ledger.schema import c, now_ms, operations, sql_literal
from worker.ledger.schema import ledger as ledger_row
from worker.operation import MESSAGE_KIND, State

QUIET_MS = 10_000  # a worker or beat writes to the ledger once a second

_may_be_sent = or_(c.due_at.is_not(None), c.state == sql_literal(State.FAILED)) & (c.kind != MESSAGE_KIND)
_COUNT = (
    select(c.kind, c.on_unknown, c.state == sql_literal(State.FAILED), func.count())
    .where(_may_be_sent)
    .group_by(c.kind, c.on_unknown, c.state == sql_literal(State.FAILED))
    .order_by(c.kind, c.on_unknown)
)
_DISTRUST = update(operations).where(_may_be_sent).values(sent=true(), outcome_unknown=true())
_NAME_STEP = (
    update(operations)
    .where(_may_be_sent, c.kind == bindparam("of_kind"), c.unknown_step.is_(None))
    .values(unknown_step=bindparam("step"))
)
# A lease of before the backup: its holder has no part in this ledger.
_END_LEASES = update(operations).where(c.state == sql_literal(State.RUNNING)).values(due_at=now_ms())


class Distrusted(NamedTuple):
    """How many operations of a kind count as unknown now. `failed`: they are only sent if a person replays them."""

    kind: str
    on_unknown: str
    failed: bool
    operations: int


def distrust_restored(ledger: Ledger, steps: Mapping[str, str], actor: str, note: str) -> list[Distrusted]:
    """Mark every open or failed operation as sent, with an unknown outcome. A second time changes nothing.

    `steps`: kind -> its step with the effect, for kinds that store which step has begun. Raises `NotAllowed` if workers
    or beat are running: they would send what has not been marked yet.
    """
    with ledger.writing() as connection:
        now, dispatched_at = connection.execute(select(now_ms(), ledger_row.c.dispatched_at)).one()
        if now - dispatched_at < QUIET_MS:
            raise NotAllowed(
                "workers or beat are running on this ledger: stop all of them, and repeat this ten seconds later"
            )
        counted = [Distrusted(*row) for row in connection.execute(_COUNT)]
        connection.execute(_DISTRUST)
        for kind, step in steps.items():
            connection.execute(_NAME_STEP, {"of_kind": kind, "step": step})
        connection.execute(_END_LEASES)
        total = sum(one.operations for one in counted)
        record_audit(connection, "distrust", actor, note, "restored ledger", after={"operations": total})
        return counted
