"""Notices: operations that tell the CRM what became of another operation, recorded in the transaction that ended it.

Each end of an operation has a notice of its own, with a higher `sequence`. So the CRM learns of a failure, and then of
the replay that succeeded. A newer notice supersedes an older one that was not delivered yet.

Whether the CRM wants notices stands in the ledger, because operations end in many processes: workers, the console, the
command line, the CRM. A worker with `B2COPY_WEBHOOK_URL` or `B2COPY_NOTIFY_TASK` says so for the next week
(`want_notices`), and again every minute.
"""

import json
import logging
import time
import weakref
from collections.abc import Sequence
from secrets import token_hex
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, case, exists, func, null, select, update

from worker.iso_time import iso_time
from worker.ledger.audit import record_audit
from worker.ledger.database import Ledger
from worker.ledger.insert_operations import NewRow, decode_payload, encode, insert_queued, row_of
from worker.ledger.queries import LAST_MESSAGE
from worker.ledger.schema import allowed_from, attempts, c, in_list, now_ms, operations, sql_literal
from worker.ledger.schema import ledger as ledger_row
from worker.operation import MESSAGE_KIND, NOTICE_KIND, New, OnUnknown, State
from worker.queues import CRM, NOTIFY

log = logging.getLogger(__name__)

GIVES_UP_AFTER_S = 72 * 3600.0  # seconds
# Seconds for which notices are recorded after the last `want_notices`: an outage of all workers must lose no notice.
WANTED_FOR_S = 7 * 86_400.0
LOOK_AGAIN_S = 10.0  # seconds between two looks of one process whether the CRM wants notices
CANCEL_CHUNK = 500  # notices that one transaction cancels: each has an entry in the audit
BY = "b2copy-sync"

_WANT = update(ledger_row).values(notices_until=now_ms() + round(WANTED_FOR_S * 1000))
_WANTED_UNTIL = select(ledger_row.c.notices_until, ledger_row.c.notices_until > now_ms())
_looked: weakref.WeakKeyDictionary[Engine, tuple[float, bool]] = weakref.WeakKeyDictionary()  # monotonic s, answer

_IDENTIFIER_LIMIT = 255  # characters of a payload field that a notice repeats

# Higher than that of any earlier operation of the same key, which may have been purged: so it begins with the time.
_next_sequence = case((c.notice_sequence < c.ended_at, c.ended_at), else_=c.notice_sequence + 1)
_NUMBER = update(operations).where(in_list(c.id, "ids")).values(notice_sequence=_next_sequence)
_made = select(func.sum(attempts.c.times)).where(attempts.c.operation_id == c.id).scalar_subquery()
_ENDED = (
    select(
        c.id, c.key, c.kind, c.payload, c.state, c.failure_reason, c.requested_at, c.ended_at, c.result, c.trace_id,
        c.notice_sequence.label("earlier"), _next_sequence.label("sequence"), LAST_MESSAGE.label("message"),
        _made.label("attempts"),
    )
    .where(in_list(c.id, "ids"), c.kind != sql_literal(NOTICE_KIND))
    .order_by(c.id)
)  # fmt: skip


def _cancel(move: str, condition: Any, instant: Any) -> Any:
    """Return the statement that cancels notices, and returns their keys."""
    ended = {"state": sql_literal(State.CANCELLED), "state_since": instant, "ended_at": instant}
    nobodys = {"wait_reason": null(), "lease_owner": null(), "due_at": null()}
    return update(operations).where(condition, allowed_from(move)).values(**ended, **nobodys).returning(c.key)


_SUPERSEDE = _cancel("supersede", in_list(c.key, "keys"), bindparam("now"))
# Of the notices that run, only those whose worker was lost: the others are settled by the worker that holds them.
_LOCK_UNWANTED = (
    select(c.id)
    .where(c.lane == sql_literal(NOTIFY), c.due_at.is_not(None), c.kind == sql_literal(NOTICE_KIND))
    .where((c.state != sql_literal(State.RUNNING)) | (c.due_at <= now_ms()))
    .where(~exists().where(ledger_row.c.notices_until > now_ms()))
    .limit(CANCEL_CHUNK)
    .with_for_update(skip_locked=True)
)
_CANCEL = _cancel("cancel_notice", in_list(c.id, "ids"), now_ms())
_CANCEL_NOTE = "no worker has had B2COPY_WEBHOOK_URL or B2COPY_NOTIFY_TASK for a week: nobody delivers notices any more"


