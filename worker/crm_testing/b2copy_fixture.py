"""What the fixture `b2copy` gives: a local B2COPY, a ledger, and the engine of a worker, all in this process.

The engine is the one of a worker. Redis, Celery and the login are left out: they say when work is done, not what.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tasks import enqueue
from tasks.registry import ALL_KINDS, KINDS
from worker import instances
from worker.b2copy import B2Copy
from worker.crm.requests_table import take_requests
from worker.crm_testing.ledger_for_tests import Ledgers
from worker.crm_testing.local_b2copy import Call, LocalLogin, LoggingServer
from worker.flow.gate import Gate
from worker.flow.meaning_table import Meaning
from worker.flow.pusher import Pusher
from worker.http import Http
from worker.ledger import Ledger, attempts_of, count_due, find, find_many, make_due, search, sweep
from worker.ledger.notices import want_notices
from worker.operation import FINAL, NOTICE_KIND, Operation, Outcome, WaitReason
from worker.queues import REQUEST_LANES
from worker.settings import PREFIX, crm_settings, worker_settings
from worker.webhook.signing import Secrets

_WAITS_FOR_OTHERS = (WaitReason.BEHIND_ENTITY, WaitReason.BEHIND_PARENT)
_LIMIT = 10_000  # operations that are listed
_SHOWN = 20  # calls and operations that a report shows, of the first and of the last
SWEEP_S = 600.0  # seconds at most for the operations of paused, resumed and cancelled batches
_PAUSE_S = 0.01  # between two passes of `running`


class Notice(NamedTuple):
    """A notice that the CRM's webhook would get. `body` is the text that is signed."""

    id: str
    body: str

    @property
    def data(self) -> dict[str, Any]:
        """The `data` of the body: key, kind, state, sequence and so on."""
        return dict(json.loads(self.body)["data"])

    def headers(self, secret: str) -> dict[str, str]:
        """Return the headers of a delivery that is made now, signed with this secret (`whsec_...`)."""
        signed = Secrets([secret]).headers(self.id, self.body, datetime.now(UTC))
        return {"Content-Type": "application/json", **signed}


class OpenGate(Gate):
    """A gate that never closes and never holds, because a test waits for nothing."""

    async def record(
        self,
        learned: Outcome | Exception,
        meaning: Meaning,
        login: str | None,
        kind: str | None = None,
        **of_attempt: Any,
    ) -> None:
        if meaning.circuit == "success":
            await super().record(learned, meaning, login, kind, **of_attempt)


