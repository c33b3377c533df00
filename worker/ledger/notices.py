"""Notices: operations that tell the CRM what became of another operation, recorded in the transaction that ended it.

Each end of an operation has a notice of its own, with a higher `sequence`. So the CRM learns of a failure, and then of
the replay that succeeded. A newer notice supersedes an older one that was not delivered yet.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, bindparam, func, null, select, update

from worker.ledger.audit import record_audit
from worker.ledger.insert_operations import encode, insert_queued, row_of
from worker.ledger.schema import allowed_from, attempts, c, in_list, operations, sql_literal
from worker.operation import MESSAGE_KIND, NOTICE_KIND, New, OnUnknown, State
from worker.queues import CRM, NOTIFY

GIVES_UP_AFTER_S = 72 * 3600.0
BY = "b2copy-sync"

_IDENTIFIER_LIMIT = 255  # characters of a payload field that a notice repeats

_NUMBER = (
    update(operations)
    .where(in_list(c.id, "ids"), c.kind != sql_literal(NOTICE_KIND))
    .values(notices=c.notices + 1)
    .returning(c.id)
)
_last_message = (
    select(attempts.c.message)
    .where(attempts.c.operation_id == c.id, attempts.c.message != "")
    .order_by(attempts.c.fence.desc())
    .limit(1)
    .scalar_subquery()
)
_made = select(func.sum(attempts.c.times)).where(attempts.c.operation_id == c.id).scalar_subquery()
_ENDED = (
    select(
        c.id, c.key, c.kind, c.payload, c.state, c.failure_reason, c.requested_at, c.ended_at, c.result, c.trace_id,
        c.notices, _last_message.label("message"), _made.label("attempts"),
    )
    .where(in_list(c.id, "ids"))
    .order_by(c.id)
)  # fmt: skip
_SUPERSEDE = (
    update(operations)
    .where(in_list(c.key, "keys"), allowed_from("supersede"))
    .values(
        state=sql_literal(State.CANCELLED),
        wait_reason=null(),
        lease_owner=null(),
        due_at=null(),
        state_since=bindparam("now"),
        ended_at=bindparam("now"),
    )
    .returning(c.key)
)


def record_notices(connection: Connection, ids: Sequence[int], now: int) -> None:
    """Record a notice for each of these operations, which have just ended. An end of a notice has no notice."""
    ended = connection.execute(_NUMBER, {"ids": list(ids)}).scalars().all()
    if not ended:
        return
    rows = connection.execute(_ENDED, {"ids": list(ended)}).all()
    if earlier := [_key(row.id, row.notices - 1) for row in rows if row.notices > 1]:
        for key in connection.execute(_SUPERSEDE, {"keys": earlier, "now": now}).scalars():
            record_audit(connection, "supersede", BY, "a newer notice about the same operation was recorded", key)
    insert_queued(connection, [row_of(_notice(row), BY) for row in rows])


def _key(operation_id: int, sequence: int) -> str:
    return f"{NOTICE_KIND}:{operation_id}.{sequence}"


def _notice(row: Any) -> New:
    return New(
        kind=NOTICE_KIND,
        key=_key(row.id, row.notices),
        # The text of the body is stored once, so that every try sends the same bytes.
        payload={"id": f"ntc_{row.id}_{row.notices}", "body": encode(_body(row))},
        lane=NOTIFY,
        time_allowed_s=GIVES_UP_AFTER_S,
        on_unknown=OnUnknown.REPEAT,
        destination=CRM,
        trace_id=row.trace_id,
    )


def _body(row: Any) -> dict[str, Any]:
    """Return the body of a notice: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec"""
    message = json.loads(row.result).get("error") if row.kind == MESSAGE_KIND and row.result else row.message
    return {
        "type": f"operation.{row.state}",
        "timestamp": _iso(row.ended_at),
        "data": {
            "key": row.key,
            "kind": row.kind,
            "state": row.state,
            "failure_reason": row.failure_reason,
            "server_message": message,
            "payload": _identifiers(json.loads(row.payload)),
            "attempts": int(row.attempts or 0),
            "requested_at": _iso(row.requested_at),
            "ended_at": _iso(row.ended_at),
            "sequence": row.notices,
            "trace_id": row.trace_id,
        },
    }


def _identifiers(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the short fields of a payload. The ids that the CRM knows the operation by are among them."""
    return {
        name: value
        for name, value in payload.items()
        if isinstance(value, int) or (isinstance(value, str) and len(value) <= _IDENTIFIER_LIMIT)
    }


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
