"""`python -m tests.bench.console_pages`: every page of the console on a ledger of a million operations.

Per page the median and the longest of some requests, in ms of server time, on SQLite and PostgreSQL. The limit is
300 ms. 97 % of the operations have succeeded; 1 % each have failed, wait at B2COPY, and are due.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text
from starlette.testclient import TestClient

from tasks.registry import ALL_KINDS
from tests.postgres import Postgres
from worker.console.access import LocalAccess
from worker.console.app import make_app
from worker.console.process_state import Console
from worker.ledger import Ledger, open_ledger
from worker.ledger.migrations import migrate
from worker.ledger.minute_statistics import summarize_minutes
from worker.ledger.query_limits import limit_queries
from worker.settings import ConsoleSettings

LIMIT_MS = 300.0
PAGES = (
    "/",
    "/todo",
    "/operations",
    "/operations?after=500000",
    "/operations?sort=oldest",
    "/operations?state=open&sort=oldest",
    "/operations?state=waiting&reason=pending_at_b2copy",
    "/operations?state=waiting&reason=circuit_open",
    "/operations?state=failed",
    "/operations?state=failed&reason=internal&older=1h",
    "/operations?state=cancelled",
    "/operations?account=100777",
    "/operations?account=nobody",
    "/operations?batch=b7",
    "/operations?kind=call&lane=bulk",
    "/operations?find=W777777",
    "/operations?find=nobody",
    "/operations.csv?state=failed",
    "/operation?key=fees.process:W777777",
    "/evidence.json?key=fees.process:W777777",
    "/operation/replay?key=fees.process:W100",
    "/bulk/replay?state=failed",
    "/imports",
    "/imports/pause?batch=b7",
    "/approvals",
    "/audit",
    "/audit?actor=nobody",
    "/audit?subject=fees.process:W100",
    "/system",
)
_SERIES = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})",
    "postgresql": "WITH n(i) AS (SELECT generate_series(1, {count}))",
}
_OPERATIONS = """
INSERT INTO b2copy_operations (
    key, kind, payload, lane, state, wait_reason, failure_reason, phase, due_at, fence, counted_attempts, polls,
    replays, sent, outcome_unknown, on_unknown, batch, requested_at, requested_by, time_allowed_ms, deadline_at,
    state_since, last_wait_ms, external_wait_ms, ended_at)
{series}
SELECT 'fees.process:W' || i, 'fees.process',
    '{{"account_login": "' || (100000 + i % 50000) || '", "request_id": "W' || i || '"}}',
    'money',
    CASE i % 100 WHEN 0 THEN 'failed' WHEN 1 THEN 'waiting' WHEN 2 THEN 'queued' ELSE 'succeeded' END,
    CASE i % 100 WHEN 1 THEN 'pending_at_b2copy' END,
    CASE i % 100 WHEN 0 THEN (CASE WHEN i % 1000 = 0 THEN 'unresolved' ELSE 'rejected' END) END,
    CASE i % 100 WHEN 1 THEN 'poll' ELSE 'submit' END,
    CASE WHEN i % 100 IN (1, 2) THEN {now} + i END,
    1, 1, 0, 0, {true}, {false}, 'start_or_get', 'b' || (i % 20),
    {now} - ({count} - i) * 100, 'crm', 259200000, {now} + 259200000, {now} - ({count} - i) * 90, 0, 0,
    CASE WHEN i % 100 NOT IN (1, 2) THEN {now} - ({count} - i) * 90 END
FROM n
"""
_BATCHES = """
INSERT INTO b2copy_batches (id, kind, lane, source, rows, requested_by, requested_at)
{series} SELECT 'b' || (i - 1), 'fees.process', 'money', 'book.csv', 50000, 'crm', {now} + i FROM n
"""
_ATTEMPTS = """
INSERT INTO b2copy_attempts (
    operation_id, fence, started_at, last_at, times, duration_ms, http_status, outcome, message, counted, worker,
    version, late)
SELECT id, 1, requested_at, requested_at + 12, 1, 12, 200, 'done', 'success', {true}, 'worker 1', '0.1.0', {false}
FROM b2copy_operations
"""
_AUDIT = """
INSERT INTO b2copy_audit (at, actor, action, subject, note)
{series} SELECT {now} + i, 'ann', 'replay', 'fees.process:W' || (i % 1000), 'because it was corrected' FROM n
"""


def fill(ledger: Ledger, count: int) -> None:
    """Record so many operations by SQL, an attempt each, and a tenth as many decisions."""
    dialect = ledger.engine.dialect.name
    words = {"true": "true", "false": "false"} if dialect == "postgresql" else {"true": "1", "false": "0"}
    words["now"] = str(int(time.time() * 1000))
    for statement, rows in ((_OPERATIONS, count), (_BATCHES, 20), (_ATTEMPTS, count), (_AUDIT, count // 10)):
        series = _SERIES[dialect].format(count=rows)
        with ledger.writing() as connection:
            sql = statement.format(series=series, count=rows, **words)
            connection.exec_driver_sql(sql.replace("%", "%%") if dialect == "postgresql" else sql)
    with ledger.writing() as connection:
        connection.execute(text("ANALYZE"))


def measure(ledger: Ledger, rounds: int) -> dict[str, list[float]]:
    """Return the ms that each page takes, of each round. The first request of all, which compiles, is left out."""
    settings = ConsoleSettings(
        database_url=ledger.engine.url.render_as_string(hide_password=False), redis_url="redis://127.0.0.1:1/0"
    )
    limited = open_ledger(settings.database_url, pool_size=2, max_overflow=0)
    limit_queries(limited.engine)
    console = Console(limited, settings, LocalAccess("ann", True), ALL_KINDS, False, None, lambda lane: None)
    client = TestClient(make_app(console), base_url="http://127.0.0.1", follow_redirects=False)
    took: dict[str, list[float]] = {page: [] for page in PAGES}
    for number in range(rounds + 1):
        for page in PAGES:
            began = time.perf_counter()
            status = client.get(page).status_code
            if status not in (200, 303):
                raise SystemExit(f"{page}: HTTP {status}")
            if number:
                took[page].append((time.perf_counter() - began) * 1000)
    limited.close()
    return took


@contextmanager
def urls() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="b2copy-console-") as folder:
        server = Postgres().start()
        try:
            yield {"SQLite": f"sqlite:///{folder}/ledger.db", "PostgreSQL": server.url()}
        finally:
            server.stop()


def main() -> None:
    arguments = argparse.ArgumentParser(description="What the console's pages take on a large ledger.")
    arguments.add_argument("--operations", type=int, default=1_000_000)
    arguments.add_argument("--rounds", type=int, default=5)
    asked = arguments.parse_args()
    late = 0
    with urls() as databases:
        for name, url in databases.items():
            migrate(url)
            ledger = open_ledger(url)
            fill(ledger, asked.operations)
            began = time.perf_counter()
            summarize_minutes(ledger)
            print(
                f"{name}: {asked.operations:,} operations; summarizing a minute took "
                f"{(time.perf_counter() - began) * 1000:.0f} ms"
            )
            for page, ms in measure(ledger, asked.rounds).items():
                mark = " TOO LONG" if statistics.median(ms) > LIMIT_MS else ""
                late += bool(mark)
                print(f"  {statistics.median(ms):7.0f} {max(ms):7.0f} ms  {page}{mark}")
            ledger.close()
    sys.exit(1 if late else 0)


if __name__ == "__main__":
    main()
