"""The ledger comes back from its backup by the commands that the handbook prints, with the rights on its tables."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.deploy.handbook import DEPLOY, block_with
from tests.operations import find_operation, key_of, record_operation
from tests.postgres import Postgres, find_installation
from worker.ledger import find, open_ledger
from worker.ledger.migrations import migrate

INSTALL = "Install"
BACK_UP = "Back up and restore"
HBA = "local all postgres trust\nlocal all all scram-sha-256\n"


def run_block(section: str, text: str, folder: Path, **environment: str) -> None:
    """Run the handbook's block that holds this text, without what it exports and without systemctl."""
    lines = [line for line in block_with(text, section).splitlines() if not line.startswith(("export ", "systemctl "))]
    tools = f"{find_installation() / 'bin'}:{os.environ['PATH']}"
    ran = subprocess.run(
        ["sh", "-ec", "\n".join(lines)],
        cwd=folder,
        env=os.environ | {"PATH": tools} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    server = Postgres().start()
    yield server
    server.stop()


@pytest.mark.timeout(120)  # a server of its own
def test_postgresql(postgres: Postgres, tmp_path: Path) -> None:
    def url(role: str, scheme: str = "postgresql+psycopg", password: str = "") -> str:
        return f"{scheme}://{role}:{password}@/postgres?host={postgres.folder}"

    os.symlink(DEPLOY, tmp_path / "deploy")
    subprocess.run([str(DEPLOY / "new-secrets"), "secrets"], cwd=tmp_path, check=True, capture_output=True, timeout=30)
    admin = url("postgres", "postgresql")
    run_block(INSTALL, "ALTER ROLE", tmp_path, ADMIN_URL=admin)
    with psycopg.connect(admin, autocommit=True) as connection:
        (hba,) = connection.execute("SHOW hba_file").fetchone() or ("",)
        Path(hba).write_text(HBA)
        connection.execute("SELECT pg_reload_conf()")
    passwords = {
        role: (tmp_path / "secrets" / "b2copy" / f"postgres-{role}.password").read_text().strip()
        for role in ("owner", "worker")
    }
    migrate(url("b2copy_owner", password=passwords["owner"]))
    run_block(INSTALL, "systemctl start b2copy-sync-migrate", tmp_path, ADMIN_URL=admin)
    as_worker = url("b2copy_worker", password=passwords["worker"])
    ledger = open_ledger(as_worker)
    record_operation(ledger, "W1")

    run_block(BACK_UP, "--file=b2copy.dump", tmp_path, ADMIN_URL=admin)
    record_operation(ledger, "W2")
    ledger.close()
    run_block(BACK_UP, 'pg_restore --dbname="$ADMIN_URL"', tmp_path, ADMIN_URL=admin)

    restored = open_ledger(as_worker)
    assert find_operation(restored, "W1").state == "queued"
    assert find(restored, key_of("W2")) is None
    record_operation(restored, "W3")
    restored.close()
    with psycopg.connect(admin) as connection:
        owners = connection.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE tablename LIKE 'b2copy%'")
        assert owners.fetchall() == [("b2copy_owner",)]


def test_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = open_ledger(f"sqlite:///{path}", create=True)
    record_operation(ledger, "W1")

    run_block(BACK_UP, "VACUUM INTO", tmp_path, B2COPY_DATABASE_URL=f"sqlite:///{path}")
    record_operation(ledger, "W2")
    ledger.close()
    run_block(BACK_UP, "install -m 600 backup.sqlite", tmp_path, LEDGER=str(path))

    restored = open_ledger(f"sqlite:///{path}")
    assert find_operation(restored, "W1").state == "queued"
    assert find(restored, key_of("W2")) is None
    restored.close()
    assert path.stat().st_mode & 0o777 == 0o600
