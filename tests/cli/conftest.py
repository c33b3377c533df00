"""`b2copy_sync(*arguments)` runs the command with the environment's variables; `ledger` is the environment's."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.command import Ran, run
from worker.ledger import Ledger, open_ledger
from worker.testbed.local_system import Environment

Command = Callable[..., Ran]


@pytest.fixture
def b2copy_sync(environment: Environment, tmp_path: Path) -> Command:
    def command(*arguments: str, **settings: str) -> Ran:
        return run(tmp_path, environment.variables | settings, *arguments)

    return command


@pytest.fixture
def ledger(environment: Environment) -> Iterator[Ledger]:
    ledger = open_ledger(environment.database_url, create=True)
    yield ledger
    ledger.close()
