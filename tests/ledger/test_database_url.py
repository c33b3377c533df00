"""B2COPY_DATABASE_URL as hosts, secret stores and other tools write it: used, or refused with the remedy."""

import shutil
from pathlib import Path

import certifi
import pytest
from sqlalchemy import make_url

from worker.errors import SettingsError
from worker.ledger import open_ledger
from worker.settings import LedgerSettings, load


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("postgresql://u:hunter2@h1:5432,h2:5432/d?target_session_attrs=read-write", r"\?host=h1:5432&host=h2:5432"),
        ("postgresql://u:hunter2,x/y@h/d", "several hosts"),
        ("postgresql://u:hunter2@h:${PORT}/d", r"\$\{PORT\}: nothing has put a value in its place"),
        ("postgresql://u:[YOUR-PASSWORD]@h/d", r"\[YOUR-PASSWORD\]"),
        ("postgresql://u:hunter2@h/{{ name }}", r"\{\{ name \}\}"),
        ("postgresql+psycopg2://u:hunter2@h/d", "driver psycopg2: write postgresql://"),
        ("postgresql+asyncpg://u:hunter2@h/d", "driver asyncpg: write postgresql://"),
        ("sqlite+aiosqlite:////var/lib/ledger.db", r"not sqlite\+aiosqlite"),
        ("sqlite:////var/lib/ledger.db?mode=ro", "takes none"),
        ("mysql://u:hunter2@h/d", "sqlite or postgresql, not mysql"),
        ("jdbc:postgresql://h/d?user=u&password=hunter2", "an SQLAlchemy URL"),
        ("host=h dbname=d user=u password=hunter2", "an SQLAlchemy URL"),
        ("postgresql://u:hun/ter2@h:1/d", "port number"),
        ("postgresql://u:hunter2#x@h:1/d", "%40, %3A, %2F"),
        ("postgresql://u:hunter2@h:0/d", "port number"),
        ('"postgresql://u:hunter2@h/d"', "remove them"),
    ],
)
def test_an_unusable_database_url_is_refused_with_the_remedy_and_without_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str, remedy: str
) -> None:
    monkeypatch.setenv("B2COPY_DATABASE_URL", url)

    with pytest.raises(SettingsError, match=f"B2COPY_DATABASE_URL must .*{remedy}") as refused:
        load(LedgerSettings)

    assert "hunter2" not in str(refused.value)
    assert "ter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("postgresql://u:pw@[::1]:5433/d", "::1", 5433),
        ("postgres://u:pw@[::1]/d\n", "::1", None),
        ("postgresql://u:p[w@db.example/d?sslmode=verify-full", "db.example", None),
        ("postgresql+psycopg://postgres@/postgres?host=/run/postgresql", None, None),
        ("postgresql://u@/d?host=h1:5432&host=h2:5432&target_session_attrs=read-write", None, None),
    ],
)
def test_a_postgresql_url_is_read_by_sqlalchemy(
    monkeypatch: pytest.MonkeyPatch, url: str, host: str | None, port: int | None
) -> None:
    monkeypatch.setenv("B2COPY_DATABASE_URL", url)

    parsed = make_url(load(LedgerSettings).database_url)

    assert (parsed.drivername, parsed.host, parsed.port) == ("postgresql+psycopg", host, port)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("schema=public", "must not hold the option 'schema'"),
        ("sslmode=require&pgbouncer=true", "must not hold the option 'pgbouncer'"),
        ("prepare_threshold=5", "must not hold the option 'prepare_threshold'"),
        ("password=hunter2", "must not hold the option 'password': write it behind the user's name"),
        ("sslkey=/k&sslpassword=hunter2", "must not hold the option 'sslpassword': use a key file"),
        ("oauth_client_secret=hunter2", "must not hold the option 'oauth_client_secret': it is a secret"),
        ("scram_client_key=hunter2", "must not hold the option 'scram_client_key': it is a secret"),
        ("sslrootcert=/no/such/file", "is not usable: /no/such/file does not hold PEM"),
        ("sslmode=on", "sslmode must be allow, disable,"),
        ("target_session_attrs=rw", "target_session_attrs must be any,"),
        ("channel_binding=yes", "channel_binding must be disable,"),
        ("gssencmode=off", "gssencmode must be disable,"),
        ("load_balance_hosts=true", "load_balance_hosts must be disable,"),
        ("sslcertmode=on", "sslcertmode must be allow,"),
        ("sslnegotiation=tls", "sslnegotiation must be direct,"),
        ("ssl_min_protocol_version=1.2", "ssl_min_protocol_version must be TLSv1,"),
        ("ssl_max_protocol_version=TLSv9", "ssl_max_protocol_version must be TLSv1,"),
        ("replication=database", "must not hold the option 'replication'"),
    ],
)
def test_an_option_that_libpq_does_not_take_is_no_outage(options: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=f"B2COPY_DATABASE_(URL|CA_FILE).* {problem}") as refused:
        open_ledger(f"postgresql+psycopg://u:hunter2@127.0.0.1:1/d?{options}")

    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@db.example/d",
        "postgresql://u@10.0.0.5:5433/d?connect_timeout=3",
        "postgresql://u@/d?host=127.0.0.1&host=db.example",
        "postgresql://u@/d?host=/run/postgresql,db.example",
        "postgresql://u@localhost/d?hostaddr=10.0.0.5",
        "postgresql://u@localhost/d?host=db.example",
        "postgresql://u@127.0.0.1#@db.example/d",
        "postgresql://u@/d?service=production",
        "postgresql://u@/d?service=localhost",
        "postgresql://u:1?w@db.example/d",
    ],
)
def test_a_url_to_another_host_is_made_one_that_verifies_the_server(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("B2COPY_DATABASE_URL", url)

    query = make_url(load(LedgerSettings).database_url).query
    assert (query["sslmode"], query["sslrootcert"]) == ("verify-full", "system")

    for weaker in ("disable", "allow", "prefer", "require", "verify-ca"):
        mark = "&" if "?" in url.rpartition("@")[2] else "?"
        monkeypatch.setenv("B2COPY_DATABASE_URL", f"{url}{mark}sslmode={weaker}")
        with pytest.raises(
            SettingsError, match=r"must have sslmode=verify-full.* set B2COPY_DATABASE_PLAINTEXT=allowed"
        ):
            load(LedgerSettings)


@pytest.mark.parametrize("name", ["PGHOST", "PGHOSTADDR", "PGSERVICE"])
def test_a_variable_of_libpq_that_names_another_host_counts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("B2COPY_DATABASE_URL", "postgresql://u@/d")
    assert "sslmode" not in load(LedgerSettings).database_url

    monkeypatch.setenv(name, "10.0.0.5")
    assert "sslmode=verify-full" in load(LedgerSettings).database_url


@pytest.mark.parametrize(
    "rest",
    [
        "localhost/d",
        "LOCALHOST/d",
        "127.0.0.2:5433/d?sslmode=disable",
        "[::1]/d?sslmode=prefer",
        "/d?host=/run/postgresql",
        "/d?host=@abstract",
        "/d?host=localhost:1&host=127.0.0.1:2",
    ],
)
def test_a_url_to_this_machine_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, rest: str) -> None:
    monkeypatch.setenv("B2COPY_DATABASE_URL", f"postgresql://{rest}")

    assert load(LedgerSettings).database_url == f"postgresql+psycopg://{rest}"


def test_the_authorities_of_this_machine_ask_for_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("B2COPY_DATABASE_URL", "postgresql://localhost/d?sslrootcert=system")

    assert make_url(load(LedgerSettings).database_url).query["sslmode"] == "verify-full"


def test_a_file_of_certificates_asks_for_verification(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "our & ca.pem"
    shutil.copy(certifi.where(), file)
    monkeypatch.setenv("B2COPY_DATABASE_CA_FILE", str(file))
    for url in (
        "postgresql://localhost/d",
        "postgresql://localhost/d?",
        "postgresql://db.example/d?sslmode=verify-full",
        "postgresql://db.example/d?application_name=crm@prod",
    ):
        monkeypatch.setenv("B2COPY_DATABASE_URL", url)
        query = make_url(load(LedgerSettings).database_url).query
        assert (query["sslmode"], query["sslrootcert"]) == ("verify-full", str(file))

    monkeypatch.setenv("B2COPY_DATABASE_URL", "postgresql://db.example/d?sslrootcert=/other.pem")
    with pytest.raises(SettingsError, match="must not hold sslrootcert while B2COPY_DATABASE_CA_FILE names"):
        load(LedgerSettings)
