"""Queries: what became of an operation."""

import json
from typing import Any

from sqlalchemy import Integer, Row, bindparam, func, select

from worker.ledger import schema
from worker.ledger.database import Ledger
from worker.ledger.insert_operations import decode_payload
from worker.ledger.schema import audit, c, flags, in_list, sql_literal
from worker.operation import (
    AttemptRecord,
    AuditEntry,
    OnUnknown,
    Operation,
    Phase,
    State,
    Step,
    wait_reason_of,
)

FIELDS = [c[name] for name in Operation.__dataclass_fields__]
BY_KEY = select(*FIELDS).where(c.key == bindparam("wanted"))
_BY_KEYS = select(*FIELDS).where(in_list(c.key, "keys"))
# The range is searched in the index over the keys, whose order is the database's collation: digits come before letters
# in any. Some collations overlook punctuation, so the range may hold keys that begin otherwise.
_NUMBERED = select(*FIELDS).where(
    c.key >= bindparam("from"),
    c.key < bindparam("until"),
    func.substr(c.key, 1, bindparam("length", type_=Integer)) == bindparam("from"),
)
BY_IDS = select(*FIELDS).where(in_list(c.id, "ids"))
_ATTEMPTS = (
    select(schema.attempts)
    .where(schema.attempts.c.operation_id == bindparam("wanted"))
    .order_by(schema.attempts.c.fence.desc())
)
LAST_MESSAGE = (  # of the operation that the statement around it reads
    select(func.nullif(schema.attempts.c.message, ""))
    .where(schema.attempts.c.operation_id == c.id)
    .order_by(schema.attempts.c.fence.desc())
    .limit(1)
    .scalar_subquery()
)
_LAST_MESSAGES = select(c.id, LAST_MESSAGE).where(in_list(c.id, "ids"))
_AUDIT = select(audit).where(audit.c.subject == bindparam("wanted")).order_by(audit.c.id)

AUDIT_WINDOW = 20_000
"""Entries of the audit that one page looks through."""


def find(ledger: Ledger, key: str) -> Operation | None:
    """Return the operation of a key, or None if it was never recorded (or has been purged)."""
    if not (isinstance(key, str) and key.isprintable()):  # no operation has such a key, and databases raise an error
        return None
    with ledger.reading() as connection:
        row = connection.execute(BY_KEY, {"wanted": key}).first()
    return None if row is None else operation_of(row)


def find_many(ledger: Ledger, keys: list[str]) -> dict[str, Operation]:
    """Return the operations of these keys by key, those that exist."""
    with ledger.reading() as connection:
        return {row.key: operation_of(row) for row in connection.execute(_BY_KEYS, {"keys": keys})}


def find_newest_numbered(ledger: Ledger, beginnings: list[str]) -> dict[str, Operation]:
    """Return the newest operation whose key is one of these beginnings and a number, by its beginning."""
    newest: dict[str, Operation] = {}
    with ledger.reading() as connection:
        for beginning in beginnings:
            wanted = {"from": beginning, "until": f"{beginning}z", "length": len(beginning)}
            rows = connection.execute(_NUMBERED, wanted).all()
            if rows:  # not ORDER BY id LIMIT 1: PostgreSQL might read all operations backwards
                newest[beginning] = operation_of(max(rows, key=lambda row: row.id))
    return newest


def find_by_ids(ledger: Ledger, ids: list[int]) -> list[Operation]:
    """Return the operations with these ids, newest first, those that exist."""
    with ledger.reading() as connection:
        found = [operation_of(row) for row in connection.execute(BY_IDS, {"ids": ids})]
    return sorted(found, key=lambda one: one.id, reverse=True)


def attempts_of(ledger: Ledger, operation_id: int, newest: int | None = None) -> list[AttemptRecord]:
    """Return an operation's attempts, oldest first: all of them, or so many of the newest."""
    wanted = _ATTEMPTS if newest is None else _ATTEMPTS.limit(newest)
    with ledger.reading() as connection:
        return [_attempt_of(row) for row in connection.execute(wanted, {"wanted": operation_id})][::-1]


def last_messages_of(ledger: Ledger, ids: list[int]) -> dict[int, str]:
    """Return the server message of the last attempt of each of these operations that has one, by operation id."""
    with ledger.reading() as connection:
        return {id_: message for id_, message in connection.execute(_LAST_MESSAGES, {"ids": ids}) if message}


