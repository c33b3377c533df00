"""The page Imports: each import with how far it is, and what a person decides about one: pause, resume, cancel."""

import secrets

from starlette.responses import Response

from worker.console.page_request import NotFound, PageRequest, note_problem, see
from worker.console.url_parameters import BadParameter, address, number, text
from worker.errors import NotAllowed
from worker.ledger.approvals import Approval, approvals_of, cancel_batch_or_propose, resume_batch_or_propose
from worker.ledger.batches import (
    CANCELLED,
    PAGE,
    PAUSED,
    Batch,
    beyond_recall,
    count_perhaps_done,
    find_batch,
    list_batches,
    needs_approval,
    pause_batch,
    sweep,
)
from worker.operation import State
from worker.report.batch_report import BatchReport, batch_reports

SWEEP_S = 0.2  # seconds that an answer waits for the operations to obey; dispatch does the rest
TITLES = {"pause": "Pause", "resume": "Resume", "cancel": "Cancel"}
_EFFECTS = {
    "pause": "Nothing more of it is started until it is resumed: {unsent} operations wait. What was sent is finished,"
    " and a process that records its rows waits, too.",
    "resume": "What waits for it is due again, {unsent} operations, at the usual rate. The time of the pause does not"
    " count towards their deadlines.",
    "cancel": "Its {unsent} operations of which nothing was ever sent end as cancelled. It is final: they are never"
    " sent, and the same ids cannot be requested again.",
}
_PERHAPS_DONE = (
    " {perhaps:,} of them may have been done before the ledger was restored. These end as unresolved: look at B2COPY."
)
_BEYOND_RECALL = " {beyond:,} may have been sent already. These cannot be cancelled and continue."


def imports(page_request: PageRequest) -> Response:
    """The newest imports, with how many of their operations are in each state."""
    at, behind = number(page_request.query, "before"), text(page_request.query, "behind")
    before = None if at is None else (at, behind or "")
    batches = list_batches(page_request.ledger, before, PAGE + 1)
    shown = batches[:PAGE]
    return page_request.page(
        "imports.html",
        live=True,
        reports=page_request.console.count_batches(shown),
        states=list(State),
        actions=permitted,
        more=address("/imports", before=shown[-1].requested_at, behind=shown[-1].id) if len(batches) > PAGE else None,
    )


def permitted(batch: Batch) -> list[str]:
    """Return what may be decided about a batch."""
    return {None: ["pause", "cancel"], PAUSED: ["resume", "cancel"], CANCELLED: []}[batch.decision]


def preview(page_request: PageRequest) -> Response:
    """Say what the decision will do, and ask for the reason."""
    return _form(page_request, "")


def act(page_request: PageRequest) -> Response:
    """Pause, resume or cancel an import."""
    if problem := note_problem(page_request.note):
        return _form(page_request, problem, 400)
    return page_request.once(lambda: _act(page_request))


def _act(page_request: PageRequest) -> Response:
    action, report = _what(page_request)
    ledger, batch = page_request.ledger, report.batch
    actor, note, seen = page_request.person.name, page_request.note, page_request.form.get("seen", "")
    done: object = None
    try:
        match action:
            case "pause":
                pause_batch(ledger, batch.id, actor, note, seen)
            case "resume":
                done = resume_batch_or_propose(ledger, batch, actor, note, seen)
            case "cancel":
                done = cancel_batch_or_propose(ledger, batch, actor, note, seen)
    except NotAllowed as error:
        return _form(page_request, str(error), 409)
    if isinstance(done, Approval):
        return see(address("/approvals", made=done.name))
    sweep(ledger, SWEEP_S, batch.id)
    if action == "resume":
        page_request.console.wake(batch.lane)
    return see("/imports")


def _what(page_request: PageRequest) -> tuple[str, BatchReport]:
    action = page_request.request.path_params["action"]
    if action not in TITLES:
        raise NotFound("there is no such action")
    name = text(page_request.query, "batch")
    if not name:
        raise BadParameter("batch must be the name of an import")
    batch = find_batch(page_request.ledger, name)
    if batch is None:
        raise NotFound(f"{name}: there is no such import")
    [report] = batch_reports(page_request.ledger, [batch])
    return action, report


def _form(page_request: PageRequest, problem: str, status: int = 200) -> Response:
    action, report = _what(page_request)
    ledger, batch = page_request.ledger, report.batch
    beyond = beyond_recall(ledger, batch.id)
    effect = _EFFECTS[action].format(unsent=f"{report.counts.open - beyond:,}")
    if action == "cancel" and (perhaps := count_perhaps_done(ledger, batch.id)):
        effect += _PERHAPS_DONE.format(perhaps=perhaps)
    if action == "cancel" and beyond:
        effect += _BEYOND_RECALL.format(beyond=beyond)
    asks_two = action != "pause" and needs_approval(ledger, batch, CANCELLED if action == "cancel" else None)
    return page_request.page(
        "import_action.html",
        status,
        title=f"{TITLES[action]} import",
        report=report,
        effect=effect,
        possible=action in permitted(batch),
        proposals=approvals_of(ledger, batch.subject),
        problem=problem,
        danger=action != "resume",
        needs_approval=asks_two,
        form=secrets.token_urlsafe(12),
        note=page_request.form.get("note", ""),
    )
