"""Every page of the console on a large ledger (`large_ledger.py`), on SQLite and PostgreSQL.

Of each page the CPU time that a request takes of the console and of the database, which other work on the machine does
not change, and how long it takes: the median and the longest of some requests. The plan of each of its queries must be
bounded (`query_plans.py`) as the database chooses it on this ledger.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from starlette.testclient import TestClient

from tasks.registry import ALL_KINDS
from tests.bench.large_ledger import fill, longest
from tests.bench.query_plans import MANY, statements_of, unbounded_parts
from tests.bench.report import Figure, Report
from tests.bench.usage import cpu_seconds
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
    "/operations?after={middle}",
    "/operations?sort=oldest",
    "/operations?state=open&sort=oldest",
    "/operations?state=open&lane=money&older=5m",
    "/operations?state=open&lane=money&age=2m",
    "/operations?state=waiting&sort=oldest",
    "/operations?state=waiting&reason=pending_at_b2copy",
    "/operations?state=waiting&reason=circuit_open",
    "/operations?state=failed",
    "/operations?state=failed&reason=internal&older=1h",
    "/operations?state=cancelled",
    "/operations?account=100777",
    "/operations?account=nobody",
    "/operations?batch=batch-0",
    "/operations?kind=call&lane=bulk",
    "/operations?find=W777777",
    "/operations?find=nobody",
    "/operations.csv?state=failed",
    "/operations.csv?state=open",
    "/operation?key={longest}",
    "/evidence.json?key={longest}",
    "/operation/poll-now?key={longest}",
    "/bulk/replay?state=failed",
    "/imports",
    "/imports/pause?batch=batch-0",
    "/approvals",
    "/approvals/approve?id=1",
    "/approvals/withdraw?id=1",
    "/audit",
    "/audit?actor=nobody",
    "/audit?subject=fees.process:W100",
    "/audit.csv",
    "/system",
    "/fleet/pause?lane=money",
)
"""The address of every page that shows something, with the filters that cost most."""


def addresses(ledger: Ledger, count: int) -> list[str]:
    """Return the addresses of all pages, for a ledger of so many operations."""
    with ledger.reading() as connection:
        return [page.format(middle=count // 2, longest=longest(connection)) for page in PAGES]


def client_on(ledger: Ledger) -> TestClient:
    """Return a client of a console on a ledger, for a person who may do everything."""
    url = ledger.engine.url.render_as_string(hide_password=False)
    settings = ConsoleSettings(database_url=url, redis_url="redis://127.0.0.1:1/0")
    console = Console(ledger, settings, LocalAccess("ann", True), ALL_KINDS, False, "no keys", lambda lane: None)
    return TestClient(make_app(console), base_url="http://127.0.0.1", follow_redirects=False)


def pages(report: Report, count: int, rounds: int) -> None:
    """Measure all pages on a ledger of `count` operations, on both databases."""
    with TemporaryDirectory(prefix="b2copy-pages-") as folder:
        _section(report, "SQLite", f"sqlite:///{Path(folder)}/ledger.db", count, rounds)
    server = Postgres().start()
    try:
        _section(report, "PostgreSQL", server.url(), count, rounds)
    finally:
        server.stop()


def _section(report: Report, database: str, url: str, count: int, rounds: int) -> None:
    migrate(url)
    ledger = open_ledger(url, pool_size=2, max_overflow=0)
    try:
        fill(ledger, count)
        began = time.perf_counter()
        summarize_minutes(ledger)
        minute = Figure("the statistics of a minute", f"{(time.perf_counter() - began) * 1000:,.0f} ms")
        limit_queries(ledger.engine)
        figures = [minute, *_measure(ledger, count, rounds)]
    finally:
        ledger.close()
    report.section(f"pages of the console, {count:,} operations on {database}", figures)


def _measure(ledger: Ledger, count: int, rounds: int) -> Iterator[Figure]:
    client = client_on(ledger)
    for page in addresses(ledger, count):
        with statements_of(ledger.engine) as sent:
            status = client.get(page).status_code  # the first request compiles the statements: it is not measured
        assert status in (200, 303), (page, status)
        bad = [part for one in sent.values() for part in unbounded_parts(ledger, one, is_large=count > MANY)]
        took, before = [], _cpu_ms(ledger)
        for _ in range(rounds):
            began = time.perf_counter()
            client.get(page)
            took.append((time.perf_counter() - began) * 1000)
        cpu = (_cpu_ms(ledger) - before) / rounds
        value = f"{cpu:,.0f} ms CPU; took {median(took):,.0f}, longest {max(took):,.0f}"
        value += "".join(f"; reads all: {one}" for one in bad)
        yield Figure(page, value, f"<= {LIMIT_MS:.0f} ms", cpu <= LIMIT_MS and not bad)


def _cpu_ms(ledger: Ledger) -> float:
    """Return the CPU time so far of this process and of the ledger's connections in a PostgreSQL server, ms."""
    spent = time.process_time()
    if ledger.engine.dialect.name == "postgresql":
        with ledger.reading() as connection:
            of_connections = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            spent += cpu_seconds(*connection.exec_driver_sql(of_connections).scalars())
    return spent * 1000
