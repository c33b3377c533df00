"""Redis with the users of deploy/redis/users.acl and PostgreSQL with the roles of deploy/postgres/roles.sql.

Both are reached over TLS alone, by clients that verify the certificate, and every user has a password.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import redis
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.postgres import Postgres
from tests.tls import Authority, TlsProxy
from worker.ledger.migrations import migrate
from worker.testbed.broker import Broker

DEPLOY = Path(__file__).parents[2] / "deploy"
ROLES_SQL = (DEPLOY / "postgres" / "roles.sql").read_text()

_REDIS = """\
bind 127.0.0.1
port {port}
dir "{folder}"
aclfile "{acl_file}"
appendonly yes
save ""
maxmemory-policy noeviction
acllog-max-len 1000
"""
_HBA = "local all postgres trust\nlocal all all scram-sha-256\n"


class Secrets:
    """What `deploy/new-secrets` makes: passwords, Redis' ACL file, an authority and the servers' certificates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([str(DEPLOY / "new-secrets"), str(folder)], check=True, capture_output=True, timeout=30)
        for path in folder.rglob("*"):  # the script gives files to users of containers; here all run as us
            os.chown(path, os.geteuid(), os.getegid())

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def file(self, user: str) -> Path:
        """Return the file with a user's password: `b2copy-worker` is one of Redis, `b2copy_worker` of PostgreSQL."""
        server = "redis" if "-" in user else "postgres"
        return self.folder / "b2copy" / f"{server}-{re.split('[-_]', user)[1]}.password"

    def password(self, user: str) -> str:
        return self.file(user).read_text().strip()

    def identity(self, server: str) -> Authority:
        """Return the certificate and key of `redis` or `postgres`."""
        key: Any = load_pem_private_key((self.folder / server / "server.key").read_bytes(), None)
        return Authority(x509.load_pem_x509_certificate((self.folder / server / "server.pem").read_bytes()), key)


class RedisWithUsers(Broker):
    """Redis with the shipped ACL file. `settings(user)` are for a process: through TLS, with a password file."""

    def __init__(self, folder: Path, secrets: Secrets) -> None:
        super().__init__(folder)
        self._secrets = secrets
        self._proxy = TlsProxy(("127.0.0.1", self.port), secrets.identity("redis"), folder)

    @property
    def url(self) -> str:
        return self.settings("b2copy-worker")["B2COPY_REDIS_URL"]

    @property
    def client(self) -> redis.Redis:
        return self.client_of("b2copy-admin")

    def client_of(self, user: str | None, password: str | None = None) -> redis.Redis:
        """Return a client without TLS, so that a test sees what the server allows."""
        if user and password is None:
            password = self._secrets.password(user)
        no_retry = Retry(NoBackoff(), 0)
        return redis.Redis(port=self.port, username=user, password=password, decode_responses=True, retry=no_retry)

    def settings(self, user: str) -> dict[str, str]:
        return {
            "B2COPY_REDIS_URL": f"rediss://{user}@127.0.0.1:{self._proxy.port}/0",
            "B2COPY_REDIS_PASSWORD_FILE": str(self._secrets.file(user)),
        }

    def stop(self) -> None:
        self._proxy.close()
        super().stop()

    def _configure(self) -> Path:
        path = self._folder / "redis.conf"
        acl_file = self._secrets.folder / "redis" / "users.acl"
        path.write_text(_REDIS.format(port=self.port, folder=self._folder, acl_file=acl_file))
        return path


class PostgresWithRoles:
    """PostgreSQL with the shipped roles and a migrated ledger in a schema of its own, owned by b2copy_owner."""

    def __init__(self, folder: Path, secrets: Secrets) -> None:
        self._secrets = secrets
        self.server = Postgres().start()
        self._proxy = TlsProxy(
            self.server.folder / ".s.PGSQL.5432", secrets.identity("postgres"), folder, postgres=True
        )
        self.server.url()
        self._options = "options=-csearch_path%3Dt1"
        self.run_roles_sql()
        with self.server.connect() as admin:
            for (role,) in admin.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'b2copy%'").fetchall():
                admin.execute(f"ALTER ROLE {role} PASSWORD '{secrets.password(role)}'".encode())
            (hba,) = admin.execute("SHOW hba_file").fetchone() or ("",)
            Path(hba).write_text(_HBA)
            admin.execute("SELECT pg_reload_conf()")
        migrate(self._url("b2copy_owner", "postgresql+psycopg"))
        self.run_roles_sql()

    def run_roles_sql(self) -> None:
        """Run deploy/postgres/roles.sql as a superuser, in the ledger's schema."""
        with self.server.connect() as admin:
            admin.execute("SET search_path = t1")
            admin.execute(ROLES_SQL.encode())

    def connect(self, role: str, password: str | None = None) -> psycopg.Connection:
        """Return a connection over TLS, with the server's certificate verified."""
        return psycopg.connect(self._url(role, password=password), autocommit=True)

    def settings(self, role: str) -> dict[str, str]:
        """Return a process's settings. To it the server is another host, and the certificate must name `postgres`."""
        address = f"postgres:{self._proxy.port}/postgres?hostaddr=127.0.0.1&{self._options}"
        return {
            "B2COPY_DATABASE_URL": f"postgresql://{role}@{address}",
            "B2COPY_DATABASE_CA_FILE": str(self._secrets.ca_file),
            "B2COPY_DATABASE_PASSWORD_FILE": str(self._secrets.file(role)),
        }

    def _url(self, role: str, scheme: str = "postgresql", password: str | None = None) -> str:
        login = f"{role}:{password or self._secrets.password(role)}"
        tls = f"sslmode=verify-full&sslrootcert={self._secrets.ca_file}"
        return f"{scheme}://{login}@127.0.0.1:{self._proxy.port}/postgres?{tls}&{self._options}"

    def stop(self) -> None:
        self._proxy.close()
        self.server.stop()
