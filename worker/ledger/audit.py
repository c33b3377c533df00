"""The audit: what was decided about operations and flags. Rows are only ever added."""

import json
from typing import Any

from sqlalchemy import Connection, insert

from worker.ledger.schema import audit, now_ms


def record_audit(
    connection: Connection,
    action: str,
    actor: str,
    note: str,
    subject: str,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Add an entry. `before` and `after` hold what the decision changed of the operation."""
    changes = {name: values for name, values in (("before", before), ("after", after)) if values is not None}
    detail = json.dumps(changes) if changes else None
    connection.execute(
        insert(audit).values(at=now_ms(), actor=actor, action=action, subject=subject, note=note, detail=detail)
    )
