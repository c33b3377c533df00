"""The host of the B2COPY that the ledger belongs to. The first worker that starts stores its B2COPY_HOST.

A process with another B2COPY_HOST must not use the ledger: it would start a pending fee run a second time, look for an
account where it was never opened, and the ids in the identity map would be those of other clients.
"""

from sqlalchemy import Connection, select, update

from worker.errors import SettingsError
from worker.ledger.audit import record_audit
from worker.ledger.schema import ledger

_l = ledger.c


def b2copy_host_of(connection: Connection) -> str | None:
    """Return the host that the ledger belongs to; None if no worker has started on it yet."""
    return connection.execute(select(_l.b2copy_host)).scalar()


def find_host_problem(connection: Connection, host: str) -> str:
    """Return why a worker with this B2COPY_HOST must not use the ledger, and the remedy; empty if it may."""
    owner = b2copy_host_of(connection)
    if owner in (None, host):
        return ""
    return (
        f"B2COPY_HOST is {host}, and this ledger belongs to {owner}: what is pending there would be started again, and"
        " the ids of its clients name other clients here. Correct B2COPY_HOST, or name another ledger in"
        " B2COPY_DATABASE_URL: each B2COPY needs one of its own. If it is the same B2COPY with a new address, stop all"
        f' workers and run `b2copy-sync migrate --b2copy-host {host} --why "..."`'
    )


def check_b2copy_host(connection: Connection, host: str) -> None:
    """Store the host if none is stored. Raises `SettingsError` if the ledger belongs to another one."""
    connection.execute(update(ledger).where(_l.b2copy_host.is_(None)).values(b2copy_host=host))
    if problem := find_host_problem(connection, host):
        raise SettingsError(problem)


def set_b2copy_host(connection: Connection, host: str, actor: str, note: str) -> None:
    """Write the host and an entry of the audit, if it changes."""
    before = b2copy_host_of(connection)
    if host != before:
        connection.execute(update(ledger).values(b2copy_host=host))
        record_audit(connection, "move to host", actor, note, "b2copy_host", {"host": before}, {"host": host})
