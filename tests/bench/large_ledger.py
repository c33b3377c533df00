"""A large ledger on a bad day, made by SQL: for measurements of pages and query plans.

Nine tenths are history: a quarter of a year's operations of all kinds, in every final state. One tenth is today's
backlog: more than any count looks at in every lane, for every reason to wait. One operation has thousands of attempts.
"""

import time
from typing import NamedTuple

from sqlalchemy import Connection, select, text

from worker.ledger import Ledger
from worker.ledger.minute_statistics import MINUTE_MS
from worker.ledger.schema import c, sql_literal

DAY_MS = 86_400_000


class Part(NamedTuple):
    """Which of a thousand operations in a row have this kind, lane and state. `reason`: to wait or to have failed."""

    per_mille: int
    kind: str
    lane: str
    state: str
    reason: str | None = None
    phase: str = "submit"


HISTORY = (
    Part(650, "fees.process", "money", "succeeded"),
    Part(90, "clients.register", "default", "succeeded"),
    Part(80, "accounts.create", "default", "succeeded"),
    Part(100, "call", "bulk", "succeeded"),
    Part(50, "crm.notify", "notify", "succeeded"),
    Part(10, "crm.notify", "notify", "cancelled"),
    Part(5, "fees.process", "money", "failed", "fee_error"),
    Part(6, "fees.process", "money", "failed", "rejected"),
    Part(1, "clients.register", "default", "failed", "unresolved"),
    Part(2, "clients.register", "default", "failed", "rejected"),
    Part(3, "call", "bulk", "failed", "exhausted"),
    Part(1, "call", "bulk", "failed", "expired"),
    Part(1, "accounts.create", "default", "failed", "internal"),
    Part(1, "message", "default", "failed", "bad_payload"),
)
BACKLOG = (
    Part(150, "fees.process", "money", "queued"),
    Part(150, "fees.process", "money", "waiting", "pending_at_b2copy", "poll"),
    Part(20, "fees.process", "money", "waiting", "rate_limited"),
    Part(20, "fees.process", "money", "waiting", "no_access"),
    Part(10, "fees.process", "money", "waiting", "no_session"),
    Part(130, "clients.register", "default", "queued"),
    Part(60, "clients.register", "default", "waiting", "next_step", "poll"),
    Part(50, "accounts.create", "default", "waiting", "behind_parent"),
    Part(50, "accounts.create", "default", "waiting", "behind_entity"),
    Part(130, "call", "bulk", "queued"),
    Part(110, "call", "bulk", "waiting", "circuit_open"),
    Part(120, "crm.notify", "notify", "waiting", "backoff"),
)

