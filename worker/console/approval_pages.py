"""Approvals: what waits for a second person, what it would do, and the decision."""

import re
import secrets

from starlette.responses import Response

from worker.console.operation_actions import effect_of_proposal
from worker.console.page_request import NotFound, PageRequest, note_problem, see
from worker.console.url_parameters import address, number
from worker.errors import NotAllowed
from worker.ledger import find, find_many
from worker.ledger.approvals import (
    OPEN_LIMIT,
    Approval,
    approve,
    closed_text,
    decided_approvals,
    find_approval,
    is_same_person,
    no_such_proposal,
    open_approvals,
    reject,
)
from worker.ledger.batches import BATCH
from worker.ledger.pauses import RESUME
from worker.queues import LANES
from worker.report.four_eyes import RULE_MEANINGS

WITHDRAW = "withdraw"
_NOT_YOURS = "Only the person who proposed it withdraws it; an approver rejects it."


def approvals(page_request: PageRequest) -> Response:
    """The open proposals, oldest first, and the newest decisions."""
    found = open_approvals(page_request.ledger)
    operations = find_many(page_request.ledger, [one.subject for one in found if one.action != RESUME])
    return page_request.page(
        "approvals.html", live=True, approvals=found, operations=operations,
        decided=decided_approvals(page_request.ledger), made=_made(page_request),
        four_eyes_mean=RULE_MEANINGS[page_request.console.four_eyes],
        limit=OPEN_LIMIT, is_own=lambda one: _is_own(page_request, one),
        changed=lambda one: one.subject in operations and operations[one.subject].change_mark != one.seen,
    )  # fmt: skip


def preview(page_request: PageRequest) -> Response:
    """Show one proposal with its operation, and ask for the reason."""
    return _form(page_request, "")


def act(page_request: PageRequest) -> Response:
    """Approve or reject; or withdraw, which the person who proposed does without being an approver."""
    note = page_request.note
    if problem := note_problem(note):
        return _form(page_request, problem, 400)
    return page_request.once(lambda: _act(page_request, note))


def _act(page_request: PageRequest, note: str) -> Response:
    action, wanted = _what(page_request)
    if action == WITHDRAW and not _is_own(page_request, find_approval(page_request.ledger, wanted)):
        return _form(page_request, f"Nothing was done. {_NOT_YOURS}", 409)
    try:
        decided = (approve if action == "approve" else reject)(
            page_request.ledger, wanted, page_request.person.name, note
        )
    except NotAllowed as error:
        return _form(page_request, f"Nothing was done. {error}", 409)
    if decided.decision == "approved":
        operation = find(page_request.ledger, decided.subject)
        for lane in LANES if operation is None else [operation.lane]:
            page_request.console.wake(lane)
    elif action == "approve":
        return _form(
            page_request, f"Nothing was done: the proposal is void ({decided.decision}). {decided.decided_note}", 409
        )
    if decided.subject.startswith(BATCH):
        return see("/imports")
    return see("/approvals" if decided.action == RESUME else address("/operation", key=decided.subject))


def _made(page_request: PageRequest) -> str:
    """Return the name of the proposal that was just made. Any other text in the address is not shown."""
    made = page_request.query.get("made", "")
    return made if re.fullmatch(r"A[0-9]{1,18}", made, re.ASCII) else ""


def _what(page_request: PageRequest) -> tuple[str, int]:
    action, wanted = page_request.request.path_params.get("action", WITHDRAW), number(page_request.query, "id")
    if action not in ("approve", "reject", WITHDRAW) or wanted is None:
        raise NotFound("there is no such action")
    return action, wanted


def _form(page_request: PageRequest, problem: str, status: int = 200) -> Response:
    action, wanted = _what(page_request)
    proposal = find_approval(page_request.ledger, wanted)
    if proposal is None:
        raise NotFound(no_such_proposal(wanted))
    operation = find(page_request.ledger, proposal.subject)
    own, is_open = _is_own(page_request, proposal), proposal.decision is None
    if not is_open:
        problem = problem or f"{closed_text(proposal)}."
    elif own and action != WITHDRAW:
        problem = problem or "This is your own proposal: another person must approve it, or you withdraw it."
    elif action == WITHDRAW and not own:
        problem = problem or _NOT_YOURS
    return page_request.page(
        "approval.html", status, action=action, proposal=proposal, one=operation, problem=problem, own=own,
        is_open=is_open, changed=is_open and operation is not None and operation.change_mark != proposal.seen,
        effect="" if operation is None else effect_of_proposal(
            proposal, operation, page_request.console.kinds
        ),
        form=secrets.token_urlsafe(12), note=page_request.form.get("note", ""),
    )  # fmt: skip


def _is_own(page_request: PageRequest, one: Approval | None) -> bool:
    return one is not None and is_same_person(one.proposed_by, page_request.person.name)
