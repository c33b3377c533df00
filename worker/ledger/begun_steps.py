"""Store that a step with an effect has begun, before its request. If this worker is lost, the next holder knows of it.

claim ── auth_url ── wizard.init ── begin "wizard" ── wizard ── settle
         lost here: nothing was done                 | lost here: the outcome of "wizard" is unknown
"""

import json
from typing import Any

from sqlalchemy import Boolean, bindparam, case, update

from worker.ledger.database import Ledger
from worker.ledger.schema import c, operations, sql_literal
from worker.operation import Claim, State

_BEGIN = (
    update(operations)
    .where(
        c.id == bindparam("held_id"),
        c.state == sql_literal(State.RUNNING),
        c.lease_owner == bindparam("holder"),
        c.fence == bindparam("held"),
    )
    .values(
        unknown_step=bindparam("step"),
        progress=case((bindparam("keeps", type_=Boolean), c.progress), else_=bindparam("reached")),
    )
)


def begin_step(ledger: Ledger, claim: Claim, step: str, progress: dict[str, Any] | None) -> bool:
    """Store that the request of `step` may have been sent. Returns False if the claim holds the operation no more."""
    values = {
        "held_id": claim.id,
        "holder": claim.lease_owner,
        "held": claim.fence,
        "step": step,
        "keeps": progress is None,
        "reached": json.dumps(progress) if progress else None,
    }
    with ledger.writing() as connection:
        return connection.execute(_BEGIN, values).rowcount == 1
