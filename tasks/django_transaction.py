"""The CRM's own transaction as an alias of Django's connections: https://docs.djangoproject.com/en/5.2/topics/db/multi-db/

Django begins and ends the transaction. SQLAlchemy gets Django's connection without the right to do so. Django is
imported only here, and only when a CRM gives an alias.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from django.db import connections, transaction
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from worker.errors import BadPayload
from worker.ledger import Ledger
from worker.ledger.database import leads_to
from worker.ledger.engine import remove_row_values

_URLS = {"sqlite": "sqlite://", "postgresql": "postgresql+psycopg://"}  # by Django's name of the database system
_OPTIONS = {"sqlite": {}, "postgresql": {"use_native_hstore": False}}  # asks the server nothing about types


class _Borrowed:
    """Django's DB-API connection, whose transaction SQLAlchemy cannot end and whose functions it cannot replace."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def nothing(self, *_: Any, **__: Any) -> None:
        """Leave it to Django."""

    commit = rollback = close = create_function = add_notice_handler = nothing


@contextmanager
def django_transaction(alias: str, ledger: Ledger) -> Iterator[Connection]:
    """Return Django's connection as SQLAlchemy's, inside `transaction.atomic`.

    In a transaction of the CRM this is a savepoint: if it fails, the CRM may catch the error and go on. Raises
    `BadPayload` if the alias is not known, or its database is not the one that holds the ledger.
    """
    if alias not in connections:
        raise BadPayload(f"using: Django's DATABASES has no {alias!r}: there are {', '.join(connections)}")
    engine = _engine(alias, connections[alias].vendor)
    _check_driver(alias)
    with transaction.atomic(using=alias), engine.connect() as connection:
        _check_holds(ledger, alias, connection)  # each time: a CRM's tests, for one, give an alias another database
        yield connection


def after_commit(alias: str, function: Callable[[], object]) -> None:
    """Call a function when Django's transaction has committed; at once if there is none.

    Not at all if the CRM commits by itself (`AUTOCOMMIT: False`, `set_autocommit(False)`): Django tells nobody of such
    a commit, and dispatch wakes the lanes within a second of it.
    """
    if connections[alias].in_atomic_block or connections[alias].get_autocommit():
        transaction.on_commit(function, using=alias, robust=True)


@cache
def _engine(alias: str, system: str) -> Engine:
    if system not in _URLS:
        raise BadPayload(f"using: the database {alias!r} is on {system}: the ledger is on SQLite or PostgreSQL")
    engine = create_engine(
        _URLS[system], creator=lambda: _Borrowed(connections[alias].connection), poolclass=NullPool,
        pool_reset_on_return=None, hide_parameters=True, **_OPTIONS[system],
    )  # fmt: skip
    if system == "postgresql":
        event.listen(engine, "handle_error", remove_row_values)
    return engine


def _check_driver(alias: str) -> None:
    """Refuse psycopg2, which Django uses if it is older than 4.2 or finds no psycopg."""
    found = connections[alias]
    found.ensure_connection()
    driver = type(found.connection).__module__.partition(".")[0]
    if driver == "psycopg2":
        raise BadPayload(
            f"using: Django reaches its database {alias!r} by psycopg2, and the ledger needs psycopg (version 3): use"
            " Django 4.2 or newer and install psycopg"
        )


def _check_holds(ledger: Ledger, alias: str, connection: Connection) -> None:
    if not leads_to(connection, ledger):
        raise BadPayload(
            f"using: Django's database {alias!r} does not hold the ledger of B2COPY_DATABASE_URL: give both the same"
            " database, or leave `using` out"
        )
