"""A worker for one registration and one opening. It kills itself before or after a call or a commit, if it is asked to.

Each runs in a fork of its own, with the environment variables of its system.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import text

from tasks import enqueue
from tasks.registry import KINDS
from worker.b2copy import Route
from worker.flow.pusher import Pusher
from worker.instances import b2copy, ledger
from worker.ledger import find
from worker.operation import FINAL, OnUnknown, State
from worker.settings import worker_settings

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.faults.clients.killed_worker"])
PATIENCE_S = 30.0


def registration_of(login: str) -> str:
    return f"clients.register:1/{login}"


def opening_of(login: str) -> str:
    return f"accounts.create:1/{login}"


def run(environment: Mapping[str, str], login: str, kill: str | None) -> int | None:
    """Run a worker until both operations have ended, or until it kills itself. Returns its exit code."""
    process = _SERVER.Process(target=_main, args=(dict(environment), login, kill))
    process.start()
    process.join(PATIENCE_S + 10)
    if process.exitcode is None:
        process.kill()
    return process.exitcode


def _main(environment: dict[str, str], login: str, kill: str | None) -> None:
    os.environ.clear()
    os.environ.update(environment)
    enqueue.register_client(login=login)
    enqueue.open_account(login=login, product_currency_id=2, registration=registration_of(login))
    with ledger().writing() as connection:  # what a killed worker held lapses now, and not in ten seconds
        connection.execute(text("UPDATE b2copy_operations SET due_at = 1 WHERE state = 'running'"))
    killer = _Killer(kill)
    killer.watch_commits()
    pusher = Pusher(ledger(), KINDS, {"b2copy": lambda: killer}, worker_settings())
    ends = time.monotonic() + PATIENCE_S
    while not _have_ended(login):
        if time.monotonic() > ends:
            os._exit(1)
        pusher.drain("default")
        with ledger().writing() as connection:
            connection.execute(text("UPDATE b2copy_operations SET due_at = 1 WHERE state = 'waiting'"))
    os._exit(0)


def _have_ended(login: str) -> bool:
    registration, opening = find(ledger(), registration_of(login)), find(ledger(), opening_of(login))
    if registration is None or opening is None or registration.state not in FINAL:
        return False
    return opening.state in FINAL or registration.state != State.SUCCEEDED


class _Killer:
    """B2COPY's client, and the ledger's commits: this process ends at the point that `kill` names."""

    def __init__(self, kill: str | None) -> None:
        self._kill = kill
        self._commits = 0

    def _at(self, point: str) -> None:
        if point == self._kill:
            os.kill(os.getpid(), signal.SIGKILL)

    def login_of(self, route: Route[Any]) -> str | None:
        return b2copy().login_of(route)

    async def send(
        self, route: Route[Any], body: Mapping[str, Any], on_unknown: OnUnknown, before_send: Callable[[], None]
    ) -> Any:
        self._at(f"before the call {route.name}")
        answer = await b2copy().send(route, body, on_unknown, before_send)
        self._at(f"after the call {route.name}")
        return answer

    def watch_commits(self) -> None:
        dialect = ledger().engine.dialect
        commit = dialect.do_commit

        def watched(connection: Any) -> None:
            self._commits += 1
            self._at(f"before commit {self._commits}")
            commit(connection)
            self._at(f"after commit {self._commits}")

        dialect.do_commit = watched  # type: ignore[assignment,method-assign]
