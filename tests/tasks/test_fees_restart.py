"""A fee run that a person replays: the same id at B2COPY, or with B2COPY_FEES_RESTART=suffixed one of its own."""

from typing import Literal

import pytest

from tasks.fees import FEES
from tests.flow.conftest import make_all_due
from tests.operations import LedgerClock, attempt_record, claim_one, fail, find_operation, record_operation
from worker.flow.attempt_maker import AttemptMaker
from worker.flow.gate import Gate
from worker.flow.lease_renewal import LeaseRenewal
from worker.flow.poll_spacing import PollSpacing
from worker.flow.pusher import Pusher
from worker.http import event_loop
from worker.instances import b2copy, ledger
from worker.ledger import LEASE_S, attempts_of, replay, return_unsent
from worker.ledger.operator_actions import stop_asking
from worker.operation import State, Transition
from worker.sandbox.control_client import SandboxControl
from worker.settings import Settings, worker_settings
from worker.testbed.local_system import Environment


@pytest.mark.parametrize(("restart", "expected"), [("same", ["W1", "W1"]), ("suffixed", ["W1", "W1~1"])])
def test_a_replayed_run_that_ended_in_error_has_the_id_that_is_set(
    active_environment: Environment, sandbox: SandboxControl, restart: Literal["same", "suffixed"], expected: list[str]
) -> None:
    sandbox.switches(logins={"7": {"ends": "ERROR", "message": "no money"}})
    pusher = Pusher(
        ledger(), {FEES.name: FEES}, {"b2copy": b2copy}, worker_settings().model_copy(update={"fees_restart": restart})
    )
    record_operation(ledger())
    pusher.drain("money")
    assert find_operation(ledger()).failure_reason == "fee_error"

    sandbox.switches(logins={})
    replay(ledger(), [find_operation(ledger()).key], "Ada", "money was paid in")
    pusher.drain("money")

    assert [one.request_id for one in attempts_of(ledger(), find_operation(ledger()).id)] == expected
    ended_as = State.SUCCEEDED if restart == "suffixed" else State.FAILED
    assert find_operation(ledger()).state == ended_as
    pusher.stop()


@pytest.mark.parametrize("comes", ["before the replay", "while the next run is under way"])
def test_a_late_answer_about_the_run_that_failed_starts_no_further_run(
    active_environment: Environment, sandbox: SandboxControl, comes: str
) -> None:
    sandbox.switches(logins={"7": {"ends": "ERROR", "message": "no money"}})
    settings = worker_settings().model_copy(update={"fees_restart": "suffixed"})
    pusher = Pusher(ledger(), {FEES.name: FEES}, {"b2copy": b2copy}, settings)
    key = record_operation(ledger()).key
    suspended = claim_one(ledger(), "a suspended worker")
    LedgerClock(ledger()).advance(LEASE_S + 1)
    pusher.drain("money")
    assert find_operation(ledger()).failure_reason == "fee_error"

    def answer_late() -> None:
        late = attempt_record("fee_error", request_id="W1")
        assert fail(ledger(), suspended, failure_reason="fee_error", attempt=late, outcome_known=True) == [suspended]

    if comes == "before the replay":
        answer_late()
    sandbox.switches(logins={"7": {"until_finished": True}})
    replay(ledger(), [key], "Ada", "money was paid in")
    pusher.drain("money")
    running = find_operation(ledger())
    assert (running.state, running.wait_reason) == (State.WAITING, "pending_at_b2copy")
    if comes == "while the next run is under way":
        answer_late()
    make_all_due(ledger())
    pusher.drain("money")

    used = {one.request_id for one in attempts_of(ledger(), suspended.id)}
    assert used == {"W1", "W1~1"}
    pusher.stop()


def test_a_late_error_of_the_restarted_run_does_not_start_another_one(
    active_environment: Environment, sandbox: SandboxControl
) -> None:
    sandbox.switches(logins={"7": {"ends": "ERROR", "message": "no money"}})
    settings = worker_settings().model_copy(update={"fees_restart": "suffixed"})
    pusher = Pusher(ledger(), {FEES.name: FEES}, {"b2copy": b2copy}, settings)
    key = record_operation(ledger()).key
    pusher.drain("money")
    replay(ledger(), [key], "Ada", "money was paid in")
    suspended = claim_one(ledger(), "a suspended worker")
    LedgerClock(ledger()).advance(LEASE_S + 1)
    second = claim_one(ledger(), "a worker that is killed")
    late = attempt_record("fee_error", request_id="W1~1")
    fail(ledger(), suspended, failure_reason="fee_error", attempt=late, outcome_known=True)
    LedgerClock(ledger()).advance(LEASE_S + 1)

    pusher.drain("money")

    assert second.replays == 1
    assert [one.request_id for one in attempts_of(ledger(), suspended.id) if not one.late][-1] == "W1~1"
    pusher.stop()


