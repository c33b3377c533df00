"""A caller of the sandbox."""

from collections.abc import Iterator

import pytest

from tests.sandbox.caller import Caller
from worker.sandbox.control_client import SandboxControl
from worker.testbed.keys import KeyPair


@pytest.fixture
def caller(sandbox: SandboxControl, keys: KeyPair) -> Iterator[Caller]:
    caller = Caller(sandbox.base_url, keys)
    yield caller
    caller.http.close()
