"""Traces: one from the CRM's request to the notice, across processes; nothing at all when they are off."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import text

from tests.http.raw_server import Wire
from tests.operations import record_operation
from tests.support import until
from tests.watch.collector import Collector
from tests.webhook.conftest import SECRETS
from worker.instances import ledger
from worker.ledger import find
from worker.operation import State
from worker.sandbox.control_client import SandboxControl
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process
from worker.watch.tracing import CLAIMS_IN_TRACE, requesting

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def traced(active_environment: Environment, collector: Collector) -> Environment:
    active_environment.settings["B2COPY_TRACES_URL"] = collector.url
    return active_environment


def run(environment: Environment, code: str, **settings: str) -> str:
    """Run Python in a process of its own, as a CRM. Returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment.variables | settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ended(key: str) -> bool:
    operation = find(ledger(), key)
    return operation is not None and operation.state in {State.SUCCEEDED, State.FAILED}


def test_one_trace_from_the_crm_to_the_notice_and_nothing_secret_in_it(
    traced: Environment,
    collector: Collector,
    worker: Callable[..., Process],
    wire: Wire,
    sandbox: SandboxControl,
    tmp_path: Path,
) -> None:
    secret = tmp_path / "webhook.secret"
    secret.write_text(SECRETS[0] + "\n")
    secret.chmod(0o600)
    process = worker(B2COPY_WEBHOOK_URL=f"{wire.url}/canary-hook", B2COPY_WEBHOOK_SECRET_FILE=str(secret))
    sandbox.switches(logins={"canary7": {"ends": "ERROR", "message": "canary message"}})

    run(traced, "from tasks import enqueue; enqueue.fees(account_login='canary7', request_id='canary-W1')")
    until(lambda: ended("fees.process:canary-W1"))
    until(lambda: wire.requests)
    process.stop()  # it sends what it has

    [request] = collector.named("b2copy.request")
    assert request.parent == ""
    assert request.attributes == {"b2copy.kind": "fees.process", "b2copy.lane": "money"}
    attempt, *_ = collector.named("b2copy.attempt", kind="fees.process")
    assert (attempt.trace, attempt.parent) == (request.trace, request.id)
    assert len(attempt.attributes["b2copy.key_hash"]) == 16
    assert (attempt.is_error, attempt.attributes["b2copy.outcome"]) == (True, "fee_error")
    assert attempt.attributes["http.response.status_code"] == 200
    call = next(span for span in collector.named("b2copy.call") if span.parent == attempt.id)
    assert call.attributes["http.response.status_code"] == 200
    assert (call.is_error, call.attributes["b2copy.outcome"]) == (False, "answered")
    [notice, *_] = collector.named("b2copy.attempt", kind="crm.notify")
    assert (notice.trace, notice.parent, notice.is_error) == (request.trace, request.id, False)
    assert f"traceparent: 00-{request.trace}-{request.id}-".encode() in wire.requests[0]
    assert {span.trace for span in collector.spans} == {request.trace}
    for canary in (b"canary", b"127.0.0.1", b"fees.process:", b"Bearer"):
        assert canary not in collector.raw


def test_requests_of_all_ways_join_the_trace_of_their_sender(
    traced: Environment, collector: Collector, worker: Callable[..., Process]
) -> None:
    from celery import Celery

    insert = "INSERT INTO b2copy_requests (kind, payload, trace_id) VALUES ('fees.process', :payload, :trace)"
    for name, trace in (("S1", PARENT), ("S2", "the CRM's own number 7")):
        payload = f'{{"account_login": "none_due", "request_id": "{name}"}}'
        with ledger().writing() as connection:
            connection.execute(text(insert), {"payload": payload, "trace": trace})
    with Celery(broker=traced.broker.url, set_as_current=False) as crm:
        fields = {"account_login": "none_due", "request_id": "M1"}
        crm.send_task("b2copy.fees.process", kwargs=fields, queue="b2copy.inbox", headers={"traceparent": PARENT})
    process = worker()

    until(lambda: all(ended(f"fees.process:{name}") for name in ("S1", "S2", "M1")))
    process.stop()

    [taken_in] = collector.named("b2copy.request")
    assert (taken_in.trace, taken_in.parent) == (TRACE, SPAN)
    parents = sorted(span.parent for span in collector.named("b2copy.attempt"))
    assert parents == sorted(["", SPAN, taken_in.id])


