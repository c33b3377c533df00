"""A ledger that is gone: work waits, the log says so in a few lines, and everything is done afterwards."""

import time
from collections.abc import Iterator

import pytest

from tasks import enqueue
from tests.conftest import forget
from tests.postgres import Postgres
from tests.tasks.conftest import ended
from worker.app import ledger
from worker.operation import State
from worker.testbed.local_system import Environment, wait_for_worker
from worker.watch.log_repeat_limit import BURST


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    server = Postgres().start()
    yield server
    server.stop()


def test_an_outage_of_the_ledger_leaves_few_lines(
    active_environment: Environment, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("B2COPY_DATABASE_URL", postgres.url()), ("B2COPY_RATE_LIMIT", "20/second")):
        active_environment.settings[name] = value
        monkeypatch.setenv(name, value)
    forget()
    process = active_environment.worker()
    active_environment.beat()  # each of its messages meets the outage too
    wait_for_worker(process)
    rows = [{"account_login": "7", "request_id": f"R{number}"} for number in range(100)]
    recorded = enqueue.many("fees.process", rows)
    ended(recorded[0].key)
    before = len(process.current_log().splitlines())
    ledger().engine.dispose()  # this process's own connections would break
    postgres.kill()
    time.sleep(5)
    postgres.start()

    assert ended(recorded[-1].key, within=30).state == State.SUCCEEDED
    lines = process.current_log().splitlines()[before:]
    assert sum("the ledger is unavailable" in line for line in lines) <= 2 * BURST, "\n".join(lines)
    assert not [line for line in lines if "raised unexpected" in line], "\n".join(lines)
    assert process.started == 1
    process.stop()
    ledger().close()
