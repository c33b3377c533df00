"""Many failed operations at once; a single one is made with `tests.operations`."""

from tests.operations import claim
from worker.ledger import Ledger, record, settle
from worker.operation import FailureReason, New, State, Transition


def many_failed(ledger: Ledger, count: int) -> None:
    """Record so many calls that B2COPY refused, in one transaction."""
    record(ledger, [New("call", f"call:{number}", {}, "default") for number in range(count)], by="crm@shop")
    claims = claim(ledger, "default", "worker-1", count)
    settle(ledger, [Transition(one, State.FAILED, failure_reason=FailureReason.REJECTED) for one in claims])
