"""Three clients of a CRM that write transactions to its own database: a shell, Node, and Python with a plain driver."""

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from worker.testbed.processes import clean_environment

Transact = Callable[[str], None]
"""Sends the SQL of one whole transaction, which ends with COMMIT or ROLLBACK."""

_NODE = Path(__file__).with_name("transactions.mjs")


def missing_tools(database: str) -> list[str]:
    """Return what is not installed here of what the clients need."""
    shell = "sqlite3" if database == "sqlite" else "psql"
    missing = [name for name in (shell, "node") if shutil.which(name) is None]
    if database == "postgresql" and not missing:
        found = subprocess.run(["node", "-e", "require('pg')"], env=_environment(), capture_output=True)
        missing += ["Node's package pg (npm install pg, and NODE_PATH)"] if found.returncode else []
    return missing


@contextmanager
def clients(url: str) -> Iterator[Mapping[str, Transact]]:
    """The clients by name, for the CRM's database at this SQLAlchemy URL."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        file = str(parsed.database)
        shell = ["sqlite3", "-bail", "-cmd", ".timeout 10000", file]
        with _node(f"sqlite:{file}") as node:
            yield {"sqlite3": _by_shell(shell), "node": node, "python": _by_sqlite(file)}
        return
    plain = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    with _node(plain) as node, psycopg.connect(plain, autocommit=True) as connection:

        def by_psycopg(sql: str) -> None:
            connection.execute(sql.encode())  # several statements, as the server takes them without parameters

        shell = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", plain]
        yield {"psql": _by_shell(shell), "node": node, "python": by_psycopg}


def _by_shell(command: list[str]) -> Transact:
    def transact(sql: str) -> None:
        subprocess.run(command, input=sql, text=True, check=True, capture_output=True, timeout=30)

    return transact


def _by_sqlite(file: str) -> Transact:
    def transact(sql: str) -> None:
        connection = sqlite3.connect(file, timeout=10.0, isolation_level=None)
        try:
            connection.executescript(sql)
        finally:
            connection.close()

    return transact


@contextmanager
def _node(url: str) -> Iterator[Transact]:
    process = subprocess.Popen(
        ["node", str(_NODE)],
        env=_environment() | {"CRM_DATABASE_URL": url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def transact(sql: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(sql) + "\n")
        process.stdin.flush()
        if problem := process.stdout.readline().strip():
            raise RuntimeError(problem)
        if process.poll() is not None:
            raise RuntimeError("node has ended")

    try:
        yield transact
    finally:
        process.communicate()  # closes its stdin, so that it ends


def _environment() -> dict[str, str]:
    # NODE_PATH: where `npm install pg` was done.
    return clean_environment(**{name: os.environ[name] for name in ("NODE_PATH",) if name in os.environ})
