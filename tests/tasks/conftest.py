"""One worker for all tests of a module, and the CRM's side of it in this process."""

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from tasks import enqueue
from tests.conftest import forget
from tests.support import until
from worker.operation import FINAL, Operation
from worker.sandbox.control_client import SandboxControl
from worker.testbed.broker import Broker
from worker.testbed.environment import Environment, Sandbox, wait_for_worker

ALONE = ("--without-mingle", "--without-gossip")  # asking other workers costs a worker's start a second

_names = count(1)


@pytest.fixture(scope="module")
def fleet(one_broker: Broker, one_sandbox: Sandbox) -> Iterator[Environment]:
    """An environment with a worker, and this process's environment set to it."""
    one_broker.start()
    one_broker.flush()
    one_sandbox.start()
    one_sandbox.control.reset()
    with Environment(one_broker, one_sandbox) as environment, pytest.MonkeyPatch.context() as patch:
        environment.settings["B2COPY_FEES_POLL_FIRST"] = "0.2"
        for name, value in environment.settings.items():
            patch.setenv(name, value)
        forget()
        wait_for_worker(environment.worker(*ALONE))
        yield environment
        forget()


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


def ended(key: str, within: float = 10.0) -> Operation:
    """Wait for an operation to be final."""

    def final() -> Operation | None:
        found = enqueue.status(key)
        return found if found and found.state in FINAL else None

    operation = until(final, within)
    assert operation is not None
    return operation
