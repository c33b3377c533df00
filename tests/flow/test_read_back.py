"""After an unknown outcome a kind that reads back looks twice, and creates only what is not there: exactly once."""

import json
import sys
import time
from collections.abc import Callable

import pytest
from sqlalchemy import text

from tests.flow.account_kind import ACCOUNT
from tests.flow.conftest import Engine, make_all_due, make_lease_lapse
from tests.operations import claim_one
from tests.support import until
from worker.instances import b2copy
from worker.ledger import Ledger, attempts_of, find, record
from worker.operation import Operation, State, WaitReason
from worker.operation_kind import LOOKED_AT
from worker.sandbox.control_client import SandboxControl
from worker.settings import worker_settings
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process

KEY = "test.account:77"
LATE_EFFECT_S = 0.6


@pytest.fixture
def operation(ledger: Ledger, sandbox: SandboxControl) -> Callable[[], Operation]:
    """Records one account to be opened, and returns how the ledger holds it."""
    sandbox.switches(duplicate_accounts="created")  # a second request would open a second account
    record(ledger, [ACCOUNT.new({"number": "77"}, worker_settings())], by="a test")

    def look() -> Operation:
        found = find(ledger, KEY)
        assert found is not None
        return found

    return look


def times_created(sandbox: SandboxControl) -> int:
    return sum(effect["times"] for effect in sandbox.effects("accounts.create"))


def steps_of(ledger: Ledger, operation: Operation) -> list[list[str]]:
    """Return for each stored attempt the calls it made, or its outcome if it made only one."""
    return [[step.name for step in one.steps] or [one.outcome] for one in attempts_of(ledger, operation.id)]


def drain_to_the_end(ledger: Ledger, engine: Engine, operation: Callable[[], Operation], **settings: float) -> None:
    pusher = engine(b2copy(), ACCOUNT, **({"late_effect": LATE_EFFECT_S} | settings))

    def is_final() -> bool:
        make_all_due(ledger)
        pusher.drain("default")
        return operation().state in {State.SUCCEEDED, State.FAILED}

    until(is_final)


def test_an_account_is_created_without_looking_if_nothing_was_ever_sent(
    ledger: Ledger, engine: Engine, sandbox: SandboxControl, operation: Callable[[], Operation]
) -> None:
    engine(b2copy(), ACCOUNT).drain("default")

    assert operation().state == State.SUCCEEDED
    assert times_created(sandbox) == 1
    assert sandbox.counters()["calls"].get("accounts.list", 0) == 0


@pytest.mark.parametrize("effect", ["done", "none"])
def test_a_lost_answer_is_read_back_and_the_account_exists_once(
    ledger: Ledger, engine: Engine, sandbox: SandboxControl, operation: Callable[[], Operation], effect: str
) -> None:
    sandbox.faults({"what": "drop", "route": "accounts.create", "effect": effect, "next": 1})

    drain_to_the_end(ledger, engine, operation)

    assert operation().state == State.SUCCEEDED
    assert (operation().result or {})["accountNumber"] == "77"
    assert times_created(sandbox) == 1
    assert operation().outcome_unknown is False


def test_the_second_look_comes_after_the_time_in_which_an_effect_may_be_late(
    ledger: Ledger, engine: Engine, sandbox: SandboxControl, operation: Callable[[], Operation]
) -> None:
    sandbox.faults({"what": "drop", "route": "accounts.create", "next": 1})
    pusher = engine(b2copy(), ACCOUNT, late_effect=60.0)
    pusher.drain("default")
    assert (operation().wait_reason, operation().unknown_step) == (WaitReason.BACKOFF, "accounts.create")

    for _ in range(3):  # however often somebody makes it due before
        make_all_due(ledger)
        pusher.drain("default")

        waiting = operation()
        assert waiting.wait_reason == WaitReason.NEXT_STEP
        assert waiting.outcome_unknown
        assert 50_000 < waiting.last_wait_ms <= 60_000
        assert waiting.progress is not None
        assert LOOKED_AT in waiting.progress
    assert sandbox.counters()["calls"]["accounts.create"] == 1


