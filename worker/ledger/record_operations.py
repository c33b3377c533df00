"""Record operations. A recorded operation is accepted: it is never lost from here on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, insert, select

from worker.errors import BadPayload, NotAllowed, PayloadConflict
from worker.ledger.audit import CORRECT
from worker.ledger.batches import cancelled_among, cancelled_text
from worker.ledger.database import Ledger
from worker.ledger.insert_operations import (
    PAYLOAD_LIMIT,
    NewRow,
    decode_payload,
    encode,
    insert_failed,
    insert_queued,
    printable,
    row_of,
)
from worker.ledger.on_operation_end import Ended, finish_ended
from worker.ledger.schema import audit, c, in_list, operations, requests
from worker.operation import ENDED_INFO, MESSAGE_KIND, FailureReason, New, Recorded, State
from worker.watch.redact import reads_like_secret

_EXISTING = select(c.id, c.key, c.kind, c.state, c.payload).where(in_list(operations.c.key, "keys"))
# The payloads that a key had before a person corrected it. An entry that is older than the operation is about another
# one, which was purged.
_CORRECTED = (
    select(c.key, audit.c.detail)
    .select_from(operations.join(audit, audit.c.subject == c.key))
    .where(
        in_list(c.key, "keys"),
        audit.c.action == CORRECT,
        audit.c.at >= c.requested_at,
        audit.c.detail.is_not(None),  # somebody erased it
    )
)

# A cycle through recorded operations needs one that waits for a new one.
_WAITED_FOR = select(c.id).where(in_list(c.parent, "keys"), c.due_at.is_not(None)).limit(1)
_PARENT_OF = select(c.parent).where(c.key == bindparam("wanted"))


def record(ledger: Ledger, news: Sequence[New], by: str, connection: Connection | None = None) -> list[Recorded]:
    """Record operations, in this order, and return what became of each. `by` says who asks.

    A key that exists is not recorded again, in any state. The payload that it had before a person corrected it is the
    same operation. All operations are recorded or none. With `connection` they are recorded in the caller's own
    transaction, and commit or roll back with what the caller wrote in it.

    Raises `PayloadConflict` if a key exists with another payload, `BadPayload` if a `New` cannot be recorded,
    `NotAllowed` if a new key names a batch that a person has cancelled, and SQLAlchemy's errors if the
    database cannot take it.
    """
    return record_rows(ledger, [row_of(new, by) for new in news], connection)


def record_rows(ledger: Ledger, rows: Sequence[NewRow], connection: Connection | None = None) -> list[Recorded]:
    """Record operations that `row_of` has checked: see `record`."""
    if connection is not None:
        return _record(connection, rows)
    # With a parent or a batch, other rows are looked at first.
    is_one_statement = len(rows) == 1 and not rows[0].parent and not rows[0].batch
    return ledger.write(lambda own: _record(own, rows), is_one_statement)


class Known(NamedTuple):
    """What a key holds already: its state, and the names of what differs; empty if it is the same operation."""

    state: State
    difference: str


def known_among(ledger: Ledger, rows: Mapping[str, NewRow]) -> dict[str, Known]:
    """Return what the ledger holds of these keys already. `record` would leave it, or refuse it if it differs."""
    with ledger.reading() as connection:
        return {one.key: Known(State(one.state), difference) for one, difference in _existing(connection, rows)}


def check_known(connection: Connection, rows: Sequence[NewRow]) -> None:
    """Raise `PayloadConflict` if one of these keys exists with another payload. Writes nothing.

    On PostgreSQL it does not see a key that another transaction records at this moment.
    """
    wanted = {row.key: row for row in rows}
    for stored, difference in _existing(connection, wanted):
        _check_same(stored, wanted[stored.key], difference)


def fail_message(
    ledger: Ledger,
    message_id: str,
    task: str,
    problem: str,
    by: str,
    raw: str,
    connection: Connection | None = None,
    **fields: Any,
) -> Recorded:
    """Store a message that could not be recorded as a failed operation `message:<id>`. The same id is stored once.

    With `connection`, the message is stored in the caller's own transaction. `fields` are further fields of `New`.
    An id or a batch that reads like a secret is replaced by its digest, because the sender of a message chooses both.
    """
    payload = {"task": printable(task), "message": raw[: PAYLOAD_LIMIT // 8]}
    if reads_like_secret(key := printable(f"message:{message_id}")):
        key = f"message:{_digest(message_id)}"
    if (batch := fields.get("batch")) and reads_like_secret(batch):
        fields["batch"] = _digest(batch)
    new = New(MESSAGE_KIND, key, payload, lane="default", **fields)
    row = row_of(new, by)._replace(result=encode({"error": problem}))
    if connection is not None:
        return _store_failed(connection, row)
    with ledger.writing() as own:
        return _store_failed(own, row)


def leave_request(ledger: Ledger, kind: str, payload: str, by: str, trace_id: str | None) -> None:
    """Store a row of the SQL API, which dispatch takes. `payload` is a JSON object, `by` says who requests it."""
    values = {"kind": kind, "payload": payload, "requested_by": by, "trace_id": trace_id}
    with ledger.writing() as connection:
        connection.execute(insert(requests).values(values))


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _store_failed(connection: Connection, row: NewRow) -> Recorded:
    key = row.key
    stored = insert_failed(connection, row)
    if stored is not None:
        finish_ended(connection, [Ended(stored.id, key, None, State.FAILED)], stored.state_since)
        # Last, because the caller's savepoint may be rolled back. `observe_transactions` counts it at the commit.
        ended = (MESSAGE_KIND, row.lane, State.FAILED, FailureReason.BAD_PAYLOAD)
        connection.info.setdefault(ENDED_INFO, []).append(ended)
        return Recorded(stored.id, key, State.FAILED, created=True)
    existing = connection.execute(_EXISTING, {"keys": [key]}).one()
    return Recorded(existing.id, key, State(existing.state), created=False)


def _record(connection: Connection, rows: Sequence[NewRow]) -> list[Recorded]:
    first: dict[str, NewRow] = {}
    for row in rows:
        earlier = first.setdefault(row.key, row)
        if earlier is not row:
            _check_same(earlier, row, difference_of(earlier, row))
    _check_not_cancelled(connection, first)
    _check_no_cycle(connection, {row.key: row.parent for row in first.values() if row.parent})
    found: dict[str, Recorded] = {}
    # The loop runs a second time only if a key's operation is purged between the two statements.
    while missing := [row for key, row in first.items() if key not in found]:
        for id_, key, _ in insert_queued(connection, missing):
            found[key] = Recorded(id_, key, State.QUEUED, created=True)
        if known := {row.key: row for row in missing if row.key not in found}:
            for stored, difference in _existing(connection, known):
                _check_same(stored, known[stored.key], difference)
                found[stored.key] = Recorded(stored.id, stored.key, State(stored.state), created=False)
    return [found[row.key] if row is first[row.key] else found[row.key]._replace(created=False) for row in rows]


def _check_not_cancelled(connection: Connection, rows: Mapping[str, NewRow]) -> None:
    """Raise `NotAllowed` if one of these operations (key -> row) is new and its batch is cancelled."""
    if not (names := {row.batch for row in rows.values() if row.batch}):
        return
    cancelled = cancelled_among(connection, names)
    if keys := [key for key, row in rows.items() if row.batch in cancelled]:
        known = {row.key for row in connection.execute(_EXISTING, {"keys": keys})}
        for key in keys:
            if key not in known:
                raise NotAllowed(f"{key}: {cancelled_text(cancelled[rows[key].batch or ''])}")


def _check_no_cycle(connection: Connection, parents: dict[str, str]) -> None:
    """Raise `BadPayload` if one of these operations (key -> parent) would wait for itself, through others.

    A cycle that two transactions close at the same moment is not found: its operations wait until their deadlines.
    """
    if not parents:
        return
    is_waited_for = connection.execute(_WAITED_FOR, {"keys": list(parents)}).first() is not None
    followed: set[str] = set()  # keys from which no cycle is reached, so that each key is followed once
    for key in parents:
        chain: dict[str, None] = {}  # keys in the order in which each waits for the next
        one: str | None = key
        while one is not None and one not in followed:
            if one in chain:
                _refuse_cycle(list(chain), one, parents)
                break
            chain[one] = None
            parent = parents.get(one)
            if parent is None and is_waited_for:
                parent = connection.execute(_PARENT_OF, {"wanted": one}).scalar()
            one = parent
        followed.update(chain)


def _refuse_cycle(chain: list[str], back_to: str, parents: dict[str, str]) -> None:
    """Raise `BadPayload` if one of the operations of a chain that leads back to `back_to` is in the cycle and new."""
    cycle = chain[chain.index(back_to) :]
    for at, key in enumerate(cycle):
        if key in parents:
            waits = " waits for ".join([*cycle[at:], *cycle[:at], key])
            raise BadPayload(f"{key}: its parent {parents[key]} makes it wait for itself ({waits}): leave one out")


def _existing(connection: Connection, rows: Mapping[str, NewRow]) -> list[tuple[Any, str]]:
    """Return what the ledger holds of these keys, each with the names of what differs; empty if it is the same.

    Who requests an operation again may not know that a person has corrected its payload since. So the payloads that it
    had before are the same operation too.
    """
    found = connection.execute(_EXISTING, {"keys": list(rows)}).all()
    differences = {one.key: difference_of(one, rows[one.key]) for one in found}
    if differing := [one.key for one in found if differences[one.key] and one.kind == rows[one.key].kind]:
        for key, detail in connection.execute(_CORRECTED, {"keys": differing}):
            if _text_of(json.loads(detail)["before"]["payload"]) == _text_of(json.loads(rows[key].payload)):
                differences[key] = ""
    return [(one, differences[one.key]) for one in found]


def _check_same(stored: Any, row: NewRow, difference: str) -> None:
    if difference:
        raise PayloadConflict(
            f"{row.key} exists with another {difference}: one key is one operation. If this is another one, give it a"
            " key of its own. If the first was wrong and has failed: `b2copy-sync failed correct`",
            f". It exists as {stored.kind} {stored.payload}, and was now asked for as {row.kind} {row.payload}",
        )


def _text_of(payload: dict[str, Any]) -> str:
    """Return a payload as a text that is equal for equal payloads. A field without a value counts as absent."""
    return json.dumps({name: value for name, value in payload.items() if value is not None}, sort_keys=True)


def difference_of(stored: Any, row: NewRow) -> str:
    """Name the fields in which two rows of the same key differ; empty if they are the same operation."""
    if stored.kind == row.kind and stored.payload == row.payload:
        return ""
    if stored.kind != row.kind:
        return "kind"
    first, other = decode_payload(stored.payload), json.loads(row.payload)
    if _text_of(first) == _text_of(other):
        return ""
    return ", ".join(name for name in sorted(first | other) if first.get(name) != other.get(name)) or "payload"
