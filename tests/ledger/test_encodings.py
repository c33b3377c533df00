"""PostgreSQL's encodings: every text of an answer can be stored, or the database is refused before anything is."""

from collections.abc import Iterator

import pytest

from tests.operations import claim_one, find_operation, record_operations, succeed
from tests.postgres import Postgres
from worker.errors import SettingsError
from worker.ledger import open_ledger
from worker.ledger.migrations import migrate

TEXTS = ["Zoë", "日本", "\U0001f600"]


@pytest.fixture(params=["LATIN1", "SQL_ASCII", "EUC_JP"])
def other_encoding(request: pytest.FixtureRequest, postgres_server: Postgres) -> Iterator[str]:
    name = f"in_{request.param.lower()}"
    with postgres_server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{request.param}'")
        yield f"postgresql+psycopg://postgres@/{name}?host={postgres_server.folder}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_database_that_cannot_store_every_text_is_refused(other_encoding: str) -> None:
    for refused in (migrate, open_ledger):
        with pytest.raises(SettingsError, match=r"B2COPY_DATABASE_URL: .* encoding is .* ENCODING 'UTF8'"):
            refused(other_encoding)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "UTF8"])
@pytest.mark.parametrize("option", [True, False], ids=["client_encoding", "PGCLIENTENCODING"])
def test_no_clients_encoding_loses_a_success(
    monkeypatch: pytest.MonkeyPatch, postgres_server: Postgres, encoding: str, option: bool
) -> None:
    url = postgres_server.url()
    if option:
        url += f"&client_encoding={encoding}"
    else:
        monkeypatch.setenv("PGCLIENTENCODING", encoding)

    migrate(url)
    ledger = open_ledger(url)
    record_operations(ledger, "W1")
    succeed(ledger, claim_one(ledger), result={"texts": TEXTS})

    assert find_operation(ledger, "W1").result == {"texts": TEXTS}
    ledger.close()


@pytest.mark.parametrize("given", ["connect_timeout=3", "keepalives_idle=60&tcp_user_timeout=9000"])
def test_an_option_of_libpq_that_has_a_built_in_value_may_be_given(postgres_server: Postgres, given: str) -> None:
    migrate(f"{postgres_server.url()}&{given}")
