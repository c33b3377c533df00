"""Replay all operations that the filter matches, up to a limit, after a preview by reason. Never unresolved ones.

The preview's form names each operation and its change mark, so that exactly what a person was shown is replayed.
"""

import re
import secrets
from collections import Counter

from markupsafe import Markup
from starlette.responses import Response

from worker.console.page_request import PageRequest, note_problem
from worker.console.url_parameters import BadParameter, list_query
from worker.ledger import Ledger, replay
from worker.ledger.operation_lists import Page, list_operations
from worker.ledger.queries import find_by_ids
from worker.ledger.replay_proposals import propose_replays
from worker.operation import FailureReason, Operation, State
from worker.report.replayable import moves_money, why_not_replayable
from worker.report.sentences import destination_name

CAP = 1_000  # most operations that one replay queues again
_BATCH = 100  # operations in one transaction, so that workers never wait long for its locks


def preview(page_request: PageRequest) -> Response:
    """Show how many operations would be replayed, by reason, and how many not and why."""
    return _form(page_request, "")


def act(page_request: PageRequest) -> Response:
    """Replay what the preview showed and has not changed since. Report what was done and what not."""
    if problem := note_problem(page_request.note):
        return _form(page_request, problem, 400)
    return page_request.once(lambda: _act(page_request))


def _act(page_request: PageRequest) -> Response:
    shown, note = _read_shown(page_request.form.get("shown", "")), page_request.note
    unchanged = [one for one in find_by_ids(page_request.ledger, list(shown)) if shown[one.id] == one.change_mark]
    wanted, left_alone = _sorted_out(unchanged)
    needs = page_request.ledger.needs_approval
    alone = [one for one in wanted if not needs(one.kind, one.lane)]
    to_propose = [one for one in wanted if needs(one.kind, one.lane)]
    proposed, not_proposed = propose_replays(page_request.ledger, to_propose, page_request.person.name, note)
    refused = Counter({"another proposal is open, or it changed meanwhile": len(not_proposed)} if not_proposed else {})
    replayed = _replay(page_request.ledger, alone, page_request.person.name, note)
    for lane in {one.lane for one in alone}:
        page_request.console.wake(lane)
    lost = len(shown) - len(unchanged) + len(alone) - len(replayed)
    changed = Counter({"it changed meanwhile": lost} if lost else {})
    return page_request.page(
        "bulk_done.html",
        replayed=len(replayed),
        proposed=len(proposed),
        left_alone=left_alone + changed + refused,
        query=list_query(page_request.query, page_request.console.kinds),
    )


def _replay(ledger: Ledger, wanted: list[Operation], actor: str, note: str) -> list[str]:
    """Replay in batches, the first requested first, because each goes to the end of its entity's line."""
    replayed: list[str] = []
    wanted = sorted(wanted, key=lambda one: one.id)
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start : start + _BATCH]
        marks = {one.key: one.change_mark for one in batch}
        replayed += replay(ledger, list(marks), actor, note, seen=marks)
    return replayed


def _chosen(page_request: PageRequest) -> Page:
    query = list_query(page_request.query, page_request.console.kinds)
    if query.filter.states != (State.FAILED,):
        raise BadParameter("state must be failed: only failed operations are replayed")
    return list_operations(page_request.ledger, query.filter, limit=CAP)


def _write_shown(chosen: list[Operation]) -> Markup:
    """Return ids and change marks, as the form holds them: `7-1.1764154534000 8-1.1764154534111`."""
    return Markup(" ").join(f"{one.id}-{one.change_mark}" for one in chosen)  # not cut as other texts are


def _read_shown(text: str) -> dict[int, str]:
    """Return the change mark of each operation that the preview showed, by id. Raises `BadParameter`."""
    items = text.split(" ")
    if len(items) > CAP or not all(re.fullmatch(r"[0-9]{1,18}-[0-9.]{1,40}", item, re.ASCII) for item in items):
        raise BadParameter("shown must be what the preview wrote: open the preview again")
    return {int(number): mark for number, _, mark in (item.partition("-") for item in items)}


def _sorted_out(chosen: list[Operation]) -> tuple[list[Operation], Counter[str]]:
    """Return what may be replayed together, and how many may not, by the reason."""
    wanted, left_alone = [], Counter[str]()
    for one in chosen:
        if one.failure_reason == FailureReason.UNRESOLVED:
            left_alone["unresolved: decide each one by itself, as its page says"] += 1
        elif why_not := why_not_replayable(one):
            left_alone[why_not] += 1
        else:
            wanted.append(one)
    return wanted, left_alone


def _form(page_request: PageRequest, problem: str, status: int = 200) -> Response:
    page = _chosen(page_request)
    wanted, left_alone = _sorted_out(page.operations)
    rows = Counter((one.failure_reason or "", one.kind, one.lane) for one in wanted)
    return page_request.page(
        "bulk.html",
        status,
        query=list_query(page_request.query, page_request.console.kinds),
        rows=rows.most_common(),
        left_alone=left_alone,
        destinations=sorted({destination_name(one.destination) for one in wanted}),
        count=len(wanted),
        money=sum(moves_money(one.kind, one.lane, page_request.console.kinds) for one in wanted),
        approvals=sum(page_request.ledger.needs_approval(one.kind, one.lane) for one in wanted),
        capped=not page.all_seen or page.next is not None,
        cap=CAP,
        shown=_write_shown(page.operations),
        form=secrets.token_urlsafe(12),
        problem=problem,
        note=page_request.form.get("note", ""),
    )