@pytest.mark.parametrize(("effect_s", "call_deadline"), [(0.3, 60.0), (1.2, 0.5)])
def test_an_effect_that_comes_after_the_first_look_is_found_by_the_second(
    ledger: Ledger,
    engine: Engine,
    sandbox: SandboxControl,
    operation: Callable[[], Operation],
    effect_s: float,
    call_deadline: float,
) -> None:
    """Also if it comes later than our HTTP client waits for an answer."""
    sandbox.faults({"what": "drop", "route": "accounts.create", "effect": "late", "seconds": effect_s, "next": 1})

    drain_to_the_end(ledger, engine, operation, call_deadline=call_deadline, late_effect=3 * effect_s)

    assert operation().state == State.SUCCEEDED
    assert times_created(sandbox) == 1
    assert sandbox.counters()["calls"]["accounts.create"] == 1


def test_a_second_lost_answer_is_looked_for_twice_again(
    ledger: Ledger, engine: Engine, sandbox: SandboxControl, operation: Callable[[], Operation]
) -> None:
    sandbox.faults(
        {"what": "drop", "route": "accounts.create", "next": 1},
        {"what": "drop", "route": "accounts.create", "effect": "late", "seconds": 0.3, "next": 1},
    )

    drain_to_the_end(ledger, engine, operation)

    assert operation().state == State.SUCCEEDED
    assert times_created(sandbox) == 1
    assert sandbox.counters()["calls"]["accounts.create"] == 2


def test_a_worker_that_is_lost_after_the_second_look_makes_two_looks_due_again(
    ledger: Ledger, engine: Engine, sandbox: SandboxControl, operation: Callable[[], Operation]
) -> None:
    """It may have sent the request again, and the mark of the first look is still stored."""
    sandbox.faults({"what": "drop", "route": "accounts.create", "effect": "none", "next": 1})
    pusher = engine(b2copy(), ACCOUNT, late_effect=60.0)
    pusher.drain("default")
    make_all_due(ledger)
    pusher.drain("default")
    waiting = operation()
    assert waiting.wait_reason == WaitReason.NEXT_STEP
    long_ago = json.dumps({**(waiting.progress or {}), LOOKED_AT: time.time() - 61})
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_operations SET progress = :progress"), {"progress": long_ago})
    make_all_due(ledger)
    claim_one(ledger, owner="lost", lane="default")
    make_lease_lapse(ledger)

    pusher.drain("default")

    waiting = operation()
    assert waiting.wait_reason == WaitReason.NEXT_STEP
    assert 50_000 < waiting.last_wait_ms <= 60_000
    assert sandbox.counters()["calls"]["accounts.create"] == 1


def test_a_refusal_that_follows_an_unknown_outcome_is_read_back(
    ledger: Ledger, engine: Engine, sandbox: SandboxControl, operation: Callable[[], Operation]
) -> None:
    """The late effect comes between the second look and the second request, which is refused as a duplicate."""
    sandbox.switches(duplicate_accounts="refused")
    sandbox.faults(
        {"what": "drop", "route": "accounts.create", "effect": "done", "next": 1},
        {"what": "status", "status": 404, "route": "accounts.list", "next": 1},
    )

    drain_to_the_end(ledger, engine, operation)

    assert operation().state == State.SUCCEEDED
    assert times_created(sandbox) == 1


@pytest.mark.parametrize("when", ["before the effect", "after the effect"])
def test_a_process_that_is_killed_in_the_middle_leaves_exactly_one_account(
    ledger: Ledger,
    engine: Engine,
    sandbox: SandboxControl,
    operation: Callable[[], Operation],
    active_environment: Environment,
    when: str,
) -> None:
    effect = "done" if when == "after the effect" else "none"
    sandbox.faults({"what": "silence", "route": "accounts.create", "effect": effect, "seconds": 20, "next": 1})
    worker: Process = active_environment.run("account", sys.executable, "-m", "tests.flow.account_kind", restarts=False)
    until(lambda: sandbox.counters()["calls"].get("accounts.create", 0) == 1, within=60)  # a process has to start
    worker.kill()
    make_lease_lapse(ledger)

    drain_to_the_end(ledger, engine, operation)

    assert operation().state == State.SUCCEEDED
    assert times_created(sandbox) == 1
    assert attempts_of(ledger, operation().id)[0].outcome == "lease_lapsed"
