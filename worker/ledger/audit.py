"""The audit: what people decided and what this program did by itself, with the reason. Rows are only ever added.

The subject of most entries is an operation's key, a flag's name or `batch:<id>`. Others are `session`, `schema`,
`identity <platform>/<login>`, `reconciliation <run>`, `operations` (a purge), `four_eyes`, `b2copy_host` and
`restored ledger`.
"""

import json
from typing import Any

from sqlalchemy import Connection, insert

from worker.ledger.schema import audit, now_ms

CORRECT = "correct"
"""The action of the entry about a corrected payload; its `before` holds the payload that the operation had."""


def record_audit(
    connection: Connection,
    action: str,
    actor: str,
    note: str,
    subject: str,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Add an entry. `before` and `after` hold what was changed of the subject."""
    changes = {name: values for name, values in (("before", before), ("after", after)) if values is not None}
    detail = json.dumps(changes) if changes else None
    connection.execute(
        insert(audit).values(at=now_ms(), actor=actor, action=action, subject=subject, note=note, detail=detail)
    )
