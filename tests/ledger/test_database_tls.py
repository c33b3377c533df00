"""The connection to PostgreSQL on another host: over TLS, and to the right server alone.

To libpq `db.example` is another host, although `hostaddr` leads to this machine.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import certifi
import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from tests.postgres import Postgres
from tests.refusing_postgres import refusing_server
from tests.tls import Authority, TlsProxy, sign
from worker.doctor.check_ledger import check
from worker.ledger import open_ledger
from worker.settings import LedgerSettings, load

AUTHORITY = sign("our authority")
NAME = "db.example"


@pytest.fixture(autouse=True)
def _no_authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Libraries that look for a file of authorities find none of this machine's."""
    (tmp_path / "none.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    return AUTHORITY.write(tmp_path / "ca.pem")


@pytest.fixture
def identity(request: pytest.FixtureRequest) -> Authority:
    return getattr(request, "param", sign(NAME, None, AUTHORITY))


@pytest.fixture
def server(
    postgres_server: Postgres, identity: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[TlsProxy]:
    """PostgreSQL that speaks TLS alone, with a schema of its own. B2COPY_DATABASE_URL leads to it."""
    options = make_url(postgres_server.url()).query["options"]
    proxy = TlsProxy(postgres_server.folder / ".s.PGSQL.5432", identity, tmp_path, postgres=True)
    with closing(proxy):
        rest = f"{NAME}:{proxy.port}/postgres?hostaddr=127.0.0.1&options={options}"
        monkeypatch.setenv("B2COPY_DATABASE_URL", f"postgresql://postgres@{rest}".replace("=t", "%3Dt"))
        yield proxy


def connect() -> None:
    open_ledger(load(LedgerSettings).database_url, create=True).close()


def test_a_server_that_our_authority_vouches_for(
    server: TlsProxy, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B2COPY_DATABASE_CA_FILE", str(ca_file))

    connect()

    assert b"b2copy_operations" in server.seen


def test_a_server_that_an_authority_of_this_machine_vouches_for(
    server: TlsProxy, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))

    connect()

    assert b"b2copy_operations" in server.seen


def test_on_a_machine_without_authorities_those_of_certifi_count(
    server: TlsProxy, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    monkeypatch.setattr(certifi, "where", lambda: str(ca_file))

    connect()

    assert b"b2copy_operations" in server.seen


@pytest.mark.parametrize(
    ("identity", "has_ca_file"),
    [
        (sign(NAME, None, AUTHORITY), False),
        (sign(NAME), True),
        (sign("another.example", "127.0.0.1", AUTHORITY), True),
    ],
    ids=["unknown authority", "signed by itself", "another host's"],
    indirect=["identity"],
)
def test_nothing_is_said_to_another_server(
    server: TlsProxy, ca_file: Path, has_ca_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has_ca_file:
        monkeypatch.setenv("B2COPY_DATABASE_CA_FILE", str(ca_file))

    with pytest.raises(OperationalError, match="certificate"):
        connect()
    [found] = check(load(LedgerSettings))

    assert server.seen == b""
    assert "B2COPY_DATABASE_CA_FILE" in found.remedy


def test_a_server_without_tls_gets_a_password_only_if_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGSSLMODE", "PGREQUIRESSL"):
        monkeypatch.setenv(name, "disable" if name == "PGSSLMODE" else "0")
    with refusing_server() as (port, passwords):
        url = f"postgresql://crm:hunter2@{NAME}:{port}/crm?hostaddr=127.0.0.1"
        monkeypatch.setenv("B2COPY_DATABASE_URL", url)
        with pytest.raises(OperationalError, match="does not support SSL"):
            connect()
        [found] = check(load(LedgerSettings))
        assert passwords == []
        assert "B2COPY_DATABASE_PLAINTEXT=allowed" in found.remedy

        monkeypatch.setenv("B2COPY_DATABASE_PLAINTEXT", "allowed")
        with pytest.raises(OperationalError, match="password authentication failed"):
            connect()
    assert b"hunter2" in passwords[0]
