"""Fees that must be charged before a withdrawal is paid out."""

from typing import Annotated, Any

from pydantic import Field

from tasks.inbox import TAKES_IN, take_in
from tasks.kind import Kind, Payload
from worker.app import app, ledger
from worker.b2copy import B2Copy, FeeState
from worker.flow.outcome import Outcome
from worker.ledger import Claim, New, attempts
from worker.settings import crm_settings, worker_settings

Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\s\x00-\x1f\x7f]+$")]


class Fees(Payload):
    """`account_login` is the MT login the money leaves, `request_id` the CRM's own id of the withdrawal."""

    account_login: Id
    request_id: Id


def describe(fees: Fees) -> New:
    """One fee run per withdrawal: its id is the key, so that sent twice it is done once."""
    return New(
        kind=FEES.name,
        key=f"{FEES.name}:{fees.request_id}",
        payload=fees.model_dump(),
        lane="money",
        deadline=crm_settings().fees_deadline,
        repeatable=True,  # start-or-get: the same call again tells
    )


def act(b2copy: B2Copy, fees: Fees, claim: Claim) -> Outcome:
    """Start the run, or ask how far it is: one call does both."""
    request_id = fees.request_id + _suffix(claim)
    status = b2copy.process_fees(fees.account_login, request_id)
    match status.state:
        case FeeState.SUCCESS:
            return Outcome("done", words=status.words, request_id=request_id)
        case FeeState.ERROR:
            return Outcome("fee_error", words=status.words, request_id=request_id)
    return Outcome("pending", words=status.words, request_id=request_id)


def _suffix(claim: Claim) -> str:
    """Return what a restarted run adds to its id: nothing, or if so set the number of runs that ended in error.

    A run whose outcome is merely unknown keeps its id: another one would charge the fees twice.
    """
    if not claim.replays or worker_settings().fees_restart == "same":
        return ""
    failed = sum(attempt.outcome == "fee_error" for attempt in attempts(ledger(), claim.id))
    return f"-{failed}" if failed else ""


FEES = Kind("fees.process", Fees, describe, act)


@app.task(name="b2copy.fees.process", **TAKES_IN)
def process(self: Any, *args: Any, **kwargs: Any) -> None:
    """Take in a message that asks for a fee run: `account_login`, `request_id`."""
    take_in(FEES, self.request, args, kwargs)