def test_late_attempts_have_traces_of_their_own_which_are_linked(
    traced: Environment, collector: Collector, worker: Callable[..., Process]
) -> None:
    unsampled = PARENT.removesuffix("01") + "00"
    for name, trace_id in (("L1", PARENT), ("L2", PARENT), ("L3", unsampled)):
        record_operation(ledger(), name, trace_id=trace_id)
    claims = {"L1": CLAIMS_IN_TRACE - 1, "L2": CLAIMS_IN_TRACE, "L3": CLAIMS_IN_TRACE}
    with ledger().writing() as connection:
        for name, before in claims.items():
            update = text("UPDATE b2copy_operations SET fence = :before WHERE key = :key")
            connection.execute(update, {"before": before, "key": f"fees.process:{name}"})
    process = worker()

    until(lambda: all(ended(f"fees.process:{name}") for name in claims))
    process.stop()

    spans = {span.attributes["b2copy.claim"]: span for span in collector.named("b2copy.attempt")}
    assert sorted(spans) == [CLAIMS_IN_TRACE, CLAIMS_IN_TRACE + 1]  # and none of L3, which is not sampled
    early, late = spans[CLAIMS_IN_TRACE], spans[CLAIMS_IN_TRACE + 1]
    assert (early.trace, early.parent, early.links) == (TRACE, SPAN, [])
    assert (late.parent, late.links) == ("", [(TRACE, SPAN)])
    assert late.trace != TRACE
    assert len(collector.named("b2copy.attempt")) == 2


def test_the_sampler_decides_again_about_a_late_attempt(traced: Environment, collector: Collector) -> None:
    for name in ("L1", "L2"):
        record_operation(ledger(), name, trace_id=PARENT)
    with ledger().writing() as connection:
        update = text("UPDATE b2copy_operations SET fence = :before WHERE key = 'fees.process:L2'")
        connection.execute(update, {"before": CLAIMS_IN_TRACE})
    code = """
from tests.operations import claim_due
from worker.instances import ledger
from worker.watch.tracing import attempting, flush
for claimed in claim_due(ledger()):
    with attempting(claimed, "money", "the ledger"):
        print(claimed.key)
flush()
"""

    claimed = run(traced, code, OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0")

    assert claimed.split() == ["fees.process:L1", "fees.process:L2"]
    [early] = collector.named("b2copy.attempt")  # its trace was sampled before; that of the other one is not
    assert early.attributes["b2copy.claim"] == 1


def test_a_crm_with_traces_of_its_own_gets_our_span_in_them(active_environment: Environment) -> None:
    code = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
from tasks import enqueue
with trace.get_tracer("crm").start_as_current_span("withdrawal"):
    key = enqueue.fees(account_login="7", request_id="W1").key
inner, outer = exporter.get_finished_spans()
assert (inner.name, inner.parent.span_id) == ("b2copy.request", outer.context.span_id)
assert enqueue.status(key).trace_id[:-2] == f"00-{outer.context.trace_id:032x}-{inner.context.span_id:016x}-"
"""
    run(active_environment, code)


def test_without_the_setting_no_traces_are_imported_or_stored(active_environment: Environment) -> None:
    # The client of Redis imports OpenTelemetry's API and metrics, if they are installed.
    ours = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "google.protobuf")
    names = f"print(*sorted(name for name in sys.modules if name.startswith({ours!r})))"
    crm = "import sys; from tasks import enqueue; enqueue.fees(account_login='7', request_id='W1');" + names
    engine = "import sys, worker.app, tasks.registry, tasks.drain_lane, worker.flow.pusher;" + names

    assert run(active_environment, crm) == ""
    assert run(active_environment, engine) == ""
    operation = find(ledger(), "fees.process:W1")
    assert operation is not None
    assert operation.trace_id is None


def test_a_collector_that_is_away_costs_no_operation(
    active_environment: Environment, worker: Callable[..., Process]
) -> None:
    active_environment.settings["B2COPY_TRACES_URL"] = "http://127.0.0.1:1/v1/traces"
    process = worker()

    run(active_environment, "from tasks import enqueue; enqueue.fees(account_login='none_due', request_id='W1')")

    until(lambda: ended("fees.process:W1"))
    assert process.stop() == 0


def test_without_traces_a_module_that_another_thread_still_imports_is_not_used(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", ModuleType("opentelemetry.trace"))

    with requesting("fees.process", "money", "the sender's") as trace_id:
        assert trace_id == "the sender's"


def test_a_missing_package_is_named_when_the_worker_starts(active_environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ModuleNotFoundError('x', name='opentelemetry')")
    code = "from worker.watch.tracing import check_tracing; check_tracing()"
    settings = {"B2COPY_TRACES_URL": "http://127.0.0.1:1/v1/traces", "PYTHONPATH": str(tmp_path)}

    ran = subprocess.run(
        [sys.executable, "-c", code], env=active_environment.variables | settings, capture_output=True, text=True
    )

    assert ran.returncode == 1
    assert "B2COPY_TRACES_URL needs the package opentelemetry: install b2copy-sync[tracing]" in ran.stderr
