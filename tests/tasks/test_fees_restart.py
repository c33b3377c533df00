"""A fee run that a person replays: the same id at B2COPY, or with B2COPY_FEES_RESTART=suffixed one of its own."""

from typing import Literal

import pytest

from tasks.fees import FEES
from tests.operations import find_operation, record_operation
from worker.app import b2copy, ledger
from worker.flow.pusher import Pusher
from worker.ledger import attempts_of, replay
from worker.operation import State
from worker.sandbox.control_client import SandboxControl
from worker.settings import worker_settings
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
