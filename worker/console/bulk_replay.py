"""Replay all operations that the filter matches, up to a limit, after a preview by reason. Never unresolved ones."""

import secrets
from collections import Counter

from starlette.responses import Response

from worker.console.operation_actions import note_problem
from worker.console.page_request import PageRequest
from worker.console.url_parameters import BadParameter, list_query, number
from worker.errors import NotAllowed
from worker.ledger import Ledger, replay
from worker.ledger.approvals import propose
from worker.ledger.operation_lists import list_operations
from worker.operation import FailureReason, Operation, State
from worker.report.replayable import moves_money, why_not_replayable

CAP = 1_000  # most operations that one replay queues again
_BATCH = 100  # operations in one transaction, so that workers never wait long for its locks


def preview(page_request: PageRequest) -> Response:
    """Show how many operations would be replayed, by reason, and how many not and why."""
    return _form(page_request, _chosen(page_request), "")


def act(page_request: PageRequest) -> Response:
    """Replay what matched when the preview was made and has not changed since. Report what was done and what not."""
    if problem := note_problem(page_request.form.get("note", "").strip()):
        return _form(page_request, _chosen(page_request), problem, 400)
    return page_request.console.forms.once(page_request.form.get("form", ""), lambda: _act(page_request))


def _act(page_request: PageRequest) -> Response:
    as_of, note = number(page_request.form, "as_of"), page_request.form.get("note", "").strip()
    if as_of is None:
        raise BadParameter("as_of is missing: open the preview again")
    chosen = [one for one in _chosen(page_request) if one.state_since <= as_of]  # none that failed after the preview
    wanted, left_alone = _sorted_out(chosen)
    alone = [one for one in wanted if not page_request.ledger.needs_approval(one.kind, one.lane)]
    proposed, refused = _propose(page_request, [one for one in wanted if one not in alone], note)
    replayed = _replay(page_request.ledger, alone, page_request.person.name, note)
    for lane in {one.lane for one in alone}:
        page_request.console.wake(lane)
    changed = Counter({"it changed meanwhile": len(alone) - len(replayed)} if len(replayed) < len(alone) else {})
    return page_request.page(
        "bulk_done.html",
        replayed=len(replayed),
        proposed=proposed,
        left_alone=left_alone + changed + refused,
        query=list_query(page_request.query, page_request.console.kinds),
    )


def _replay(ledger: Ledger, wanted: list[Operation], actor: str, note: str) -> list[str]:
    replayed: list[str] = []
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start : start + _BATCH]
        marks = {one.key: one.change_mark for one in batch}
        replayed += replay(ledger, list(marks), actor, note, seen=marks)
    return replayed


def _propose(page_request: PageRequest, wanted: list[Operation], note: str) -> tuple[int, Counter[str]]:
    proposed, refused = 0, Counter[str]()
    for one in wanted:
        try:
            propose(page_request.ledger, "replay", one.key, page_request.person.name, note, one.change_mark, {})
        except NotAllowed:
            refused["another proposal is open, or it changed meanwhile"] += 1
        else:
            proposed += 1
    return proposed, refused


def _chosen(page_request: PageRequest) -> list[Operation]:
    query = list_query(page_request.query, page_request.console.kinds)
    if query.filter.states != (State.FAILED,):
        raise BadParameter("state must be failed: only failed operations are replayed")
    return list_operations(page_request.ledger, query.filter, limit=CAP).operations


def _sorted_out(chosen: list[Operation]) -> tuple[list[Operation], Counter[str]]:
    """Return what may be replayed together, and how many may not, by the reason."""
    wanted, left_alone = [], Counter[str]()
    for one in chosen:
        if one.failure_reason == FailureReason.UNRESOLVED:
            left_alone["unresolved: each one needs its own look at B2COPY"] += 1
        elif why_not := why_not_replayable(one):
            left_alone[why_not] += 1
        else:
            wanted.append(one)
    return wanted, left_alone


def _form(page_request: PageRequest, chosen: list[Operation], problem: str, status: int = 200) -> Response:
    wanted, left_alone = _sorted_out(chosen)
    rows = Counter((one.failure_reason or "", one.kind, one.lane) for one in wanted)
    return page_request.page(
        "bulk.html",
        status,
        query=list_query(page_request.query, page_request.console.kinds),
        rows=rows.most_common(),
        left_alone=left_alone,
        count=len(wanted),
        money=sum(moves_money(one, page_request.console.kinds) for one in wanted),
        approvals=sum(page_request.ledger.needs_approval(one.kind, one.lane) for one in wanted),
        capped=len(chosen) == CAP,
        cap=CAP,
        as_of=max((one.state_since for one in chosen), default=0),
        form=secrets.token_urlsafe(12),
        problem=problem,
        note=page_request.form.get("note", ""),
    )
