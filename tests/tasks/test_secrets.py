"""A worker that logs everything writes no token anywhere."""

from collections.abc import Callable
from pathlib import Path

from tasks import enqueue
from tests.session.test_secrets import ASSERTION, dumped
from tests.tasks.conftest import ended
from worker.sandbox.control_client import SandboxControl
from worker.testbed.broker import Broker
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process


def test_a_worker_that_logs_everything_and_sends_events_shows_no_token(
    active_environment: Environment, worker: Callable[..., Process], sandbox: SandboxControl, broker: Broker
) -> None:
    process = worker("-E", "--loglevel", "DEBUG")
    sandbox.faults({"what": "status", "status": 401, "route": "processext", "next": 1})
    for number, login in enumerate(["1", "2", "3"]):
        enqueue.fees(account_login=login, request_id=f"W{number}")
    for number in range(3):
        assert ended(f"fees.process:W{number}").state == "succeeded"
    proc = Path(f"/proc/{process.pid}")
    ledger = [path.read_bytes().decode("latin-1") for path in active_environment.folder.glob("ledger.sqlite*")]
    sinks = [*dumped(broker), *ledger, process.log.read_text()]
    sinks += [(proc / name).read_bytes().decode() for name in ("environ", "cmdline")]

    tokens = [pair[name] for pair in sandbox.pairs() for name in ("access", "refresh")]
    assert len(tokens) >= 4
    assert ledger
    for secret in [*tokens, ASSERTION]:
        assert not [sink for sink in sinks if secret in sink]
