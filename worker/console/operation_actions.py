"""Actions on one operation. A page says what the action will do and asks for the reason; then the action is done."""

import secrets
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from worker.console.page_request import NOTE_LIMIT, NOTE_MIN, NotFound, PageRequest, note_problem, see
from worker.console.url_parameters import BadParameter, address, text
from worker.errors import BadPayload, NotAllowed
from worker.ledger import audit_of, find, poll_now
from worker.ledger.approvals import Approval, decide_or_propose
from worker.operation import MESSAGE_KIND, NOTICE_KIND, Operation, State, is_replayable, may_have_been_done
from worker.report.operation_report import pause_of
from worker.report.replayable import moves_money, why_not_replayable
from worker.report.sentences import Kinds, destination_name, standing


@dataclass(frozen=True)
class Action:
    """Something a person may do. `effect` says in a sentence what it does: see `effect_of`."""

    name: str
    label: str
    effect: str
    address: str = ""
    danger: bool = False


_REPLAY = Action(
    "replay",
    "Replay",
    "It is queued again with fresh attempts and a fresh deadline, and is sent to {destination}.",
)
_REPLAY_NOT_DONE = Action(
    "replay-not-done",
    "It was not done: replay",
    "{says} looked at {destination} and that it was not done. It is queued again and sent to {destination}. If it was"
    " done after all, it is done twice.",
    danger=True,
)
_RESOLVE_SUCCEEDED = Action(
    "resolve-done",
    "It was done",
    "{says} looked at {destination} and that it was done. It ends as succeeded.{consequence} Nothing is sent to"
    " {destination}.",
)
_RESOLVE_FAILED = Action(
    "resolve-failed",
    "It was not done",
    "{says} looked at {destination} and that it was not done. It stays failed, as rejected, and may be replayed."
    " Nothing is sent to {destination}.",
)
_CLOSE = Action(
    "close-message",
    "Close",
    "It only stores a message that could not be used. Nothing of it was sent, and nothing will be. It ends as"
    " cancelled, and the work list no longer shows it. If it is still wanted, request it again first.",
)
_CANCEL = Action(
    "cancel",
    "Cancel",
    "This ledger knows of no request to {destination} for it, and none will be sent. It ends as cancelled,"
    " which is final: the same id cannot be requested again.",
    danger=True,
)
_STOP = Action(
    "stop-asking",
    "Stop asking",
    "It was sent to {destination}, which may still do it. We ask no more: it ends as failed, unresolved, and a person"
    " must find out whether it was done.",
    danger=True,
)
_POLL = Action(
    "poll-now",
    "Try now",
    "It becomes due now: a worker asks {destination} about it, or sends it, as soon as its lane, the rate limit and"
    " what it waits behind permit. Nothing else changes.",
)

RESULT_LIMIT = 64  # characters of an id at B2COPY
ACTIONS = {
    action.name: action
    for action in (_REPLAY, _REPLAY_NOT_DONE, _RESOLVE_SUCCEEDED, _RESOLVE_FAILED, _CLOSE, _CANCEL, _STOP, _POLL)
}
_DECISIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "replay-not-done": ("replay", {"not_done": True}),
    "replay": ("replay", {}),
    "resolve-done": ("resolve", {"succeeded": True}),
    "resolve-failed": ("resolve", {"succeeded": False}),
    "close-message": ("resolve", {"succeeded": False}),
    "cancel": ("cancel", {}),
    "stop-asking": ("stop_asking", {}),
}
"""What a decision is in the ledger, and with which arguments. The first one that matches a proposal is its action.

`close-message` is for stored messages, and the others are for operations.
"""

_CORRECT = "It is queued again with the payload shown here and is sent to {destination}."


def possible_actions(operation: Operation) -> list[Action]:
    """Return what an operation permits, the most likely first."""
    if operation.state == State.FAILED:
        if operation.kind == MESSAGE_KIND:
            return [_CLOSE]
        if not is_replayable(operation):
            return [_RESOLVE_SUCCEEDED, _RESOLVE_FAILED, _REPLAY_NOT_DONE]
        return (
            [_REPLAY, _RESOLVE_SUCCEEDED, _RESOLVE_FAILED]
            if may_have_been_done(operation)
            else [_REPLAY, _RESOLVE_SUCCEEDED]
        )
    if operation.state == State.WAITING:
        return [_POLL, _STOP if operation.sent else _CANCEL]
    if operation.state == State.QUEUED:
        return [_STOP if operation.sent else _CANCEL]
    return []


def permitted_actions(page_request: PageRequest, operation: Operation) -> list[Action]:
    """Return what this person may do with an operation, with the address of each."""
    if not page_request.may("operator"):
        return []
    return [
        Action(one.name, one.label, one.effect, address(f"/operation/{one.name}", key=operation.key), one.danger)
        for one in possible_actions(operation)
    ]


def effect_of(action: Action, operation: Operation, kinds: Kinds, says: str = "You say that you have") -> str:
    """Return the sentences that say what an action does with this operation. A success of a notice has no effect.

    `says` begins the sentence about what a person found out.
    """
    consequence = ""
    if operation.kind != NOTICE_KIND:
        pays = " and may pay the withdrawal" if moves_money(operation.kind, operation.lane, kinds) else ""
        consequence = f" The CRM learns this{pays}, and operations that wait for this one start."
    destination = destination_name(operation.destination)
    return action.effect.format(destination=destination, consequence=consequence, says=says)


