"""What a process that drains lanes sets up for itself."""

import json
import subprocess
import sys
import threading
from typing import Any

import pytest

from tests.conftest import forget
from tests.operations import find_operation, record_operation
from tests.support import until
from worker.b2copy.client import SERVICE_ADMIN
from worker.errors import SessionUnavailable
from worker.flow import gate as gate_module
from worker.flow.gate import Gate
from worker.flow.meaning_table import meaning_of
from worker.flow.pusher import Pusher
from worker.http import event_loop
from worker.instances import ledger
from worker.ledger import open_ledger
from worker.messages import wake_up
from worker.operation import State
from worker.queues import LANES
from worker.sandbox.control_client import SandboxControl
from worker.testbed.local_system import Environment
from worker.watch import metrics

SET_UP = """
import gc
import json
import sys
import weakref
from tasks.drain_lane import pusher

class Garbage:
    pass

gc.disable()  # only what asks for it is collected
garbage = Garbage()
garbage.itself, reference = garbage, weakref.ref(garbage)
del garbage
pusher()
print(json.dumps([sys.getswitchinterval(), gc.get_freeze_count(), reference() is None]))
"""


def test_the_event_loop_waits_neither_for_a_lane_that_writes_nor_for_the_garbage_collector(
    environment: Environment,
) -> None:
    open_ledger(environment.database_url, create=True).close()

    done = subprocess.run(
        [sys.executable, "-c", SET_UP],
        env=environment.variables,
        capture_output=True,
        text=True,
        timeout=55,
        check=True,
    )

    switch_s, frozen, is_collected = json.loads(done.stdout)
    assert switch_s <= 0.001
    assert frozen > 10_000  # objects at which the collector looks no more
    assert is_collected  # what is garbage before that would be kept for ever


@pytest.mark.parametrize(
    ("lane", "work_is_left", "task", "woken"),
    [
        ("money", False, "", []),
        ("money", True, "", ["money"]),
        ("bulk", False, "crm.fees_ended", ["notify"]),
        ("bulk", True, "crm.fees_ended", ["bulk", "notify"]),
        ("notify", False, "crm.fees_ended", []),
    ],
)
def test_a_lane_with_work_left_is_woken_again_and_the_notices_of_what_has_ended_at_once(
    active_environment: Environment,
    monkeypatch: pytest.MonkeyPatch,
    lane: str,
    work_is_left: bool,
    task: str,
    woken: list[str],
) -> None:
    from tasks.drain_lane import push, pusher  # it reads the settings, which the fixtures have made

    if task:
        monkeypatch.setenv("B2COPY_NOTIFY_TASK", task)
        forget()
    monkeypatch.setattr(wake_up, "_sent_at", {})
    monkeypatch.setattr(Pusher, "drain", lambda _self, _lane: work_is_left)
    counted = metrics.WAKE_UPS.labels(lane)
    before = counted._value.get()

    push(ledger().id, lane)

    with active_environment.broker.client as client:
        assert [name for name in LANES if client.llen(f"b2copy.{name}")] == woken
    assert counted._value.get() == before + 1
    pusher().close()


def test_a_worker_that_is_told_to_end_while_it_makes_its_pusher_claims_nothing(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import drain_lane

    def make(*args: Any, **options: Any) -> Pusher:
        drain_lane.finish_in_flight()  # as the signal does, in the main thread
        return Pusher(*args, **options)

    monkeypatch.setattr(drain_lane, "_ending", threading.Event())
    monkeypatch.setattr(drain_lane, "Pusher", make)
    drain_lane.pusher.forget()
    record_operation(ledger(), "W1")

    drain_lane.push(ledger().id, "money")

    operation = find_operation(ledger(), "W1")
    assert (operation.state, operation.sent) == (State.QUEUED, False)
    drain_lane.pusher().close()
    drain_lane.pusher.forget()


@pytest.mark.parametrize("of", ["operations", "reads"])
def test_a_process_that_needs_no_token_notices_that_there_is_one_again(
    active_environment: Environment, sandbox: SandboxControl, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    from tasks import answer_reads, drain_lane  # they read the settings, which the fixtures have made

    monkeypatch.setattr(gate_module, "PROBE_EVERY_S", 0.2)
    made = drain_lane.pusher if of == "operations" else answer_reads.reader
    made.forget()

    async def lose_session() -> Gate:
        gate = drain_lane.pusher()._lanes["money"]._gate if of == "operations" else answer_reads.reader()._gate
        lost = SessionUnavailable("no token")
        await gate.record(lost, meaning_of(lost), SERVICE_ADMIN)
        assert not gate.is_open
        return gate

    gate = event_loop().run(lose_session())

    until(lambda: gate.is_open)
    assert sum(sandbox.counters()["calls"].values()) == 1  # one login, and no request that needs one
    if of == "operations":
        drain_lane.pusher().close()
    made.forget()