def want_notices(ledger: Ledger) -> None:
    """Have every process record notices for the next `WANTED_FOR_S`. Called by workers that can deliver them."""
    with ledger.writing() as connection:
        connection.execute(_WANT)
    _looked.pop(ledger.engine, None)


def notices_wanted_until(ledger: Ledger) -> int | None:
    """Return until when the CRM wants notices (ms since the epoch), or None if it wants none."""
    with ledger.reading() as connection:
        until, is_wanted = connection.execute(_WANTED_UNTIL).one()
    return int(until) if is_wanted else None


def are_notices_wanted(connection: Connection) -> bool:
    """Return whether the CRM wants notices. The answer may be `LOOK_AGAIN_S` old, so that settling costs no more."""
    looked_at, is_wanted = _looked.get(connection.engine, (-LOOK_AGAIN_S, False))
    if time.monotonic() - looked_at >= LOOK_AGAIN_S:
        is_wanted = bool(connection.execute(_WANTED_UNTIL).one()[1])
        _looked[connection.engine] = (time.monotonic(), is_wanted)
    return is_wanted


def cancel_unwanted_notices(ledger: Ledger, time_s: float) -> None:
    """Cancel what waits to be delivered if the CRM wants no notices any more, for about `time_s` seconds.

    No worker claims these notices, so without this they would be due for ever.
    """
    ends = time.monotonic() + time_s
    while ledger.write(_cancel_chunk) == CANCEL_CHUNK and time.monotonic() < ends:
        pass


def _cancel_chunk(connection: Connection) -> int:
    """Cancel the next unwanted notices. Returns how many."""
    ids = list(connection.execute(_LOCK_UNWANTED).scalars())
    cancelled = connection.execute(_CANCEL, {"ids": ids}).scalars().all() if ids else ()
    for key in cancelled:
        record_audit(connection, "cancel", BY, _CANCEL_NOTE, key)
    return len(cancelled)


def record_notices(connection: Connection, ids: Sequence[int], now: int) -> None:
    """Record a notice for each of these operations, which have just ended. An end of a notice has no notice."""
    rows = connection.execute(_ENDED, {"ids": list(ids)}).all()
    if not rows:
        return
    connection.execute(_NUMBER, {"ids": [row.id for row in rows]})
    if earlier := [_key(row.id, row.earlier) for row in rows if row.earlier]:
        for key in connection.execute(_SUPERSEDE, {"keys": earlier, "now": now}).scalars():
            record_audit(connection, "supersede", BY, "a newer notice about the same operation was recorded", key)
    notices = [notice for row in rows if (notice := _row_of_notice(row)) is not None]
    if not notices:
        return
    recorded = {row.key for row in insert_queued(connection, notices)}
    if taken := [notice for notice in notices if notice.key not in recorded]:
        log.error(
            "notices get other keys, because operations that this program did not record have these keys: %s",
            ", ".join(one.key for one in taken),
        )
        insert_queued(connection, [one._replace(key=f"{one.key}.{token_hex(8)}") for one in taken])


def _key(operation_id: int, sequence: int) -> str:
    return f"{NOTICE_KIND}:{operation_id}.{sequence}"


def _row_of_notice(row: Any) -> NewRow | None:
    """Return the row of an operation's notice. None if somebody else wrote the operation so that it can have no notice.

    An error here would undo the transaction that ends the operation, each time: the operation would never end. If a
    claim ends it because its row cannot be read, the error would also stop the lane.
    """
    try:
        return row_of(_notice(row), BY)
    except (ValueError, OverflowError) as error:
        log.error("the CRM gets no notice about %s, because none can be made of its row: %s", row.key[:255], error)
        return None


def _notice(row: Any) -> New:
    return New(
        kind=NOTICE_KIND,
        key=_key(row.id, row.sequence),
        # Both are stored, so that every try sends the same bytes. The id is random, because operation ids repeat: in a
        # ledger that was restored, and in a second one.
        payload={"id": f"ntc_{row.id}_{token_hex(8)}", "body": encode(_body(row))},
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
        "timestamp": iso_time(row.ended_at / 1000),
        "data": {
            "key": row.key,
            "kind": row.kind,
            "state": row.state,
            "failure_reason": row.failure_reason,
            "server_message": message,
            "payload": _identifiers(decode_payload(row.payload)),
            "attempts": int(row.attempts or 0),
            "requested_at": iso_time(row.requested_at / 1000),
            "ended_at": iso_time(row.ended_at / 1000),
            "sequence": row.sequence,
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