def effect_of_proposal(proposal: Approval, operation: Operation, kinds: Kinds) -> str:
    """Return what the approval of a proposal about an operation does; empty if this version does not know its action.

    The approver has perhaps not looked at the destination, so the proposer is named.
    """
    if proposal.action == "correct":  # the command line alone proposes it
        return _CORRECT.format(destination=destination_name(operation.destination))
    says = f"{proposal.proposed_by} says that {proposal.proposed_by} has"
    for name, (action, arguments) in _DECISIONS.items():
        is_for_it = (name == _CLOSE.name) == (operation.kind == MESSAGE_KIND)
        if is_for_it and action == proposal.action and arguments.items() <= proposal.arguments.items():
            return effect_of(ACTIONS[name], operation, kinds, says)
    return ""


def preview(page_request: PageRequest) -> Response:
    """Say what the action will do, and ask for the reason."""
    operation, action = _operation_and_action(page_request)
    problem = "" if action in possible_actions(operation) else _why_not(operation, action)
    return _form(page_request, operation, action, problem)


def act(page_request: PageRequest) -> Response:
    """Do the action, or propose it if a second person is needed."""
    operation, action = _operation_and_action(page_request)
    note = page_request.note
    if action is not _POLL and (problem := note_problem(note)):
        return _form(page_request, operation, action, problem, 400)
    return page_request.once(lambda: _act(page_request, operation, action, note))


def _act(page_request: PageRequest, operation: Operation, action: Action, note: str) -> Response:
    page = address("/operation", key=operation.key)
    if action is _POLL:
        poll_now(page_request.ledger, operation.key, page_request.person.name, note)
        page_request.console.wake(operation.lane)
        return see(page)
    name, arguments = _DECISIONS[action.name]
    try:
        if result := _result(page_request, operation, action):
            arguments = arguments | {"result": result}
        decided = decide_or_propose(
            page_request.ledger,
            name,
            operation,
            page_request.person.name,
            note,
            page_request.form.get("seen", ""),
            **arguments,
        )
    except BadPayload as error:
        return _form(page_request, operation, action, f"Nothing was done. {error}", 400)
    except NotAllowed as error:
        fresh = find(page_request.ledger, operation.key) or operation
        return _form(page_request, fresh, action, f"Nothing was done. {error}", 409)
    if isinstance(decided, Approval):
        return see(address("/approvals", made=decided.name))
    page_request.console.wake(operation.lane)
    return see(page)


def _form(page_request: PageRequest, operation: Operation, action: Action, problem: str, status: int = 200) -> Response:
    needs_approval = action is not _POLL and page_request.ledger.needs_approval(operation.kind, operation.lane)
    return page_request.page(
        "action.html",
        status,
        one=operation,
        action=action,
        effect=effect_of(action, operation, page_request.console.kinds),
        problem=problem,
        possible=action in possible_actions(operation),
        standing=standing(
            operation,
            page_request.console.kinds,
            pause_of(page_request.ledger, operation),
            audit_of(page_request.ledger, operation.key),
        ),
        money=moves_money(operation.kind, operation.lane, page_request.console.kinds),
        needs_approval=needs_approval,
        needs_note=action is not _POLL,
        result=_written_result(page_request, operation, action),
        result_limit=RESULT_LIMIT,
        form=secrets.token_urlsafe(12),
        note=page_request.form.get("note", ""),
        note_min=NOTE_MIN,
        note_limit=NOTE_LIMIT,
    )


def _written_result(page_request: PageRequest, operation: Operation, action: Action) -> dict[str, str]:
    """Return the ids that a person may give who says that it was done, as they are in the form so far."""
    kind = page_request.console.kinds.get(operation.kind)
    names = kind.result_ids if kind is not None and action is _RESOLVE_SUCCEEDED else ()
    return {name: page_request.form.get(name, "").strip() for name in names}


def _result(page_request: PageRequest, operation: Operation, action: Action) -> dict[str, Any]:
    """Return the given ids as B2COPY's answer would hold them. Raises `BadParameter` and `BadPayload`."""
    written = _written_result(page_request, operation, action)
    given = {name: value for name in written if (value := text(written, name, RESULT_LIMIT))}
    return page_request.console.kinds[operation.kind].checked_result(given) if given else {}


def _why_not(operation: Operation, action: Action) -> str:
    if action in (_REPLAY, _REPLAY_NOT_DONE) and (why_not := why_not_replayable(operation, action is _REPLAY_NOT_DONE)):
        return f"This cannot be done now: {why_not}."
    return f"This cannot be done now: it is {operation.state}."


def _operation_and_action(page_request: PageRequest) -> tuple[Operation, Action]:
    action = ACTIONS.get(page_request.request.path_params["action"])
    if action is None:
        raise NotFound("there is no such action")
    key = text(page_request.query, "key")
    if key is None:
        raise BadParameter("key names the operation")
    operation = find(page_request.ledger, key)
    if operation is None:
        raise NotFound(f"{key}: there is no such operation")
    return operation, action