@pytest.mark.parametrize(("replayed", "restarted"), [("same", "suffixed"), ("suffixed", "same")])
@pytest.mark.parametrize("answer", ["pending", "lost", "worker killed", "worker killed, replayed again"])
def test_a_run_that_is_under_way_keeps_its_id_although_the_setting_changes(
    active_environment: Environment, sandbox: SandboxControl, replayed: str, restarted: str, answer: str
) -> None:
    def pusher(restart: str) -> Pusher:
        return Pusher(ledger(), {FEES.name: FEES}, {"b2copy": b2copy}, settings(restart))

    first, second = pusher(replayed), pusher(restarted)
    sandbox.switches(logins={"7": {"ends": "ERROR", "message": "no money", "pending_polls": 1}}, error_restarts=True)
    key = record_operation(ledger()).key
    first.drain("money")
    make_all_due(ledger())
    first.drain("money")
    assert find_operation(ledger()).failure_reason == "fee_error"
    if answer == "lost":
        sandbox.faults({"what": "status", "status": 503, "effect": "done", "route": "processext", "next": 1})
    replay(ledger(), [key], "Ada", "money was paid in")
    if answer.startswith("worker killed"):
        begun = send_and_be_killed(settings(replayed))
    else:
        first.drain("money")
        begun = attempts_of(ledger(), find_operation(ledger()).id)[-1].request_id
    if answer == "worker killed, replayed again":
        return_unsent(ledger(), [claim_one(ledger())])
        stop_asking(ledger(), key, "Ada", "it takes too long")
        replay(ledger(), [key], "Ada", "ask again")
    make_all_due(ledger())
    second.drain("money")

    used = [one.request_id for one in attempts_of(ledger(), find_operation(ledger()).id) if one.request_id]
    assert begun == ("W1" if replayed == "same" else "W1~1")
    assert used[-1] == begun
    for one in (first, second):
        one.stop()


def test_a_run_whose_id_was_not_stored_keeps_the_last_id_that_was_sent(
    active_environment: Environment, sandbox: SandboxControl
) -> None:
    """As in the row of a replay from before ids were stored, and after a correction, which removes the progress."""
    pushers = [
        Pusher(ledger(), {FEES.name: FEES}, {"b2copy": b2copy}, settings(restart)) for restart in ("suffixed", "same")
    ]
    sandbox.switches(logins={"7": {"ends": "ERROR", "message": "no money"}})
    key = record_operation(ledger()).key
    pushers[0].drain("money")
    sandbox.switches(logins={"7": {"until_finished": True}})
    replay(ledger(), [key], "Ada", "money was paid in")
    pushers[0].drain("money")
    with ledger().writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_operations SET progress = NULL")

    make_all_due(ledger())
    pushers[1].drain("money")

    assert {one.request_id for one in attempts_of(ledger(), find_operation(ledger()).id)[1:]} == {"W1~1"}
    for pusher in pushers:
        pusher.stop()


def settings(restart: str) -> Settings:
    return worker_settings().model_copy(update={"fees_restart": restart})


def send_and_be_killed(settings: Settings) -> str | None:
    """Claim and send as a worker does that is killed before it writes the answer. Returns the id that was sent."""
    leases = LeaseRenewal(ledger(), "a worker that is killed")
    gate = Gate("b2copy", settings, lambda destination, reasons: None)
    maker = AttemptMaker(
        ledger(), {FEES.name: FEES}, {"b2copy": b2copy}, {"b2copy": gate}, leases,
        PollSpacing(lambda: 0, 10, None), settings, "money",
    )  # fmt: skip
    claim = claim_one(ledger(), leases.owner)
    leases.add([claim])
    result = event_loop().run(maker.make(claim, gate.times_closed))
    assert isinstance(result, Transition)
    assert result.attempt
    LedgerClock(ledger()).advance(LEASE_S + 1)
    return result.attempt.request_id
