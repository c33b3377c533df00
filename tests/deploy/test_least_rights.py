"""The whole system runs with the shipped users of Redis and PostgreSQL, and they can do nothing else."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
import redis

from tests.cli.command import Ran, run
from tests.deploy.servers import PostgresWithRoles, RedisWithUsers, Secrets
from tests.support import until
from worker.testbed.local_system import Environment, Sandbox, wait_for_worker
from worker.testbed.processes import Process

pytestmark = pytest.mark.timeout(180)  # many processes, one after the other

CRM = """
import os

from celery import Celery

from tasks import enqueue
from worker.errors import PayloadConflict

enqueue.fees(account_login="1", request_id="W1")
try:
    enqueue.fees(account_login="2", request_id="W1")
    raise SystemExit("another payload was taken")
except PayloadConflict:
    pass
enqueue.many("fees.process", [{"account_login": str(n), "request_id": f"M{n}"} for n in range(20)])
print(enqueue.status("fees.process:W1").state)
assert enqueue.read("accounts", timeout_s=30) == []
"""
FOREIGN_CLIENT = """
import os
import ssl

from celery import Celery

from worker.settings import crm_settings

settings = crm_settings()
client = Celery(broker=settings.redis_url)
client.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": str(settings.redis_ca_file)}
client.send_task(
    "b2copy.fees.process", kwargs={"account_login": "2", "request_id": "W2"}, queue="b2copy.inbox"
)
"""


class System(NamedTuple):
    environment: Environment
    redis: RedisWithUsers
    postgres: PostgresWithRoles
    processes: list[Process]

    def settings(self, redis_user: str, role: str) -> dict[str, str]:
        return self.redis.settings(redis_user) | self.postgres.settings(role)

    def command(self, *arguments: str, **settings: str) -> Ran:
        """Run `b2copy-sync` as it runs on a worker's host."""
        as_worker = self.environment.variables | self.settings("b2copy-worker", "b2copy_worker") | settings
        return run(self.environment.folder, as_worker, *arguments)

    def state(self, key: str) -> str:
        with self.postgres.server.connect() as connection:
            row = connection.execute("SELECT state FROM t1.b2copy_operations WHERE key = %s", [key]).fetchone()
        return str(row[0]) if row else "absent"


