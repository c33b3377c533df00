"""Certificates, and TLS in front of servers that speak none: the wheels' valkey and PostgreSQL are built without it."""

import ipaddress
import socket
import ssl
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

_SSL_REQUEST = bytes.fromhex("0000000804d2162f")


class Authority(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def write(self, path: Path) -> Path:
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return path

    def list_revoked(self) -> str:
        """Return an empty list of revoked certificates, in PEM."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(now).next_update(now + timedelta(days=1))
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


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
    """TLS in front of a server that speaks none, as a managed one has it. `seen` is what clients sent.

    `target` is a loopback address, or the path of a unix socket. `postgres`: a client asks for TLS first
    (https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL), and gets no other connection.
    """

    def __init__(
        self, target: tuple[str, int] | Path, identity: Authority, folder: Path, postgres: bool = False
    ) -> None:
        pem = identity.certificate.public_bytes(Encoding.PEM) + identity.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        path = folder / "server.pem"
        path.write_bytes(pem)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(path)
        self._target = target
        self._postgres = postgres
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
        with suppress(OSError), connection:
            if self._postgres and not self._asks_for_tls(connection):
                return
            self._pass_on(connection)

    def _asks_for_tls(self, connection: socket.socket) -> bool:
        if connection.recv(8, socket.MSG_WAITALL) != _SSL_REQUEST:
            return False
        connection.sendall(b"S")
        return True

    def _connect(self) -> socket.socket:
        if isinstance(self._target, tuple):
            return socket.create_connection(self._target)
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self._target))
        return server

    def _pass_on(self, connection: socket.socket) -> None:
        with self._context.wrap_socket(connection, server_side=True) as client, self._connect() as server:
            threading.Thread(target=self._copy, args=(server, client), daemon=True).start()
            while data := client.recv(65536):
                self.seen += data
                server.sendall(data)

    def _copy(self, source: socket.socket, target: ssl.SSLSocket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
