"""Actions on the fleet: pause and resume a lane, renew the session."""

import secrets

from starlette.responses import Response

from worker.console.page_request import NotFound, PageRequest, note_problem, see
from worker.console.url_parameters import address, word
from worker.errors import B2CopyError, NotAllowed, SettingsError
from worker.ledger import active_flags, pause
from worker.ledger.approvals import Approval, resume_or_propose
from worker.ledger.operator_actions import record_renewal
from worker.ledger.pauses import RESUME
from worker.queues import LANES
from worker.report.session_report import OUTCOMES, RENEWED

RENEWAL_S = 20.0  # seconds to wait for another process's renewal; less than a command, because a browser waits
TITLES = {"pause": "Pause", "resume": "Resume", "renew": "Renew the session"}
_EFFECTS = {
    "pause": "Nothing more is sent from {lane}, in the whole fleet, until it is resumed. What is being sent is"
    " finished; everything else waits, and new operations are still accepted.",
    "resume": "What is due in {lane} is sent again, at the usual rate.",
    "renew": "The fleet gets a new access token from B2COPY now, also during a cool-down. No operation is touched.",
}


def preview(page_request: PageRequest) -> Response:
    """Say what the action will do, and ask for the reason."""
    return _form(page_request, "")


def act(page_request: PageRequest) -> Response:
    """Pause, resume or renew."""
    note = page_request.note
    if problem := note_problem(note):
        return _form(page_request, problem, 400)
    return page_request.once(lambda: _act(page_request, note))


def _act(page_request: PageRequest, note: str) -> Response:
    action, lane = _what(page_request)
    if action == "renew":
        return _renew(page_request, note)
    if action == "pause":
        if not pause(page_request.ledger, lane, page_request.person.name, note):
            return _form(page_request, "Nothing was done: it is paused already, and your reason is not stored.", 409)
    else:
        seen = page_request.form.get("seen", "")
        try:
            done = resume_or_propose(page_request.ledger, lane, page_request.person.name, note, seen)
        except NotAllowed as error:
            return _form(page_request, f"Nothing was done: {error}.", 409)
        if isinstance(done, Approval):
            return see(address("/approvals", made=done.name))
        for each in LANES if lane == "all" else [lane]:
            page_request.console.wake(each)
    return see("/system")


def _renew(page_request: PageRequest, note: str) -> Response:
    session = page_request.console.session
    if isinstance(session, str):
        return _form(page_request, f"Run `b2copy-sync session renew` where a worker runs: {session}", 409)
    record_renewal(page_request.ledger, page_request.person.name, note)
    try:
        renewal = session.renew("operator", force=True, wait=RENEWAL_S)
    except (B2CopyError, SettingsError) as error:
        return _form(page_request, f"The session was not renewed: {error}", 409)
    if renewal.outcome not in RENEWED:
        return _form(page_request, f"The session was not renewed: {OUTCOMES[renewal.outcome]}.", 409)
    return see(address("/system", renewed=renewal.outcome))


def _what(page_request: PageRequest) -> tuple[str, str]:
    action = page_request.request.path_params["action"]
    if action not in TITLES:
        raise NotFound("there is no such action")
    return action, word(page_request.query, "lane", ("all", *LANES)) or "all"


def _named(lane: str) -> str:
    return "all lanes" if lane == "all" else f"lane {lane}"


def _form(page_request: PageRequest, problem: str, status: int = 200) -> Response:
    action, lane = _what(page_request)
    flags = active_flags(page_request.ledger)
    others = [_named(other) for other in ("all", *LANES) if other != lane and f"pause:{other}" in flags]
    effect = _EFFECTS[action].format(lane=_named(lane))
    if action == "resume" and others:
        effect += f" Still paused afterwards: {', '.join(others)}. Nothing is sent from there."
    return page_request.page(
        "fleet.html",
        status,
        title=TITLES[action] if action == "renew" else f"{TITLES[action]} {_named(lane)}",
        effect=effect,
        flag=flags.get(f"pause:{lane}"),
        problem=problem,
        danger=action == "pause",
        needs_approval=action == "resume" and page_request.ledger.needs_approval(RESUME, lane),
        form=secrets.token_urlsafe(12),
        note=page_request.form.get("note", ""),
    )
