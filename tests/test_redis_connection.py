"""All three Redis clients verify the server behind rediss:// alike, and none writes its keys for SSLKEYLOGFILE."""

import ipaddress
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from worker.testbed.environment import Stage

CLIENTS = """
import json
import time
from worker.app import app
from worker.session.service_admin import ServiceAdmin
from worker.flow.rate_limit import RateLimit
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
    "rate limit": lambda: RateLimit("b2copy", worker_settings()).available(1, urgent=True) == 1,
}.items():
    try:
        connected[name] = connect()
    except Exception as error:
        connected[name] = False
print(json.dumps(connected))
"""


class Authority(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def write(self, path: Path) -> Path:
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return path


def sign(name: str, address: str | None = None, by: Authority | None = None) -> Authority:
    """Return a certificate for a name and an IP address, signed by an authority or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    if address:
        names.append(x509.IPAddress(ipaddress.ip_address(address)))
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
    )
    return Authority(builder.sign(by.key if by else key, hashes.SHA256()), key)


class TlsProxy:
    """TLS in front of a broker, as a managed Redis has it. `seen` is what clients sent."""

    def __init__(self, target: int, identity: Authority, folder: Path) -> None:
        pem = identity.certificate.public_bytes(Encoding.PEM) + identity.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        path = folder / "server.pem"
        path.write_bytes(pem)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(path)
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.seen = bytearray()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._proxy, args=(connection,), daemon=True).start()

    def _proxy(self, connection: socket.socket) -> None:
        with (
            suppress(OSError),
            connection,
            self._context.wrap_socket(connection, server_side=True) as client,
            socket.create_connection(("127.0.0.1", self._target)) as server,
        ):
            threading.Thread(target=self._copy, args=(server, client), daemon=True).start()
            while data := client.recv(65536):
                self.seen += data
                server.sendall(data)

    def _copy(self, source: socket.socket, target: ssl.SSLSocket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)


AUTHORITY = sign("our authority")


def connected(stage: Stage, identity: Authority, ca: Authority | None, tmp_path: Path, query: str = "") -> set[str]:
    """Return which clients connect to a server with this certificate."""
    proxy = TlsProxy(stage.broker.port, identity, tmp_path)
    password = stage.broker.url.split(":")[2].partition("@")[0]
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
            env=stage.environment | changes,
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


def test_all_clients_connect_to_a_server_that_our_authority_vouches_for(stage: Stage, tmp_path: Path) -> None:
    assert connected(stage, sign("redis", "127.0.0.1", AUTHORITY), AUTHORITY, tmp_path) == ALL


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
    stage: Stage, tmp_path: Path, identity: Authority, ca: Authority | None
) -> None:
    assert connected(stage, identity, ca, tmp_path) == set()


def test_on_loopback_the_verification_can_be_left_out(stage: Stage, tmp_path: Path) -> None:
    assert connected(stage, sign("any"), None, tmp_path, "?ssl_cert_reqs=none") == ALL