@pytest.fixture(scope="module")
def system(one_sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Worker and beat, each with its own user of Redis and PostgreSQL, over verified TLS."""
    folder = tmp_path_factory.mktemp("least")
    secrets = Secrets(folder / "secrets")
    postgres = PostgresWithRoles(folder, secrets)
    server = RedisWithUsers(folder, secrets)
    server.start()
    one_sandbox.start()
    one_sandbox.control.reset()
    with Environment(server, one_sandbox) as environment:
        environment.settings |= {"B2COPY_REDIS_CA_FILE": str(secrets.ca_file), "B2COPY_RATE_LIMIT": "1000/second"}
        made = System(environment, server, postgres, [])
        as_worker: Any = made.settings("b2copy-worker", "b2copy_worker")
        as_beat: Any = made.settings("b2copy-beat", "b2copy_viewer")
        made.processes.extend([environment.worker(**as_worker), environment.beat(**as_beat)])
        wait_for_worker(made.processes[0])
        yield made
        for process in made.processes:
            print(f"---- {process.name}\n{process.tail(30)}")
    server.stop()
    postgres.stop()


def acl_log(system: System) -> list[Any]:
    return list(system.redis.client.acl_log())


def crm(system: System, code: str, role: str = "b2copy_enqueue") -> str:
    environment = system.environment.variables | system.settings("b2copy-crm", role)
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_a_function_that_a_role_of_ours_has_made_runs_with_no_right_of_the_superusers(system: System) -> None:
    """Before PostgreSQL 15 everybody may make functions in the schema public: CVE-2018-1058."""
    planted = "t1.format(text, name, text)"
    with system.postgres.server.connect() as admin:
        admin.execute(
            f"CREATE FUNCTION {planted} RETURNS text LANGUAGE sql AS $$ SELECT 'ALTER ROLE b2copy_crm SUPERUSER' $$"
        )
        try:
            system.postgres.run_roles_sql()
            found = admin.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'b2copy_crm'").fetchone()
        finally:
            admin.execute("ALTER ROLE b2copy_crm NOSUPERUSER")
            admin.execute(f"DROP FUNCTION {planted}")

    assert found == (False,)


def test_everything_works_with_least_rights_and_no_command_is_refused(system: System) -> None:
    assert crm(system, CRM).strip() in {"queued", "running", "waiting", "succeeded"}
    crm(system, FOREIGN_CLIENT)
    for key in ("W1", "W2", "M19"):
        until(lambda key=key: system.state(f"fees.process:{key}") == "succeeded", within=30)  # type: ignore[misc]
    assert system.command("pause", "--why", "a test of roles").code == 0
    assert system.command("fees", "--account", "9", "--request-id", "W9").code == 0
    assert system.command("resume", "--why", "a test of roles").code == 0
    book = system.environment.folder / "book.csv"
    book.write_text("account_login,request_id\n7,B1\n8,B2\n")
    crm_host = system.postgres.settings("b2copy_enqueue")
    imported = system.command("import", str(book), "--batch", "book", **crm_host)
    assert imported.code == 0, imported.err
    assert system.command("import", "pause", "book", "--why", "a test of roles", **crm_host).code == 1
    for decision in ("pause", "resume", "cancel"):
        yes = ("--yes",) if decision == "cancel" else ()
        decided = system.command("import", decision, "book", "--why", "a test of roles", *yes)
        assert decided.code == 0, decided.err
    assert system.command("import", "status", "book", **system.postgres.settings("b2copy_viewer")).code == 0
    assert "FAIL" not in system.command("doctor", "--login").out
    assert system.command("session", "renew").code == 0
    assert system.command("session", "forget").code == 0
    assert system.command("health").code == 0
    until(lambda: system.state("fees.process:W9") == "succeeded", within=30)
    assert "succeeded" in system.command("status", "W9").out
    viewer = system.postgres.settings("b2copy_viewer")
    assert system.command("status", "W9", **viewer).code == 0
    assert system.command("health", **viewer).code == 0
    owner = system.postgres.settings("b2copy_owner")
    assert system.command("purge", "--older-than", "1d", "--yes", **owner).code == 0

    system.processes[0].kill()  # what it had taken comes back
    until(lambda: system.processes[0].started > 1)
    wait_for_worker(system.processes[0])
    monitor = system.redis.client_of("b2copy-monitor")
    assert monitor.info("persistence")["aof_enabled"] == 1
    assert monitor.llen("b2copy.inbox") == 0
    assert acl_log(system) == []
    for process in system.processes:
        assert "denied" not in process.log.read_text()
        assert "NOPERM" not in process.log.read_text()


REFUSED_BY_REDIS = [
    (user, command)
    for user, commands in {
        "b2copy-worker": ["FLUSHALL", "CONFIG GET *", "KEYS *", "SET foreign 1", "ACL LIST", "SHUTDOWN", "SUBSCRIBE x"],
        "b2copy-beat": [
            "LPUSH b2copy.inbox x",
            "BRPOP b2copy.housekeeping 1",
            "HGETALL b2copy:{x}:session",
            "EVAL x 0",
            "LPUSH b2copy.reads x",
            "BLPOP b2copy:answer:x 1",
        ],
        "b2copy-crm": [
            "BRPOP b2copy.inbox 1",
            "LRANGE b2copy.inbox 0 -1",
            "DEL b2copy.money",
            "BRPOP b2copy.reads 1",
            "LRANGE b2copy.reads 0 -1",
            "BLPOP b2copy.inbox 1",
            "BLPOP b2copy:answers 1",
            "LPUSH b2copy:answer:x y",
            "RPUSH b2copy:answer:x y",
            "LRANGE b2copy:answer:x 0 -1",
            "DEL b2copy:answer:x",
            "PERSIST b2copy:answer:x",
            "SCAN 0",
            "LPUSH b2copy.housekeeping x",
            "HGETALL b2copy:{x}:session",
            "HGETALL b2copy:unacked",
            "PUBLISH /0.celery.pidbox x",
            "MONITOR",
            "EVAL x 0",
            "SADD _kombu.binding.celery.pidbox x",
        ],
        "b2copy-monitor": ["LPUSH b2copy.inbox x", "LRANGE b2copy.inbox 0 -1", "HGETALL b2copy:{x}:session", "SCAN 0"],
    }.items()
    for command in commands
]


def test_redis_refuses_what_a_user_does_not_need(system: System) -> None:
    allowed = []
    for user, command in REFUSED_BY_REDIS:
        with system.redis.client_of(user) as client:
            try:
                client.execute_command(*command.split())
            except redis.exceptions.NoPermissionError:
                continue
        allowed.append((user, command))
    system.redis.client.acl_log_reset()

    assert allowed == []


def test_redis_answers_nobody_without_a_password(system: System) -> None:
    for user, password in ((None, None), ("default", ""), ("b2copy-worker", "guessed")):
        with system.redis.client_of(user, password) as client, pytest.raises(redis.exceptions.AuthenticationError):
            client.ping()
    system.redis.client.acl_log_reset()


INSERT = "INSERT INTO b2copy_requests ({}) VALUES ({})"
REFUSED_BY_POSTGRES = [
    (role, statement)
    for role, statements in {
        "b2copy_worker": [
            "DELETE FROM b2copy_operations",
            "DELETE FROM b2copy_attempts",
            "UPDATE b2copy_audit SET actor = 'x'",
            "DELETE FROM b2copy_audit",
            "DELETE FROM b2copy_batches",
            "UPDATE b2copy_approvals SET proposed_by = 'x'",
            "UPDATE b2copy_approvals SET arguments = '{}'",
            "DELETE FROM b2copy_approvals",
            "SELECT setval('b2copy_operations_id_seq', 1)",
            "UPDATE b2copy_schema_version SET version_num = 'x'",
            "UPDATE b2copy_schema_version SET four_eyes = 'off'",
            "DROP TABLE b2copy_operations",
            "ALTER TABLE b2copy_audit ADD COLUMN x TEXT",
            "CREATE TABLE t1.x (i INT)",
            "SET ROLE b2copy_owner",
        ],
        "b2copy_enqueue": [
            "UPDATE b2copy_operations SET state = 'queued', due_at = 0, failure_reason = NULL",
            "DELETE FROM b2copy_operations",
            "INSERT INTO b2copy_operations (key, lease_owner) VALUES ('x', 'x')",
            "INSERT INTO b2copy_operations (key, failure_reason) VALUES ('x', 'x')",
            "SELECT * FROM b2copy_attempts",
            "INSERT INTO b2copy_audit SELECT * FROM b2copy_audit",
            "SELECT actor, note FROM b2copy_audit",
            "SELECT * FROM b2copy_flags",
            "UPDATE b2copy_batches SET decision = NULL",
            "UPDATE b2copy_batches SET source = 'x'",
            "INSERT INTO b2copy_batches (id, decision) VALUES ('x', 'paused')",
        ],
        "b2copy_crm": [
            "SELECT * FROM b2copy_operations",
            "SELECT payload FROM b2copy_requests",
            "UPDATE b2copy_requests SET payload = ''",
            "DELETE FROM b2copy_requests",
            INSERT.format("kind, payload, requested_at", "'call', '{}', 0"),
            INSERT.format("id, kind, payload", "1, 'call', '{}'"),
            "SELECT * FROM b2copy_audit",
        ],
        "b2copy_viewer": [
            "UPDATE b2copy_operations SET state = 'queued'",
            "DELETE FROM b2copy_flags",
            "SET default_transaction_read_only = off; DELETE FROM b2copy_flags",
            INSERT.format("kind, payload", "'call', '{}'"),
        ],
    }.items()
    for statement in statements
]


def test_postgresql_refuses_what_a_role_does_not_need(system: System) -> None:
    allowed = []
    for role, statement in REFUSED_BY_POSTGRES:
        with system.postgres.connect(role) as connection:
            try:
                connection.execute(statement.encode())
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction):
                continue
        allowed.append((role, statement))

    assert allowed == []


def test_a_worker_may_decide_what_was_proposed(system: System) -> None:
    columns = "action, subject, seen, proposed_at, proposed_by, note, expires_at"
    with system.postgres.connect("b2copy_worker") as connection:
        connection.execute(
            f"INSERT INTO b2copy_approvals ({columns}) VALUES ('cancel', 'x', '', 0, 'ann', '', 0)".encode()
        )
        connection.execute(b"SELECT * FROM b2copy_approvals FOR UPDATE")
        decided = b"UPDATE b2copy_approvals SET decision = 'withdrawn', decided_at = 0, decided_by = 'ann'"
        assert connection.execute(decided).rowcount == 1
        connection.execute(b"SELECT setval('b2copy_approvals_id_seq', nextval('b2copy_approvals_id_seq'))")
        connection.rollback()


def test_a_crm_that_speaks_sql_may_insert_and_get_the_number(system: System) -> None:
    with system.postgres.connect("b2copy_crm") as connection:
        statement = INSERT.format("kind, payload, requested_by", "'none', '{}', 'crm'") + " RETURNING id"
        assert connection.execute(statement.encode()).fetchone()
        with system.postgres.server.connect() as admin:
            has_view = admin.execute("SELECT to_regclass('t1.b2copy_status') IS NOT NULL").fetchone() == (True,)
        if has_view:
            connection.execute("SELECT * FROM b2copy_status")


def test_postgresql_answers_nobody_without_the_right_password_or_without_tls(system: System) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        system.postgres.connect("b2copy_worker", "guessed")
    url = system.postgres.settings("b2copy_worker")["B2COPY_DATABASE_URL"]
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(f"{url}&sslmode=disable&connect_timeout=3")
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(f"{url}&sslmode=verify-full&sslrootcert=system&connect_timeout=3")
