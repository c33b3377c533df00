"""The parts that tests run on: a broker, a sandbox B2COPY and worker processes of our own.

* `broker`   (worker.testbed.broker.Broker) empty and running at the start of each test
* `sandbox`  (worker.sandbox.control_client.SandboxControl) freshly reset: its switches, counters and effects
* `keys`     the key pair registered at the sandbox, `device_ip` 127.0.0.1, `admin_id` 42
* `environment`  folder, fresh ledger URL, settings and supervised processes (worker.testbed.local_system.Environment)
* `active_environment`  the same, with an empty ledger, and its settings in this process's environment variables
* `worker`   starts `b2copy-sync worker` and returns when it takes messages
* `configure`, `settings`  the environment's settings, with changes or as they are
* `member`   another member of the fleet, in this process: a shared session with a store, lock and copy of its own
* `wire`     a server that answers byte by byte (tests.http.raw_server.Wire)
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.http.raw_server import Wire
from worker import instances
from worker.ledger.migrations import migrate
from worker.messages.ask_read import answers
from worker.sandbox.control_client import SandboxControl
from worker.session.shared_session import SharedSession
from worker.session.timings import Timings
from worker.settings import Settings, crm_settings, variable, worker_settings
from worker.testbed.broker import Broker
from worker.testbed.keys import KeyPair, new_key_pair
from worker.testbed.local_system import Environment, Sandbox, wait_for_worker
from worker.testbed.processes import Process, clean_environment

Configure = Callable[..., Settings]
Member = Callable[..., SharedSession]

QUICK = {
    "login_backoff": 0.02, "login_backoff_max": 0.05, "pace": 0.02, "cooldown": 0.1, "cooldown_max": 0.2,
    "store_timeout": 2.0,  # longer than in production: Redis and four test processes share two cores
}  # fmt: skip


def quick(**changes: float) -> Timings:
    """Return the session's timings with short waits."""
    return replace(Timings(), **(QUICK | changes))  # type: ignore[arg-type]


# No test may use a Redis or a database that this shell's variables name. Those of libpq begin with PG.
for name in os.environ.keys() - clean_environment().keys() | {name for name in os.environ if name.startswith("PG")}:
    del os.environ[name]

# multiprocessing creates unix sockets in the temporary folder. With the 31 bytes that it appends, the path of a socket
# must be shorter than 104 bytes (unix(4) of BSD and macOS; 108 on Linux).
if len(os.fsencode(tempfile.gettempdir())) > 72:
    tempfile.tempdir = "/tmp"


@pytest.fixture(scope="session")
def one_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("broker")).start()
    yield broker
    broker.stop()


@contextmanager
def running_sandbox(folder: Path) -> Iterator[Sandbox]:
    sandbox = Sandbox(folder, new_key_pair(folder, "test-key")).start()
    yield sandbox
    sandbox.stop()
    assert "Traceback" not in sandbox.process.tail(10_000), sandbox.process.tail(60)


@pytest.fixture(scope="session")
def one_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with running_sandbox(tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield sandbox


@pytest.fixture
def broker(one_broker: Broker) -> Broker:
    one_broker.start()  # a test may have left it dead
    one_broker.flush()
    return one_broker


@pytest.fixture
def sandbox(one_sandbox: Sandbox) -> SandboxControl:
    one_sandbox.start()
    one_sandbox.control.reset()
    return one_sandbox.control


@pytest.fixture
def keys(one_sandbox: Sandbox) -> KeyPair:
    return one_sandbox.keys


@pytest.fixture
def environment(broker: Broker, one_sandbox: Sandbox, sandbox: SandboxControl) -> Iterator[Environment]:
    with Environment(broker, one_sandbox) as environment:
        yield environment
        for process in environment.processes:  # pytest shows this when the test failed
            print(f"---- {process.name}, started {process.started}x\n{process.tail(40)}")


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite ledger, to be copied: a migration takes longer than most tests."""
    path = tmp_path_factory.mktemp("migrated") / "ledger.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def active_environment(
    environment: Environment, migrated_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Environment]:
    shutil.copy(migrated_file, environment.database_url.removeprefix("sqlite:///"))
    for name, value in environment.settings.items():
        monkeypatch.setenv(name, value)
    forget()
    yield environment
    forget()


def forget() -> None:
    """What this process has read or made belongs to the settings before."""
    crm_settings.cache_clear()
    worker_settings.cache_clear()
    if opened := instances.ledger.existing:
        opened.close()  # since Python 3.13 SQLite warns of a connection that is collected while open
    for made in (instances.ledger, instances.session, instances.back_office, instances.b2copy, instances.crm):
        made.forget()
    answers.forget()
    if "worker.app" in sys.modules:
        from worker.app import app

        app._after_fork()  # its next message goes to the broker of the next settings


@pytest.fixture
def worker(environment: Environment) -> Callable[..., Process]:
    def start(*options: str, name: str = "worker", **settings: Any) -> Process:
        process = environment.worker(*options, name=name, **settings)
        wait_for_worker(process)
        return process

    return start


@pytest.fixture
def configure(active_environment: Environment, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Return a function that reads the settings from the environment, with changes."""

    def read(**changes: Any) -> Settings:
        for name, value in changes.items():
            monkeypatch.setenv(variable(name), str(value))
        worker_settings.cache_clear()
        return worker_settings()

    return read


@pytest.fixture
def settings(configure: Configure) -> Settings:
    return configure()


@pytest.fixture
def member(configure: Configure) -> Member:
    """Return a function that makes another member of the fleet: `member(settings, wall=..., lease=...)`."""

    def join(
        settings: Settings | None = None, wall: Callable[[], float] | None = None, **timings: float
    ) -> SharedSession:
        return SharedSession(settings or configure(), quick(**timings), wall or time.time)

    return join


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire
