"""A ledger that is gone: work waits, the log says so in a few lines, and everything is done afterwards."""

import time
import urllib.request
from collections.abc import Iterator

import pytest

from tasks import enqueue
from tests.conftest import forget
from tests.postgres import Postgres
from tests.support import until
from tests.tasks.conftest import ended
from worker.instances import ledger
from worker.ledger import find_many
from worker.ledger.migrations import migrate
from worker.operation import State
from worker.testbed.local_system import Environment, wait_for_worker
from worker.testbed.ports import free_port
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


def test_a_worker_that_starts_in_an_outage_of_the_ledger_is_a_whole_worker_after_it(
    active_environment: Environment, postgres: Postgres
) -> None:
    port, url = free_port(), postgres.url()
    migrate(url)
    active_environment.settings["B2COPY_DATABASE_URL"] = url
    active_environment.settings["B2COPY_METRICS_LISTEN"] = f"127.0.0.1:{port}"
    postgres.kill()
    process = active_environment.worker()
    wait_for_worker(process)

    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read(), "utf-8")

    assert "b2copy.money" in process.current_log()
    assert "b2copy.notify" not in process.current_log()  # it has no webhook
    assert "b2copy_build_info{" in metrics()
    postgres.start()
    until(lambda: "b2copy_ledger_transaction_seconds_count 0.0" not in metrics(), within=30)
    assert process.started == 1
    process.stop()


@pytest.mark.parametrize("options", [(), ("--pool", "processes")], ids=["threads", "processes"])
def test_a_worker_of_another_b2copy_that_starts_in_an_outage_of_the_ledger_claims_nothing(
    active_environment: Environment, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    url = postgres.url()
    monkeypatch.setenv("B2COPY_DATABASE_URL", url)
    active_environment.settings["B2COPY_DATABASE_URL"] = url
    forget()
    migrate(url, b2copy_host="https://b2copy.example.com")
    recorded = enqueue.fees(account_login="7", request_id="W1")
    ledger().close()
    postgres.kill()
    process = active_environment.worker(*options, restarts=False)
    wait_for_worker(process)
    postgres.start()

    until(lambda: not process.running, within=30)

    log = process.current_log()
    assert process.returncode == 1
    assert f"B2COPY_HOST is {active_environment.sandbox.url}, and this ledger belongs to" in log
    assert find_many(ledger(), [recorded.key])[recorded.key].state == State.QUEUED
    assert active_environment.sandbox.control.calls() == []
    ledger().close()
