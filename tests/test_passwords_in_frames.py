"""The passwords of ledger and Redis are in no frame of an error: error trackers send the variables of each frame."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest
from sqlalchemy import text

from tests.conftest import Configure, forget
from tests.session.frames import shown_by
from tests.tls import TlsProxy, sign
from worker.errors import SettingsError
from worker.ledger import open_ledger
from worker.ledger.database import version_of
from worker.ledger.migrations import migrate
from worker.redis_connection import redis_client
from worker.settings import worker_settings
from worker.testbed.broker import Broker
from worker.testbed.ports import free_port

CANARY = "hunter2-canary"


def holders(act: Callable[[], object]) -> list[str]:
    """Return in which variables of which functions the password stands when this fails."""
    try:
        act()
    except Exception as error:
        assert CANARY not in repr(error)
        return sorted({where for where, shown in shown_by(error) if CANARY in shown})
    raise AssertionError("it did not fail")


@pytest.fixture
def refusing_postgres() -> Iterator[int]:
    """The port of a server that asks for the password and refuses it.

    Its messages: https://www.postgresql.org/docs/current/protocol-message-formats.html
    """

    def refuse(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while (size := int.from_bytes(connection.recv(4), "big")) == 8:  # asks for TLS or GSS encryption
                connection.recv(4)
                connection.sendall(b"N")
            connection.recv(size - 4)
            connection.sendall(b"R" + (8).to_bytes(4, "big") + (3).to_bytes(4, "big"))
            seen.append(connection.recv(200))
            fields = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed\0\0"
            connection.sendall(b"E" + (4 + len(fields)).to_bytes(4, "big") + fields)

    def serve() -> None:
        with suppress(OSError):
            while True:
                refuse(server.accept()[0])

    seen: list[bytes] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    assert CANARY.encode() in b"".join(seen), "the test is about a password that was sent"


@pytest.mark.parametrize("act", [open_ledger, version_of, migrate])
def test_a_refused_login_at_the_ledger(act: Callable[[str], object], refusing_postgres: int) -> None:
    url = f"postgresql+psycopg://crm:{CANARY}@127.0.0.1:{refusing_postgres}/crm"

    assert holders(lambda: act(url)) == []


@pytest.mark.parametrize("query", ["", "?host=127.0.0.1:1&host=127.0.0.1:2&target_session_attrs=read-write"])
def test_a_ledger_that_does_not_answer(refusing_postgres: int, query: str) -> None:
    address = "/crm" if query else f"127.0.0.1:{free_port()}/crm"
    with suppress(Exception):
        open_ledger(f"postgresql+psycopg://crm:{CANARY}@127.0.0.1:{refusing_postgres}/crm")

    assert holders(lambda: open_ledger(f"postgresql+psycopg://crm:{CANARY}@{address}{query}")) == []


def test_a_database_without_a_ledger(tmp_path: object) -> None:
    with pytest.raises(SettingsError, match="there is no ledger"):
        open_ledger(f"sqlite:///{tmp_path}/none.db")