_SERIES = {
    "sqlite": "n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})",
    "postgresql": "n(i) AS (SELECT generate_series(CAST({first} AS BIGINT), {last}))",
}
# 619 and 1000 have no common factor, so the parts of each thousand operations are mixed and each has its share.
_OPERATIONS = """
WITH RECURSIVE {series}, p(low, high, kind, lane, state, reason, phase) AS (VALUES {parts}),
o AS (
    SELECT i, p.*, {began} + (i - {first}) * {step} AS at
    FROM n JOIN p ON i * 619 % 1000 >= low AND i * 619 % 1000 < high)
INSERT INTO b2copy_operations (
    key, kind, payload, lane, entity, destination, state, wait_reason, failure_reason, phase, due_at, fence,
    counted_attempts, polls, replays, sent, outcome_unknown, on_unknown, batch, requested_at, requested_by,
    time_allowed_ms, deadline_at, state_since, last_wait_ms, external_wait_ms, ended_at)
SELECT kind || ':W' || i, kind,
    '{{"account_login":"' || (100000 + i % 50000) || '","comment":"by the back office",'
        || '"request_id":"W' || i || '"}}',
    lane, CASE lane WHEN 'default' THEN CAST(100000 + i % 50000 AS TEXT) END,
    CASE lane WHEN 'notify' THEN 'crm' ELSE 'b2copy' END, state,
    CASE state WHEN 'waiting' THEN reason END, CASE state WHEN 'failed' THEN reason END, phase,
    CASE state WHEN 'queued' THEN at WHEN 'waiting' THEN {now} + i * 7919 % 3600000 END,
    1, 1, 0, 0, {true}, {false}, CASE kind WHEN 'fees.process' THEN 'start_or_get' ELSE 'read_back' END,
    'batch-' || (i / {of_batch}), at, 'crm@backoffice', 259200000, at + 259200000,
    at + i % 90000, 5000, CASE state WHEN 'waiting' THEN 0 ELSE i % 60000 END,
    CASE WHEN state NOT IN ('queued', 'waiting') THEN at + i % 90000 END
FROM o ORDER BY i
"""
_ATTEMPTS = """
INSERT INTO b2copy_attempts (
    operation_id, fence, started_at, last_at, times, duration_ms, http_status, outcome, message, counted, worker,
    version, late)
SELECT id, 1, requested_at, requested_at + 12, 1, 12, 200, 'done', 'success', {true}, 'worker-1:4711', '0.1.0', {false}
FROM b2copy_operations
"""
_LONG = """
WITH RECURSIVE {series}
INSERT INTO b2copy_attempts (
    operation_id, fence, started_at, last_at, times, duration_ms, http_status, outcome, message, counted, worker,
    version, late)
SELECT id, i + 1, requested_at + i * 5000, requested_at + i * 5000 + 40, 1, 40, 200, 'pending',
    'position ' || i || ' of the rollover', {false}, 'worker-1:4711', '0.1.0', {false}
FROM n JOIN b2copy_operations ON key = '{key}'
"""
_AUDIT = """
WITH RECURSIVE {series}
INSERT INTO b2copy_audit (at, actor, action, subject, note)
SELECT {now} - ({last} - i) * 60000, CASE i % 7 WHEN 0 THEN 'bob' ELSE 'ann' END, 'replay',
    'fees.process:W' || (i % 1000), 'the account was corrected with the client' FROM n
"""
_BATCHES = """
INSERT INTO b2copy_batches (id, kind, lane, source, rows, requested_by, requested_at)
SELECT batch, 'fees.process', 'money', 'book.csv', count(*), 'crm@backoffice', min(requested_at)
FROM b2copy_operations WHERE batch IS NOT NULL GROUP BY batch
"""
_APPROVALS = """
WITH RECURSIVE {series}
INSERT INTO b2copy_approvals (action, subject, seen, proposed_at, proposed_by, note, expires_at)
SELECT 'replay', key, '1.1', {now}, 'ann', 'the account was corrected', {now} + 86400000
FROM (SELECT key FROM b2copy_operations WHERE state = 'failed' ORDER BY id DESC LIMIT {last}) AS failed
"""
_MINUTES = """
WITH RECURSIVE {series}, k(lane, kind) AS (VALUES
    ('money', 'fees.process'), ('default', 'clients.register'), ('default', 'accounts.create'), ('bulk', 'call'),
    ('notify', 'crm.notify')),
w(outcome) AS (VALUES ('succeeded'), ('rejected'), ('unresolved'), ('exhausted'))
INSERT INTO b2copy_minutes (minute, lane, kind, outcome, operations, total_ms, external_ms)
SELECT {minute} - i * 60000, lane, kind, outcome, 20 + i % 30, 1000, 0 FROM n, k, w
"""


def fill(ledger: Ledger, count: int) -> None:
    """Record so many operations (a multiple of 1000), their attempts, decisions, proposals, and the last minutes."""
    now, history = int(time.time() * 1000), count * 9 // 10
    backlog = count - history
    with ledger.writing() as connection:
        _run(connection, _OPERATIONS, 1, history, parts=_values(HISTORY), began=now - 91 * DAY_MS,
             step=90 * DAY_MS // history, now=now, of_batch=count // 200)  # fmt: skip
        _run(connection, _OPERATIONS, history + 1, count, parts=_values(BACKLOG), began=now - DAY_MS,
             step=DAY_MS // backlog, now=now, of_batch=count // 200)  # fmt: skip
        _run(connection, _ATTEMPTS)
        _run(connection, _LONG, 2, min(3_000, count), key=longest(connection))
        _run(connection, _AUDIT, 1, count // 10, now=now)
        _run(connection, _BATCHES)
        _run(connection, _APPROVALS, 1, min(200, count // 200), now=now)
        _run(connection, _MINUTES, 1, 60 if count < 100_000 else 7 * 24 * 60, minute=now // MINUTE_MS * MINUTE_MS)
    with ledger.writing() as connection:
        connection.execute(text("ANALYZE"))


def longest(connection: Connection) -> str:
    """Return the key of the operation with thousands of attempts."""
    waits = (c.state == sql_literal("waiting"), c.wait_reason == sql_literal("pending_at_b2copy"))
    found = select(c.key).where(*waits).order_by(c.id).limit(1)
    return str(connection.execute(found).scalar_one())


def _values(parts: tuple[Part, ...]) -> str:
    rows, low = [], 0
    for part in parts:
        words = ", ".join("NULL" if word is None else f"'{word}'" for word in part[1:])
        rows.append(f"({low}, {low + part.per_mille}, {words})")
        low += part.per_mille
    assert low == 1000
    return ", ".join(rows)


def _run(connection: Connection, statement: str, first: int = 1, last: int = 1, **values: object) -> None:
    on_postgres = connection.dialect.name == "postgresql"
    series = _SERIES[connection.dialect.name].format(first=first, last=last)
    words = {"true": "true", "false": "false"} if on_postgres else {"true": "1", "false": "0"}
    sql = statement.format(series=series, first=first, last=last, **words, **values)
    connection.exec_driver_sql(sql.replace("%", "%%") if on_postgres else sql)
