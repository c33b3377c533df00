"""The passwords of ledger and Redis are in no frame of an error: error trackers send the variables of each frame."""

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.conftest import Configure
from tests.refusing_postgres import refusing_server
from tests.session.frames import shown_by
from tests.tls import TlsProxy, sign
from worker.celery_settings import celery_settings
from worker.ledger import open_ledger
from worker.ledger.migrations import migrate
from worker.ledger.schema_version import version_of
from worker.redis_connection import redis_client
from worker.settings import CrmSettings, crm_settings, load, worker_settings
from worker.testbed.broker import Broker
from worker.testbed.ports import free_port

CANARY = "hunter2-canary"


def holders(act: Callable[[], object]) -> list[str]:
    """Return in which variables of which functions the password stands when this fails."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        act()
    assert CANARY not in repr(caught.value)
    return sorted({where for where, shown in shown_by(caught.value) if CANARY in shown})


@pytest.fixture
def refusing_postgres() -> Iterator[int]:
    with refusing_server() as (port, seen):
        yield port
    assert CANARY.encode() in b"".join(seen), "the test is about a password that was sent"


@pytest.mark.parametrize("act", [open_ledger, version_of, migrate])
def test_a_refused_login_at_the_ledger(act: Callable[[str], object], refusing_postgres: int) -> None:
    url = f"postgresql+psycopg://crm:{CANARY}@127.0.0.1:{refusing_postgres}/crm"

    assert holders(lambda: act(url)) == []


@pytest.mark.parametrize("query", ["", "?host=127.0.0.1:1&host=127.0.0.1:2&target_session_attrs=read-write"])
def test_a_ledger_that_does_not_answer(refusing_postgres: int, query: str) -> None:
    address = "/crm" if query else f"127.0.0.1:{free_port()}/crm"
    with suppress(Exception):
        open_ledger(f"postgresql+psycopg://crm:{CANARY}@127.0.0.1:{refusing_postgres}/crm")

    assert holders(lambda: open_ledger(f"postgresql+psycopg://crm:{CANARY}@{address}{query}")) == []


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://crm:{CANARY}@h/crm?schema=public",
        f"postgresql+psycopg://crm:{CANARY}@h/crm?sslmode=on",
        f"postgresql+psycopg://crm@h/crm?password={CANARY}",
        f"postgresql+psycopg://crm@h/crm?sslpassword={CANARY}",
        f"postgresql+psycopg://crm:{CANARY}@h:port/crm",
    ],
)
@pytest.mark.parametrize("act", [open_ledger, version_of, migrate])
def test_a_url_of_the_ledger_that_is_refused(act: Callable[[str], object], url: str) -> None:
    assert holders(lambda: act(url)) == []


@pytest.mark.parametrize(
    "rest",
    [
        "h1:1,h2:2/crm",
        "h:${PORT}/crm",
        "h:port/crm",
        "/crm?host=h1,h2,h3&port=1,2",
        "10.0.0.5/crm?sslmode=require",
    ],
)
def test_settings_that_are_refused(monkeypatch: pytest.MonkeyPatch, rest: str) -> None:
    monkeypatch.setenv("B2COPY_DATABASE_URL", f"postgresql://crm:{CANARY}@{rest}")
    monkeypatch.setenv("B2COPY_REDIS_URL", f"redis://:{CANARY}@127.0.0.1:1/0?protocol=3")

    assert holders(lambda: load(CrmSettings)) == []


def celery_ping() -> object:
    from worker.app import app  # reads the settings, which the fixtures have made

    with app.connection_for_write() as connection:
        return connection.default_channel.client.ping()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("connect", [lambda: redis_client(worker_settings(), 1.0).ping(), celery_ping])
def test_a_refused_login_at_redis(
    configure: Configure, broker: Broker, tmp_path: Path, connect: Callable[[], object], tls: bool
) -> None:
    authority = sign("our authority")
    proxy = TlsProxy(("127.0.0.1", broker.port), authority, tmp_path)
    with closing(proxy):
        url = f"rediss://:{CANARY}@127.0.0.1:{proxy.port}/0" if tls else f"redis://:{CANARY}@127.0.0.1:{broker.port}/0"
        configure(redis_url=url, redis_ca_file=authority.write(tmp_path / "ca.pem"))
        crm_settings.cache_clear()

        assert holders(connect) == []


def test_the_settings_that_celery_gets(configure: Configure) -> None:
    configure(redis_url=f"redis://name:{CANARY}@127.0.0.1:1/3")
    crm_settings.cache_clear()

    assert CANARY not in repr(celery_settings())
    assert celery_settings()["broker_url"] == "redis://name@127.0.0.1:1/3"
