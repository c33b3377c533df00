"""Fees that must be charged before a withdrawal is paid out."""

from typing import assert_never

from pydantic import field_validator

from worker.b2copy.routes.fees import PROCESS, FeeState, FeeStatus
from worker.id_fields import Id, Login
from worker.operation import Done, Failed, OnUnknown, Outcome, Pending
from worker.operation_kind import Attempt, Description, Kind, Payload, PollSchedule

FEE_ERROR = "fee_error"
RESTART = "~"  # between a withdrawal's id and the number of the restart; a withdrawal's id must not contain it
RUN = "run"  # in the progress of a replayed operation: the id of a run that may be under way


class Fees(Payload):
    """`account_login` is the MT login that the money leaves, `request_id` the CRM's own id of the withdrawal."""

    account_login: Login
    request_id: Id

    @field_validator("request_id")
    @classmethod
    def _check_request_id(cls, request_id: str) -> str:
        if RESTART in request_id:
            raise ValueError(f"{request_id!r} holds {RESTART!r}, which marks restarted fee runs: give another id")
        return request_id


def describe(fees: Fees) -> Description:
    """One fee run per withdrawal: its id is the key, so a request that is sent twice is done once."""
    return Description(fees.request_id, lane="money")


async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
    """Start the run, or ask how far it is: one call does both."""
    attempt.request_id = await _run_id(attempt, fees)
    body = {"account_login": fees.account_login, "request_id": attempt.request_id}
    status: FeeStatus = await attempt.call(PROCESS, body)
    match status.state:
        case FeeState.SUCCESS:
            return Done(message=status.message)
        case FeeState.ERROR:
            attempt.progress = {}  # this run has ended: a replay begins another one
            return Failed(FEE_ERROR, status.message)
        case FeeState.PENDING:
            return Pending(status.message)
    assert_never(status.state)


async def _run_id(attempt: Attempt, fees: Fees) -> str:
    """Return the id of the fee run: the withdrawal's. A replay with B2COPY_FEES_RESTART=suffixed adds `~` and a number.

    The number counts the runs that ended in error: W1 becomes W1~1, which is no other withdrawal's id. A run whose
    outcome is unknown keeps its id, because another id would charge the fees twice. A run that is under way keeps its
    id too, even if the setting was changed meanwhile.

    Runs are counted by their ids, because one run may answer with its error several times. Late answers do not count: a
    late error of one run may arrive while the next run is under way, and must not change the id of the next run. If the
    only error of a run came late, a replay sends the old id and gets the same error again. The next replay counts it.
    """
    if not attempt.claim.replays:
        return fees.request_id
    if stored := (attempt.progress or {}).get(RUN):
        return str(stored)
    earlier = [one for one in await attempt.earlier_attempts() if one.request_id and not one.late]
    last = earlier[-1] if earlier else None
    run = fees.request_id
    if last and last.outcome != FEE_ERROR:
        run = str(last.request_id)
    elif last and attempt.settings.fees_restart == "suffixed":
        failed = {one.request_id for one in earlier if one.outcome == FEE_ERROR}
        run = f"{fees.request_id}{RESTART}{len(failed)}"
    attempt.progress = {RUN: run}
    await attempt.begin(PROCESS)  # stores it: if this worker is lost, the next one must ask about the same run
    return run


FEES = Kind(
    name="fees.process",
    payload=Fees,
    describe=describe,
    attempt=attempt,
    on_unknown=OnUnknown.START_OR_GET,
    time_allowed_s=lambda settings: settings.fees_deadline,
    moves_money=True,
    failure_reasons={FEE_ERROR: "B2COPY ended the fee run with an error"},
    polls=lambda settings: PollSchedule(settings.fees_poll_first, settings.fees_poll_max),
)
