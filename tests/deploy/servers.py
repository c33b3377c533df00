"""Redis with the users of deploy/redis/users.acl and PostgreSQL with the roles of deploy/postgres/roles.sql.

Both are reached over TLS alone, by clients that verify the certificate, and every user has a password.
"""

import hashlib
import re
import secrets
from pathlib import Path

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.postgres import Postgres
from tests.tls import Authority, TlsProxy, sign
from worker.ledger.migrations import migrate
from worker.testbed.broker import Broker
from worker.testbed.keys import write_secret

DEPLOY = Path(__file__).parents[2] / "deploy"
ROLES_SQL = (DEPLOY / "postgres" / "roles.sql").read_text()

_REDIS = """\
bind 127.0.0.1
port {port}
dir "{folder}"
aclfile "{folder}/users.acl"
appendonly yes
save ""
maxmemory-policy noeviction
acllog-max-len 1000
"""
_HBA = "local all postgres trust\nlocal all all scram-sha-256\n"


class Passwords:
    """A password for each user, in a file of mode 0600."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file(self, user: str) -> Path:
        """Return the file with the user's password; made at its first use."""
        path = self._folder / f"{user}.password"
        if not path.exists():
            write_secret(path, secrets.token_urlsafe(24).encode() + b"\n")
        return path

    def of(self, user: str) -> str:
        return self.file(user).read_text().strip()


class RedisWithUsers(Broker):
    """Redis with the shipped ACL file. `settings(user)` are for a process: through TLS, with a password file."""

    def __init__(self, folder: Path, authority: Authority, passwords: Passwords) -> None:
        super().__init__(folder)
        self._passwords = passwords
        self._proxy = TlsProxy(("127.0.0.1", self.port), sign("redis", "127.0.0.1", authority), folder)

    @property
    def url(self) -> str:
        return self.settings("b2copy-worker")["B2COPY_REDIS_URL"]

    @property
    def client(self) -> redis.Redis:
        return self.client_of("b2copy-admin")

    def client_of(self, user: str | None, password: str | None = None) -> redis.Redis:
        """Return a client without TLS, so that a test sees what the server allows."""
        if user and password is None:
            password = self._passwords.of(user)
        no_retry = Retry(NoBackoff(), 0)
        return redis.Redis(port=self.port, username=user, password=password, decode_responses=True, retry=no_retry)

    def settings(self, user: str) -> dict[str, str]:
        return {
            "B2COPY_REDIS_URL": f"rediss://{user}@127.0.0.1:{self._proxy.port}/0",
            "B2COPY_REDIS_PASSWORD_FILE": str(self._passwords.file(user)),
        }

    def stop(self) -> None:
        self._proxy.close()
        super().stop()

    def _configure(self) -> Path:
        shipped = (DEPLOY / "redis" / "users.acl").read_text()
        acl = re.sub(r"@REDIS_(\w+)@", self._digest, re.sub(r"(?m)^#.*\n", "", shipped))
        (self._folder / "users.acl").write_text(acl)
        path = self._folder / "redis.conf"
        path.write_text(_REDIS.format(port=self.port, folder=self._folder))
        return path

    def _digest(self, placeholder: re.Match[str]) -> str:
        user = f"b2copy-{placeholder[1].lower()}"
        return hashlib.sha256(self._passwords.of(user).encode()).hexdigest()


class PostgresWithRoles:
    """PostgreSQL with the shipped roles and a migrated ledger in a schema of its own, owned by b2copy_owner."""

    def __init__(self, folder: Path, authority: Authority, passwords: Passwords) -> None:
        self._passwords = passwords
        self._ca = authority.write(folder / "ca.pem")
        self.server = Postgres().start()
        self._proxy = TlsProxy(
            self.server.folder / ".s.PGSQL.5432", sign("postgres", "127.0.0.1", authority), folder, postgres=True
        )
        self.server.url()
        self._options = "options=-csearch_path%3Dt1"
        self.run_roles_sql()
        with self.server.connect() as admin:
            for (role,) in admin.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'b2copy%'").fetchall():
                admin.execute(f"ALTER ROLE {role} PASSWORD '{passwords.of(role)}'".encode())
            (hba,) = admin.execute("SHOW hba_file").fetchone() or ("",)
            Path(hba).write_text(_HBA)
            admin.execute("SELECT pg_reload_conf()")
        migrate(self._url("b2copy_owner", passwords.of("b2copy_owner"), "postgresql+psycopg"))
        self.run_roles_sql()

    def run_roles_sql(self) -> None:
        """Run deploy/postgres/roles.sql as a superuser, in the ledger's schema."""
        with self.server.connect() as admin:
            admin.execute("SET search_path = t1")
            admin.execute(ROLES_SQL.encode())

    def connect(self, role: str, password: str | None = None) -> psycopg.Connection:
        """Return a connection over TLS, with the server's certificate verified."""
        return psycopg.connect(self._url(role, password or self._passwords.of(role)), autocommit=True)

    def settings(self, role: str) -> dict[str, str]:
        return {
            "B2COPY_DATABASE_URL": self._url(role),
            "B2COPY_DATABASE_PASSWORD_FILE": str(self._passwords.file(role)),
        }

    def _url(self, role: str, password: str = "", scheme: str = "postgresql") -> str:
        login = f"{role}:{password}" if password else role
        tls = f"sslmode=verify-full&sslrootcert={self._ca}"
        return f"{scheme}://{login}@127.0.0.1:{self._proxy.port}/postgres?{tls}&{self._options}"

    def stop(self) -> None:
        self._proxy.close()
        self.server.stop()
