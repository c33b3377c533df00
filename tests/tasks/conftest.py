"""One worker for all tests of a module, and the CRM's side of it in this process."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from tasks import enqueue
from tests.conftest import forget
from tests.support import until
from worker.operation import FINAL, Operation
from worker.sandbox.control_client import SandboxControl
from worker.testbed.broker import Broker
from worker.testbed.local_system import Environment, Sandbox, wait_for_worker

ALONE = ("--without-mingle", "--without-gossip")  # asking other workers costs a worker's start a second

_names = count(1)


@contextmanager
def running_fleet(
    broker: Broker,
    sandbox: Sandbox,
    migrated_file: Path,
    *options: str,
    prepare: Callable[[Environment], dict[str, str]] = lambda _: {},
    **settings: str,
) -> Iterator[Environment]:
    """Run an environment with an empty ledger and a worker, and set this process's environment to it.

    `prepare` writes files into the environment's folder and returns the settings that name them.
    """
    broker.start()
    broker.flush()
    sandbox.start()
    sandbox.control.reset()
    with Environment(broker, sandbox) as environment, pytest.MonkeyPatch.context() as patch:
        shutil.copy(migrated_file, environment.database_url.removeprefix("sqlite:///"))
        environment.settings.update(settings | prepare(environment))
        for name, value in environment.settings.items():
            patch.setenv(name, value)
        forget()
        wait_for_worker(environment.worker(*options))
        yield environment
        forget()


@pytest.fixture(scope="module")
def fleet(one_broker: Broker, one_sandbox: Sandbox, migrated_file: Path) -> Iterator[Environment]:
    with running_fleet(one_broker, one_sandbox, migrated_file, *ALONE, B2COPY_FEES_POLL_FIRST="0.2") as environment:
        yield environment


@pytest.fixture
def control(fleet: Environment) -> Iterator[SandboxControl]:
    """The sandbox, whose switches go back when the test is over."""
    control = fleet.sandbox.control
    before = control.switches()
    yield control
    control.switches(**before)


@pytest.fixture
def name() -> Callable[[], str]:
    """Names of things that no other test uses."""
    return lambda: f"N{next(_names)}"


def ended(key: str, within: float = 30.0) -> Operation:
    """Wait for an operation to be final."""

    def final() -> Operation | None:
        found = enqueue.status(key)
        return found if found and found.state in FINAL else None

    operation = until(final, within)
    assert operation is not None
    return operation
