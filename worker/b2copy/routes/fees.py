"""Process the fees of a withdrawal before the money leaves.

Documentation: docs.b2copy.b2broker.com, initiate-fee-processing-between-master-and-investment-accounts.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from worker.b2copy.route import Route
from worker.errors import UnknownOutcome
from worker.http.answer import server_message

log = logging.getLogger(__name__)

_STATUS_LIMIT = 100  # characters of an unknown status that are logged and stored
_DIGITS = 4  # most digits of a status that is written as text


class FeeState(IntEnum):
    """`FEE_PROCESS_STATUS_*` of the documentation."""

    PENDING = 1
    SUCCESS = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class FeeStatus:
    """The status of a fee run. `message` holds B2COPY's error details, if there are any."""

    state: FeeState
    message: str = ""


def read_status(body: Any, sent: Mapping[str, Any]) -> FeeStatus:
    """Read the answer of `processext`. Raises `UnknownOutcome` if it has no status or is about another run.

    An unknown status counts as pending, because asking again is safe and deciding is not. Protobuf may leave out a
    status of 0. So in an answer that names our login and our id, an absent status is 0.
    """
    if not isinstance(body, dict):
        raise UnknownOutcome("processext: an answer without a status", 200, server_message(body))
    names_ours = True
    for name, in_json in (("account_login", "accountLogin"), ("request_id", "requestId")):  # both are usual for gRPC
        echoes = [body[spelling] for spelling in (name, in_json) if spelling in body]
        if not all(_is_same(echo, sent[name]) for echo in echoes):
            raise UnknownOutcome(f"processext: an answer about another {name}", 200, server_message(body))
        names_ours = names_ours and bool(echoes)
    if "status" not in body and not names_ours:
        raise UnknownOutcome("processext: an answer without a status", 200, server_message(body))
    status = body.get("status", 0)
    state = _state(status)
    if state is None:
        text = f"unknown status {server_message(status)[:_STATUS_LIMIT]}"
        log.warning("processext answered with an %s: counted as pending", text)
        return FeeStatus(FeeState.PENDING, text)
    details = {name: body[name] for name in ("error", "message", "details") if body.get(name)}
    return FeeStatus(state, server_message(details) if details else "")


def _state(status: Any) -> FeeState | None:
    """Read the enum, which may be its number or its name."""
    match status:
        case bool():
            return None
        case str() if status.isascii() and status.isdigit() and len(status) <= _DIGITS:
            status = int(status)
        case str():
            return FeeState.__members__.get(status.removeprefix("FEE_PROCESS_STATUS_"))
    return next((state for state in FeeState if state == status), None)


def _is_same(echoed: Any, sent: str) -> bool:
    """Compare an id with its echo, which may have become a number."""
    return isinstance(echoed, str | int) and not isinstance(echoed, bool) and str(echoed) == sent


PROCESS = Route(
    name="processext",
    page_url="https://docs.b2copy.b2broker.com/initiate-fee-processing-between-master-and-investment-accounts",
    method="POST",
    path="/api/admin/fees/v2/fee/feeservice/processext",
    read=read_status,
)
