"""`b2copy_sync(*arguments)` runs the command in the stage's environment; `ledger` is the stage's."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.command import Ran, run
from worker.ledger import Ledger, open_ledger
from worker.testbed.environment import Stage

Command = Callable[..., Ran]


@pytest.fixture
def b2copy_sync(stage: Stage, tmp_path: Path) -> Command:
    def command(*arguments: str, **settings: str) -> Ran:
        return run(tmp_path, stage.environment | settings, *arguments)

    return command


@pytest.fixture
def ledger(stage: Stage) -> Iterator[Ledger]:
    ledger = open_ledger(stage.database_url, create=True)
    yield ledger
    ledger.close()
