"""A scraper finds what happened, in a worker's metrics and in those of the ledger."""

import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event

from tasks import enqueue
from tasks.registry import ALL_KINDS
from tests.cli.conftest import Command, b2copy_sync, ledger
from tests.conftest import forget
from tests.operations import fail_operation, hold_operation, make_wait, record_operation, succeed_operation
from tests.support import until
from tests.watch import metrics_table
from worker.ledger import Ledger, pause
from worker.ledger.batches import pause_batch
from worker.ledger.overview import overview
from worker.operation import FINAL, MESSAGE_KIND, NOTICE_KIND, FailureReason, WaitReason
from worker.queues import NOTIFY, REQUEST_LANES
from worker.report.ledger_metrics import LedgerCollector
from worker.testbed.broker import Broker
from worker.testbed.local_system import Environment, Sandbox, wait_for_worker
from worker.testbed.ports import free_port

__all__ = ["b2copy_sync", "ledger"]  # fixtures

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples_of(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, tuple(sorted(labels.items()))))


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="module", params=["threads", "processes"])
def port(
    request: pytest.FixtureRequest,
    one_broker: Broker,
    one_sandbox: Sandbox,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[int]:
    """A worker that serves metrics, with this process's environment set to its; the port."""
    one_broker.start()
    one_broker.flush()
    one_sandbox.start()
    one_sandbox.control.reset()
    port = free_port()
    folder = tmp_path_factory.mktemp("pool")
    (folder / "counter_999999999.db").write_bytes(b"of a process that has ended")
    with Environment(one_broker, one_sandbox) as environment, pytest.MonkeyPatch.context() as patch:
        for name, setting in environment.settings.items():
            patch.setenv(name, setting)
        forget()
        settings: dict[str, Any] = {"B2COPY_METRICS_LISTEN": str(port)}
        options: list[str] = []
        if request.param == "processes":
            settings["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
            options = ["--pool", "processes", "-c", "6"]
        wait_for_worker(environment.worker(*options, **settings))
        enqueue.fees(account_login="7", request_id="M1")
        until(lambda: (found := enqueue.status("fees.process:M1")) and found.state in FINAL, 15)
        yield port
        forget()


def test_a_worker_serves_what_it_did(port: int) -> None:
    until(lambda: 'b2copy_attempts_total{kind="fees.process",outcome="done"}' in scrape(port))

    text = scrape(port)
    samples = samples_of(text)
    assert value(samples, "b2copy_attempts_total", kind="fees.process", outcome="done") == 1
    ended = {"kind": "fees.process", "lane": "money", "state": "succeeded", "reason": ""}
    assert value(samples, "b2copy_operations_ended_total", **ended) == 1
    assert (
        value(samples, "b2copy_http_requests_total", destination="b2copy", route="processext", status="2xx") or 0
    ) >= 1
    for kind in ALL_KINDS.values():  # an alert sees no increase of a series that begins with 30
        for lane in (NOTIFY,) if kind is ALL_KINDS[NOTICE_KIND] else REQUEST_LANES:
            for reason in (*FailureReason, *kind.failure_reasons):
                failed = {"kind": kind.name, "lane": lane, "state": "failed", "reason": reason}
                assert value(samples, "b2copy_operations_ended_total", **failed) == 0
    unusable = {"kind": MESSAGE_KIND, "lane": "default", "state": "failed", "reason": FailureReason.BAD_PAYLOAD}
    assert value(samples, "b2copy_operations_ended_total", **unusable) == 0
    limited = {"destination": "b2copy", "route": "processext", "status": "429"}
    assert value(samples, "b2copy_http_requests_total", **limited) == 0
    assert value(samples, "b2copy_circuit_open", destination="b2copy") == 0
    assert (value(samples, "b2copy_ledger_transaction_seconds_count") or 0) > 1
    assert (value(samples, "b2copy_wake_ups_total", lane="money") or 0) >= 1
    assert len([name for name, labels in samples if name == "b2copy_build_info"]) == 1
    ours = {name for name, _ in samples if name.startswith("b2copy_") and not name.endswith("_created")}
    assert ours - metrics_table.names().keys() == set()
    assert len(samples) < 600
    assert "M1" not in text


def test_the_ledgers_metrics_say_what_is_open_and_how_old_it_is(b2copy_sync: Command, ledger: Ledger) -> None:
    record_operation(ledger, "W1")
    make_wait(ledger, hold_operation(ledger, "W2", lane="bulk"), wait_reason=WaitReason.NO_ACCESS)
    fail_operation(ledger, "W3")
    succeed_operation(ledger, "W4")
    with ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_operations SET requested_at = requested_at - 90000")
        connection.exec_driver_sql("UPDATE b2copy_operations SET due_at = due_at - 60000 WHERE state = 'queued'")
        connection.exec_driver_sql("UPDATE b2copy_operations SET ended_at = ended_at - 60000")
        connection.exec_driver_sql("UPDATE b2copy_operations SET state_since = state_since - 60000")
    pause(ledger, "bulk", "ann@desk", "B2COPY is upgraded")
    record_operation(ledger, "W5", lane="default", batch="book")
    pause_batch(ledger, "book", "ann@desk", "wrong file?")
    with ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_batches SET decided_at = decided_at - 7200000")

    ran = b2copy_sync("metrics", "--once")

    samples = samples_of(ran.out)
    group = {"lane": "money", "kind": "fees.process", "state": "queued", "reason": ""}
    assert value(samples, "b2copy_operations", **group) == 1
    assert value(samples, "b2copy_operations", **group | {"state": "failed", "reason": "rejected"}) == 1
    assert (
        value(samples, "b2copy_operations", **group | {"lane": "bulk", "state": "waiting", "reason": "no_access"}) == 1
    )
    assert value(samples, "b2copy_oldest_seconds", lane="money", clock="ours") == pytest.approx(90, abs=30)
    assert value(samples, "b2copy_late_seconds", lane="money") == pytest.approx(60, abs=30)
    assert value(samples, "b2copy_late_seconds", lane="bulk") == 0
    assert value(samples, "b2copy_paused", lane="bulk") == 1
    assert value(samples, "b2copy_paused", lane="money") == 0
    assert value(samples, "b2copy_import_paused_seconds") == pytest.approx(7200, abs=30)
    assert value(samples, "b2copy_ledger_up") == 1
    assert {name for name, _ in samples} - metrics_table.names().keys() == set()
    assert "W2" not in ran.out


def test_pending_time_is_not_ours(b2copy_sync: Command, ledger: Ledger) -> None:
    make_wait(ledger, hold_operation(ledger, "W1"), wait_reason=WaitReason.PENDING_AT_B2COPY, outcome_known=True)
    with ledger.writing() as connection:
        connection.exec_driver_sql(
            "UPDATE b2copy_operations SET requested_at = requested_at - 900000, state_since = state_since - 800000"
        )

    samples = samples_of(b2copy_sync("metrics", "--once").out)

    assert value(samples, "b2copy_oldest_seconds", lane="money", clock="ours") == 0
    assert value(samples, "b2copy_oldest_seconds", lane="money", clock="theirs") == pytest.approx(900, abs=30)


def test_a_long_hold_is_shown_although_nothing_is_late(b2copy_sync: Command, ledger: Ledger) -> None:
    def held_s() -> float | None:
        return value(samples_of(b2copy_sync("metrics", "--once").out), "b2copy_held_seconds", destination="b2copy")

    record_operation(ledger, "W1", lane="bulk")
    before = held_s()
    make_wait(ledger, hold_operation(ledger, "W2"), wait_reason=WaitReason.RATE_LIMITED, due_in_s=86_400)
    notes = b2copy_sync("health", "--json").document["notes"]

    assert before == 0
    assert held_s() == pytest.approx(86_400, abs=60)
    assert "B2COPY answered 429 and has asked us to wait for another 24.0 h: nothing is sent to it" in notes


def test_when_the_ledger_was_read_is_told_by_the_exporters_clock(ledger: Ledger) -> None:
    """Prometheus compares it with its own clock, which NTP sets as the exporter's; the database's may be another."""

    def set_back(connection: Any, *_: object) -> None:
        connection.create_function("julianday", 1, lambda _: (time.time() - 120) / 86_400 + 2_440_587.5)

    event.listen(ledger.engine, "checkout", set_back)

    found = {metric.name: metric.samples for metric in LedgerCollector(lambda: ledger, ALL_KINDS).collect()}

    assert overview(ledger).at / 1000 < time.time() - 100
    [read_at] = found["b2copy_ledger_collected_timestamp_seconds"]
    assert read_at.value == pytest.approx(time.time(), abs=30)


def test_a_ledger_that_cannot_be_read_leaves_no_old_value(b2copy_sync: Command, environment: Environment) -> None:
    ran = b2copy_sync("metrics", "--once")

    assert ran.code == 1
    assert samples_of(ran.out) == {("b2copy_ledger_up", ()): 0}


def test_a_taken_port_is_a_line_and_not_the_end_of_a_worker(b2copy_sync: Command, ledger: Ledger) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = b2copy_sync("metrics", "--listen", str(taken.getsockname()[1]))

    assert ran.code == 1
    assert "Address already in use" in ran.err


def test_pool_processes_need_a_folder(environment: Environment) -> None:
    process = environment.worker("--pool", "processes", "-c", "6", restarts=False, B2COPY_METRICS_LISTEN="9464")

    assert process.wait(20) == 2
    assert "PROMETHEUS_MULTIPROC_DIR" in process.tail()


def test_an_unknown_kind_is_no_label_of_its_own(b2copy_sync: Command, ledger: Ledger) -> None:
    for number in range(3):
        record_operation(ledger, f"W{number}", kind=f"invented {number}")
    record_operation(ledger, "W9")

    text = b2copy_sync("metrics", "--once").out

    assert 'b2copy_operations{kind="other",lane="money",reason="",state="queued"} 3.0' in text
    assert 'b2copy_operations{kind="fees.process",lane="money",reason="",state="queued"} 1.0' in text
    assert "invented" not in text


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    assert metrics_table.PATH.read_text() == metrics_table.text(), "write it again: make env"


def test_the_names_are_as_prometheus_wants_them(
    promtool: Callable[..., str], b2copy_sync: Command, ledger: Ledger
) -> None:
    from prometheus_client import generate_latest

    text = generate_latest().decode() + b2copy_sync("metrics", "--once").out
    assert promtool("check", "metrics", stdin=text) == ""