class Sandbox:
    """A local B2COPY and the engine of a worker. Nothing is sent before `run_once`, `run_until_idle` or `running`."""

    def __init__(self, server: LoggingServer, ledger: Ledger) -> None:
        self._server, self._ledger = server, ledger
        want_notices(ledger)
        settings = worker_settings()
        http = Http({"service_admin": LocalLogin(server)}, settings)
        client = B2Copy(http, settings.login_of_group)
        self._pusher = Pusher(ledger, ALL_KINDS, {"b2copy": lambda: client}, settings, OpenGate)
        self._lock = threading.Lock()

    def fees(self, login: str, **rule: Any) -> None:
        """Say how the fee runs of an MT login go: `pending_polls=2`, `ends="ERROR"`, `message=...`, `known=False`, ...

        Without a rule they succeed at once. All fields are in `worker.sandbox.switches.FeeRule`. Raises `ValueError`
        for one that is not there.
        """
        rules = {each: one.model_dump() for each, one in self._server.b2copy.switches.logins.items()}
        self.switches(logins={**rules, login: rule})

    def switches(self, **changes: Any) -> None:
        """Change how B2COPY behaves: see `worker.sandbox.switches.Switches`. Raises `ValueError`."""
        self._server.on_loop(self._server.switch, changes)

    def faults(self, *faults: dict[str, Any]) -> None:
        """Set what goes wrong, for instance `{"what": "status", "status": 503}`; without arguments, nothing does."""
        self.switches(faults=list(faults))

    @property
    def operations(self) -> list[Operation]:
        """What was requested, oldest first."""
        found = search(self._ledger, limit=_LIMIT)
        return [one for one in reversed(found) if one.kind != NOTICE_KIND]

    def operation(self, key: str) -> Operation | None:
        """Return the operation with this key (`fees.process:W1`), or with this id (`W1`), if it is only one."""
        if (found := find(self._ledger, key)) is not None:
            return found
        named = find_many(self._ledger, [f"{kind}:{key}" for kind in ALL_KINDS])
        if len(named) > 1:
            raise LookupError(f"{key} is the id of several operations: {', '.join(sorted(named))}")
        return next(iter(named.values()), None)

    @property
    def calls(self) -> list[Call]:
        """Every call that reached B2COPY."""
        return list(self._server.calls)

    @property
    def notices(self) -> list[Notice]:
        """What the CRM's webhook would get, oldest first. A newer notice supersedes one that nobody has taken yet."""
        found = search(self._ledger, kind=NOTICE_KIND, limit=_LIMIT)
        return [Notice(one.payload["id"], one.payload["body"]) for one in reversed(found) if one.state not in FINAL]

    def run_once(self) -> bool:
        """Do what a worker does until nothing is due now. Returns whether anything was due.

        A row of `b2copy_requests` becomes an operation, and decisions about batches are obeyed. What waits, waits on:
        see `run_until_idle`.
        """
        with self._lock:
            for _ in take_requests(self._ledger, KINDS, crm_settings()):
                pass
            sweep(self._ledger, SWEEP_S)
            counts = count_due(self._ledger)
            due = [lane for lane in REQUEST_LANES if counts[lane]]
            for lane in due:
                self._pusher.drain(lane)
            return bool(due)

    def run_until_idle(self, within_s: float = 10.0) -> None:
        """Do what a worker does until nothing is left to do. No wait is waited out: polls and back-offs follow at once.

        What waits for another operation that has failed, or is paused, stays. Raises `AssertionError` if there is
        still something to do after `within_s` seconds, for instance because B2COPY is set to fail for ever.
        """
        ends = time.monotonic() + within_s
        while self.run_once() or self._end_waits():
            if time.monotonic() > ends:
                raise AssertionError(f"not idle within {within_s:g} s\n{self.call_log()}")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Do what a worker does in a thread meanwhile, for code that waits (`enqueue.wait`)."""
        stopping = threading.Event()

        def run() -> None:
            while not stopping.wait(_PAUSE_S):
                self.run_once()
                self._end_waits()

        thread = threading.Thread(target=run, name="b2copy-sandbox", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()

    def call_log(self) -> str:
        """Return what happened: each call to B2COPY, then each operation with its last message."""
        calls = _first_and_last(list(map(str, self.calls)), "calls") or ["no call reached B2COPY"]
        return "\n".join([*calls, "", *_first_and_last(list(map(self._line, self.operations)), "operations")])

    def _line(self, operation: Operation) -> str:
        attempts = attempts_of(self._ledger, operation.id)
        reason = operation.failure_reason or operation.wait_reason
        message = next((one.message for one in reversed(attempts) if one.message), None)
        parts = [operation.key, operation.state, reason and f"({reason})", message]
        return "  ".join(str(part) for part in parts if part)

    def _end_waits(self) -> bool:
        """Make due what waits for a time. Returns whether anything is due then."""
        reasons = [reason for reason in WaitReason if reason not in _WAITS_FOR_OTHERS]
        return bool(sum(make_due(self._ledger, "b2copy", reason) for reason in reasons))

    def close(self) -> None:
        self._pusher.close()


def _first_and_last(lines: list[str], what: str) -> list[str]:
    left_out = len(lines) - 2 * _SHOWN
    if left_out <= 0:
        return lines
    return [*lines[:_SHOWN], f"... {left_out} {what} more ...", *lines[-_SHOWN:]]


@contextmanager
def open_sandbox(
    folder: Path, ledgers: Ledgers, database_url: str | None, patch: pytest.MonkeyPatch
) -> Iterator[Sandbox]:
    """Make a sandbox, and set this process's environment so that `tasks.enqueue` uses its ledger."""
    server = LoggingServer.start()
    try:
        url, ledger = ledgers.empty(database_url)
        _set_environment(patch, folder, server.url, url)
        patch.setattr(enqueue, "_wake", lambda lane, count: None)  # there is no broker, and nobody to wake
        _forget()
        instances.ledger.set_value(ledger)
        sandbox = Sandbox(server, ledger)
        yield sandbox
        sandbox.close()
    finally:
        _forget()
        server.stop()


def _set_environment(patch: pytest.MonkeyPatch, folder: Path, url: str, database_url: str) -> None:
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        patch.delenv(name)
    secret = folder / "seamless.secret"
    if not secret.exists():
        secret.write_text("sandbox-secret")
        secret.chmod(0o600)
    absent = str(folder / "absent")  # this process logs in without a key
    for name, value in {
        "HOST": url, "ADMIN_ID": "42", "KEY_ID": "sandbox", "PRIVATE_KEY_FILE": absent, "STORAGE_KEY_FILE": absent,
        "DEVICE_IP": "127.0.0.1", "DATABASE_URL": database_url, "REDIS_URL": "redis://127.0.0.1:1/0",
        "DATABASE_PLAINTEXT": "allowed",  # in a CI a test database is another host, often without TLS
        "RATE_LIMIT": "0", "CALL_DEADLINE": "2", "LATE_EFFECT": "2", "SEAMLESS_SECRET_FILE": str(secret),
    }.items():  # fmt: skip
        patch.setenv(PREFIX + name, value)


def _forget() -> None:
    """What this process has read or made belongs to other settings."""
    crm_settings.cache_clear()
    worker_settings.cache_clear()
    instances.ledger.forget()
