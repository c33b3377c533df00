"""What `processext` answers: the state of a fee run."""

import logging
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from worker.b2copy.answers import WORDS_LIMIT, said
from worker.errors import UnknownOutcome

log = logging.getLogger(__name__)


class FeeState(IntEnum):
    """`FEE_PROCESS_STATUS_*` of the page initiate-fee-processing-between-master-and-investment-accounts."""

    PENDING = 1
    SUCCESS = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class FeeStatus:
    """A fee run as B2COPY tells it. `words` are its error details, if any."""

    state: FeeState
    words: str = ""


def fee_status(body: Any, account_login: str, request_id: str) -> FeeStatus:
    """Read the answer of `processext`. Raises `UnknownOutcome` if it is not about this run.

    A status that we do not know counts as pending: asking again is safe, deciding is not.
    """
    if not isinstance(body, dict) or "status" not in body:
        raise UnknownOutcome("processext: an answer without a status", 200, str(body)[:WORDS_LIMIT])
    for name, sent in (("account_login", account_login), ("request_id", request_id)):
        if str(body.get(name, sent)) != sent:
            raise UnknownOutcome(f"processext: an answer about another {name}", 200, str(body)[:WORDS_LIMIT])
    state = _state(body["status"])
    if state is None:
        log.warning("processext answered the unknown status %r: taken as pending", body["status"])
        return FeeStatus(FeeState.PENDING, f"unknown status {body['status']!r}"[:WORDS_LIMIT])
    details = {name: body[name] for name in ("error", "message", "details") if body.get(name)}
    return FeeStatus(state, said(details)[:WORDS_LIMIT] if details else "")


def _state(status: Any) -> FeeState | None:
    """Read the enum as a number or as its name."""
    try:
        if isinstance(status, str) and not status.isdecimal():
            return FeeState[status.removeprefix("FEE_PROCESS_STATUS_")]
        return FeeState(int(status) if isinstance(status, str) else status)
    except (KeyError, ValueError):
        return None
