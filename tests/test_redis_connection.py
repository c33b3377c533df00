"""All three Redis clients verify the server behind rediss:// alike, and none writes its keys for SSLKEYLOGFILE."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tls import Authority, TlsProxy, sign
from worker.testbed.local_system import Environment

CLIENTS = """
import json
import time
from worker.app import app
from worker.session.service_admin_login import ServiceAdmin
from worker.flow.fleet_limits import FleetLimits
from worker.session.redis_store import Store
from worker.session.timings import Timings
from worker.settings import worker_settings

def celery():
    with app.connection_for_write() as connection:
        return connection.default_channel.client.ping()

def identity():
    return ServiceAdmin(worker_settings(), Timings(), time.time).identity

connected = {}
for name, connect in {
    "celery": celery,
    "session": lambda: bool(Store(worker_settings(), Timings(), identity()).look()),
    "rate limit": lambda: FleetLimits("b2copy", worker_settings()).available(1, urgent=True) == 1,
}.items():
    try:
        connected[name] = connect()
    except Exception as error:
        connected[name] = False
print(json.dumps(connected))
"""


AUTHORITY = sign("our authority")


def connected(
    environment: Environment, identity: Authority, ca: Authority | None, tmp_path: Path, query: str = ""
) -> set[str]:
    """Return which clients connect to a server with this certificate."""
    proxy = TlsProxy(("127.0.0.1", environment.broker.port), identity, tmp_path)
    password = environment.broker.url.split(":")[2].partition("@")[0]
    changes = {
        "B2COPY_REDIS_URL": f"rediss://:{password}@127.0.0.1:{proxy.port}/0{query}",
        "B2COPY_RATE_LIMIT": "10/second",
        "SSLKEYLOGFILE": str(tmp_path / "keys.log"),
    }
    if ca:
        changes["B2COPY_REDIS_CA_FILE"] = str(ca.write(tmp_path / "ca.pem"))
    try:
        ran = subprocess.run(
            [sys.executable, "-c", CLIENTS],
            env=environment.variables | changes,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        proxy.close()
    assert ran.returncode == 0, ran.stderr
    found = {name for name, is_connected in json.loads(ran.stdout).items() if is_connected}
    assert bool(found) == (password.encode() in proxy.seen), "a server that is not ours must not see the password"
    return found


ALL = {"celery", "session", "rate limit"}


@pytest.fixture(autouse=True)
def _no_key_log(tmp_path: Path) -> Iterator[None]:
    yield
    assert not (tmp_path / "keys.log").exists()


def test_all_clients_connect_to_a_server_that_our_authority_vouches_for(
    environment: Environment, tmp_path: Path
) -> None:
    assert connected(environment, sign("redis", "127.0.0.1", AUTHORITY), AUTHORITY, tmp_path) == ALL


@pytest.mark.parametrize(
    ("identity", "ca"),
    [
        (sign("redis", "127.0.0.1", AUTHORITY), None),
        (sign("redis", "127.0.0.1"), AUTHORITY),
        (sign("another host", None, AUTHORITY), AUTHORITY),
    ],
    ids=["unknown authority", "signed by itself", "another host's"],
)
def test_no_client_connects_to_another_server(
    environment: Environment, tmp_path: Path, identity: Authority, ca: Authority | None
) -> None:
    assert connected(environment, identity, ca, tmp_path) == set()


def test_on_loopback_the_verification_can_be_left_out(environment: Environment, tmp_path: Path) -> None:
    assert connected(environment, sign("any"), None, tmp_path, "?ssl_cert_reqs=none") == ALL
