"""Approvals: what waits for a second person, what it would do, and the decision."""

import re
import secrets

from starlette.responses import Response

from worker.console.actions import note_problem
from worker.console.asked import Asked, NotFound, see
from worker.console.parameters import address, number
from worker.errors import NotAllowed
from worker.ledger import find, find_many
from worker.ledger.approvals import Approval, approve, decided_approvals, is_same_person, open_approvals, reject
from worker.ledger.flags import RESUME
from worker.queues import LANES

WITHDRAW = "withdraw"
_NOT_YOURS = "Only the person who proposed it withdraws it; an approver rejects it."


def approvals(asked: Asked) -> Response:
    """The open proposals, oldest first, and the newest decisions."""
    found = open_approvals(asked.ledger)
    operations = find_many(asked.ledger, [one.subject for one in found if one.action != RESUME])
    return asked.page(
        "approvals.html", live=True, approvals=found, operations=operations, decided=decided_approvals(asked.ledger),
        made=_made(asked), is_own=lambda one: _is_own(asked, one),
        changed=lambda one: one.subject in operations and operations[one.subject].change_mark != one.seen,
    )  # fmt: skip


def preview(asked: Asked) -> Response:
    """Show one proposal with its operation, and ask for the reason."""
    return _form(asked, "")


def act(asked: Asked) -> Response:
    """Approve or reject; or withdraw, which the person who proposed does without being an approver."""
    note = asked.form.get("note", "").strip()
    if problem := note_problem(note):
        return _form(asked, problem, 400)
    return asked.once(lambda: _act(asked, note))


def _act(asked: Asked, note: str) -> Response:
    action, wanted = _what(asked)
    if action == WITHDRAW and not _is_own(asked, _open(asked, wanted)):
        return _form(asked, f"Nothing was done. {_NOT_YOURS}", 409)
    try:
        decided = (approve if action == "approve" else reject)(asked.ledger, wanted, asked.person.name, note)
    except NotAllowed as error:
        return _form(asked, f"Nothing was done. {error}", 409)
    if decided.decision == "approved":
        operation = find(asked.ledger, decided.subject)
        for lane in LANES if operation is None else [operation.lane]:
            asked.console.wake(lane)
    elif action == "approve":
        return _form(asked, f"Nothing was done: the proposal is void ({decided.decision}). {decided.decided_note}", 409)
    return see("/approvals" if decided.action == RESUME else address("/operation", key=decided.subject))


def _made(asked: Asked) -> str:
    """Return the name of the proposal that was just made. Any other text in the address is not shown."""
    made = asked.query.get("made", "")
    return made if re.fullmatch(r"A[0-9]{1,18}", made, re.ASCII) else ""


def _what(asked: Asked) -> tuple[str, int]:
    action, wanted = asked.request.path_params.get("action", WITHDRAW), number(asked.query, "id")
    if action not in ("approve", "reject", WITHDRAW) or wanted is None:
        raise NotFound("there is no such action")
    return action, wanted


def _form(asked: Asked, problem: str, status: int = 200) -> Response:
    action, wanted = _what(asked)
    proposal = _open(asked, wanted)
    operation = None if proposal is None else find(asked.ledger, proposal.subject)
    if proposal is None and not problem:
        raise NotFound(f"A{wanted} is not open")
    own = proposal is not None and _is_own(asked, proposal)
    if own and action != WITHDRAW:
        problem = problem or "This is your own proposal: another person must approve it, or you withdraw it."
    if action == WITHDRAW and proposal is not None and not own:
        problem = problem or _NOT_YOURS
    return asked.page(
        "approval.html", status, action=action, proposal=proposal, one=operation, problem=problem, own=own,
        changed=proposal is not None and operation is not None and operation.change_mark != proposal.seen,
        form=secrets.token_urlsafe(12), note=asked.form.get("note", ""),
    )  # fmt: skip


def _open(asked: Asked, wanted: int) -> Approval | None:
    return next((one for one in open_approvals(asked.ledger) if one.id == wanted), None)


def _is_own(asked: Asked, one: Approval | None) -> bool:
    return one is not None and is_same_person(one.proposed_by, asked.person.name)
