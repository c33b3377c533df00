"""Each example requests an operation with one INSERT, in a transaction of the CRM's own."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from tests.crm.conftest import crm_host  # noqa: F401
from tests.crm.test_requests import take
from tests.deploy.examples.conftest import EXAMPLES, WITHDRAWALS, needs_pg, run, tool
from tests.ledger.conftest import (  # noqa: F401
    database,
    ledger,
    ledger_url,
    migrated_schema,
    postgres_server,
)
from tests.ledger.databases import on_postgresql, on_sqlite
from tests.operations import find_operation
from worker.ledger import Ledger


@pytest.fixture
def crm(ledger: Ledger) -> Iterator[Ledger]:  # noqa: F811
    """The ledger, in a database that also holds the CRM's withdrawals."""
    with ledger.writing() as connection:
        for statement in WITHDRAWALS.split(";")[:-1]:
            connection.execute(text(statement))
    yield ledger
    with ledger.writing() as connection:
        connection.execute(text("DROP TABLE withdrawals"))


def file_of(ledger: Ledger) -> str:  # noqa: F811
    return str(ledger.engine.url.database)


ROLES = "b2copy_owner, b2copy_worker, b2copy_enqueue, b2copy_crm, b2copy_viewer"


def url_of(ledger: Ledger) -> str:  # noqa: F811
    """Return the URL of the ledger as the programs of PostgreSQL read it."""
    return ledger.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


def was_requested(crm: Ledger) -> bool:
    """Return whether the withdrawal and its fees were written, both or neither."""
    with crm.reading() as connection:
        state = connection.execute(text("SELECT state FROM withdrawals")).scalar_one()
    requested = take(crm)
    assert (state == "fees") == (requested == {"money": 1})
    return bool(requested) and find_operation(crm).payload == {"account_login": "123456", "request_id": "W1"}


@on_sqlite
def test_sqlite3(crm: Ledger) -> None:
    run(tool("sqlite3"), "-bail", file_of(crm), stdin=(EXAMPLES / "request.sql").read_bytes())

    assert was_requested(crm)
    shown = run(tool("sqlite3"), file_of(crm), stdin=(EXAMPLES / "status.sql").read_bytes())
    assert shown == "fees.process:W1|queued|||\n"


@on_postgresql
def test_psql_as_a_role_with_the_least_rights(crm: Ledger) -> None:
    psql = (tool("psql"), url_of(crm), "-v", "ON_ERROR_STOP=1", "-At")
    run(
        *psql,
        "-f",
        EXAMPLES.parent / "postgres" / "roles.sql",
        "-c",
        "GRANT UPDATE, SELECT ON withdrawals TO b2copy_crm",
    )
    try:
        run(*psql, "-c", "SET ROLE b2copy_crm", "-f", EXAMPLES / "request.sql")
        assert was_requested(crm)
        shown = run(*psql, "-q", "-c", "SET ROLE b2copy_crm", "-f", EXAMPLES / "status.sql")
        assert shown == "fees.process:W1|queued|||\n"
        for forbidden in (
            "SELECT * FROM b2copy_operations",
            "DELETE FROM b2copy_requests",
            "SELECT * FROM b2copy_audit",
        ):
            with pytest.raises(AssertionError, match="permission denied"):
                run(*psql, "-c", "SET ROLE b2copy_crm", "-c", forbidden)
    finally:
        run(*psql, "-c", f"DROP OWNED BY {ROLES}", "-c", f"DROP ROLE {ROLES}")


@on_postgresql
def test_node(crm: Ledger) -> None:
    needs_pg()

    run(tool("node"), EXAMPLES / "request.mjs", "W1", "123456", CRM_DATABASE_URL=url_of(crm))

    assert was_requested(crm)


def test_php(crm: Ledger) -> None:
    php = tool("php")
    url = crm.engine.url
    driver = "sqlite" if url.get_backend_name() == "sqlite" else "pgsql"
    if driver not in run(php, "-r", "echo implode(' ', PDO::getAvailableDrivers());"):
        pytest.skip(f"PHP's PDO driver {driver} is not installed: this example is NOT tested here")
    dsn = f"sqlite:{file_of(crm)}"
    if driver == "pgsql":
        parts = {"port": url.port, "dbname": url.database, "user": url.username, **url.query}
        dsn = "pgsql:" + ";".join(f"{name}='{value}'" for name, value in parts.items() if value)

    run(php, EXAMPLES / "request.php", "W1", "123456", CRM_DSN=dsn)

    assert was_requested(crm)