def audit_of(ledger: Ledger, subject: str) -> list[AuditEntry]:
    """Return the entries of the audit about a subject, oldest first. `ledger/audit.py` lists the subjects."""
    with ledger.reading() as connection:
        found = connection.execute(_AUDIT, {"wanted": subject})
        return [_entry_of(row) for row in found]


def audit_page(
    ledger: Ledger,
    *,
    actor: str | None = None,
    subject: str | None = None,
    before: int | None = None,
    limit: int = 50,
) -> tuple[list[AuditEntry], int | None]:
    """Return entries of the audit, newest first, from a window of `AUDIT_WINDOW` entries, and where to go on.

    `before`: only entries with a smaller id, to continue where the last answer ended. There may be more entries even if
    the window held none that matches.
    """
    window = select(audit).order_by(audit.c.id.desc()).limit(AUDIT_WINDOW)
    if subject is not None:
        window = window.where(audit.c.subject == subject)
    if before is not None:
        window = window.where(audit.c.id < before)
    found = window.subquery()
    wanted = select(found).order_by(found.c.id.desc()).limit(limit + 1)
    if actor is not None:
        wanted = wanted.where(found.c.actor == actor)
    with ledger.reading() as connection:
        rows = connection.execute(wanted).all()
        if len(rows) > limit:
            return [_entry_of(row) for row in rows[:limit]], rows[limit - 1].id
        end = connection.scalar(window.with_only_columns(audit.c.id).offset(AUDIT_WINDOW - 1).limit(1))
        return [_entry_of(row) for row in rows], end


def children_of(ledger: Ledger, key: str, limit: int = 20) -> list[Operation]:
    """Return the open operations that wait for this one."""
    # Sorted here: with ORDER BY id, PostgreSQL might read the whole table in the order of the ids.
    wanted = select(*FIELDS).where(c.parent == key, c.due_at.is_not(None)).limit(limit)
    with ledger.reading() as connection:
        return sorted((operation_of(row) for row in connection.execute(wanted)), key=lambda one: one.id)


def search(
    ledger: Ledger,
    *,
    state: State | None = None,
    failure_reason: str | None = None,
    kind: str | None = None,
    lane: str | None = None,
    since: int | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[Operation]:
    """Return operations, newest first.

    `since`: in their present state since then or later (ms since the epoch). `before`: only those with a smaller id,
    to continue where the last answer ended.
    """
    wanted = select(*FIELDS).order_by(c.id.desc()).limit(limit)
    if failure_reason is not None:
        state = State.FAILED
    if state is not None:
        wanted = wanted.where(c.state == sql_literal(State(state)))
    for column, value in ((c.failure_reason, failure_reason), (c.kind, kind), (c.lane, lane)):
        if value is not None:
            wanted = wanted.where(column == value)
    if since is not None:
        wanted = wanted.where(c.state_since >= since)
    if before is not None:
        wanted = wanted.where(c.id < before)
    with ledger.reading() as connection:
        return [operation_of(row) for row in connection.execute(wanted)]


def active_flags(ledger: Ledger) -> dict[str, AuditEntry]:
    """Return the flags that are raised, by name: who raised each, when and why."""
    with ledger.reading() as connection:
        found = connection.execute(select(flags).order_by(flags.c.name))
        return {row.name: AuditEntry(row.since, row.actor, "raise", row.name, row.note) for row in found}


def operation_of(row: Row[Any]) -> Operation:
    values = row._asdict()
    values["payload"] = decode_payload(values["payload"])
    values["result"] = values["result"] and json.loads(values["result"])
    values["progress"] = values["progress"] and json.loads(values["progress"])
    values["state"] = State(values["state"])
    values["phase"] = Phase(values["phase"])
    values["on_unknown"] = OnUnknown(values["on_unknown"])
    values["wait_reason"] = wait_reason_of(values["wait_reason"])
    return Operation(**values)


def _entry_of(row: Row[Any]) -> AuditEntry:
    return AuditEntry(row.at, row.actor, row.action, row.subject, row.note, row.detail and json.loads(row.detail))


def _attempt_of(row: Row[Any]) -> AttemptRecord:
    values = {name: getattr(row, name) for name in AttemptRecord._fields}
    values["steps"] = tuple(Step(*step) for step in json.loads(values["steps"] or "[]"))
    return AttemptRecord(**values)
