"""Replay everything that the filter matches: previewed by reason, capped, never what is unresolved, and reported."""

import secrets
from collections import Counter

from starlette.responses import Response

from worker.console.actions import note_problem
from worker.console.asked import Asked
from worker.console.parameters import BadParameter, list_query, number
from worker.errors import NotAllowed
from worker.ledger import Ledger, replay
from worker.ledger.approvals import propose
from worker.ledger.operation_lists import list_operations
from worker.operation import FailureReason, Operation, State
from worker.report.replay import moves_money, why_not_replayable

CAP = 1_000  # operations in one go
_BATCH = 100  # in one transaction, so that workers never wait long for its locks


def preview(asked: Asked) -> Response:
    """Say what would be replayed, by reason, and what is left alone and why."""
    return _form(asked, _chosen(asked), "")


def act(asked: Asked) -> Response:
    """Replay what matched when the preview was made and has not changed since. Report what was done and what not."""
    if problem := note_problem(asked.form.get("note", "").strip()):
        return _form(asked, _chosen(asked), problem, 400)
    return asked.console.forms.once(asked.form.get("form", ""), lambda: _act(asked))


def _act(asked: Asked) -> Response:
    as_of, note = number(asked.form, "as_of"), asked.form.get("note", "").strip()
    if as_of is None:
        raise BadParameter("as_of is missing: open the preview again")
    chosen = [one for one in _chosen(asked) if one.state_since <= as_of]  # not what failed after the preview
    wanted, left_alone = _sorted_out(chosen)
    alone = [one for one in wanted if not asked.ledger.needs_approval(one.kind, one.lane)]
    proposed, refused = _propose(asked, [one for one in wanted if one not in alone], note)
    replayed = _replay(asked.ledger, alone, asked.person.name, note)
    for lane in {one.lane for one in alone}:
        asked.console.wake(lane)
    changed = Counter({"it changed meanwhile": len(alone) - len(replayed)} if len(replayed) < len(alone) else {})
    return asked.page(
        "bulk_done.html",
        replayed=len(replayed),
        proposed=proposed,
        left_alone=left_alone + changed + refused,
        query=list_query(asked.query, asked.console.kinds),
    )


def _replay(ledger: Ledger, wanted: list[Operation], actor: str, note: str) -> list[str]:
    replayed: list[str] = []
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start : start + _BATCH]
        marks = {one.key: one.change_mark for one in batch}
        replayed += replay(ledger, list(marks), actor, note, seen=marks)
    return replayed


def _propose(asked: Asked, wanted: list[Operation], note: str) -> tuple[int, Counter[str]]:
    proposed, refused = 0, Counter[str]()
    for one in wanted:
        try:
            propose(asked.ledger, "replay", one.key, asked.person.name, note, one.change_mark, {})
        except NotAllowed:
            refused["another proposal is open, or it changed meanwhile"] += 1
        else:
            proposed += 1
    return proposed, refused


def _chosen(asked: Asked) -> list[Operation]:
    query = list_query(asked.query, asked.console.kinds)
    if query.filter.states != (State.FAILED,):
        raise BadParameter("state must be failed: only failed operations are replayed")
    return list_operations(asked.ledger, query.filter, limit=CAP).operations


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


def _form(asked: Asked, chosen: list[Operation], problem: str, status: int = 200) -> Response:
    wanted, left_alone = _sorted_out(chosen)
    rows = Counter((one.failure_reason or "", one.kind, one.lane) for one in wanted)
    return asked.page(
        "bulk.html",
        status,
        query=list_query(asked.query, asked.console.kinds),
        rows=rows.most_common(),
        left_alone=left_alone,
        count=len(wanted),
        money=sum(moves_money(one, asked.console.kinds) for one in wanted),
        approvals=sum(asked.ledger.needs_approval(one.kind, one.lane) for one in wanted),
        capped=len(chosen) == CAP,
        cap=CAP,
        as_of=max((one.state_since for one in chosen), default=0),
        form=secrets.token_urlsafe(12),
        problem=problem,
        note=asked.form.get("note", ""),
    )
