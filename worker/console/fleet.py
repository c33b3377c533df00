"""What people do with the fleet: pause and resume a lane, renew the session."""

import secrets

from starlette.responses import Response

from worker.console.actions import note_problem
from worker.console.asked import Asked, NotFound, see
from worker.console.parameters import address, word
from worker.errors import B2CopyError, SettingsError
from worker.ledger import active_flags, pause
from worker.ledger.approvals import Approval, resume_or_propose
from worker.ledger.flags import RESUME
from worker.ledger.operator_actions import record_renewal
from worker.queues import LANES
from worker.report.session import OUTCOMES, RENEWED

RENEWAL_S = 20.0  # seconds to wait for another process's renewal
TITLES = {"pause": "Pause", "resume": "Resume", "renew": "Renew the session"}
_EFFECTS = {
    "pause": "Nothing more is sent from {lane}, in the whole fleet, until it is resumed. What is being sent is"
    " finished; everything else waits, and new operations are still accepted.",
    "resume": "What is due in {lane} is sent again, at the usual rate.",
    "renew": "The fleet gets a new access token from B2COPY now, also during a cool-down. No operation is touched.",
}


def preview(asked: Asked) -> Response:
    """Say what the action will do, and ask for the reason."""
    return _form(asked, "")


def act(asked: Asked) -> Response:
    """Pause, resume or renew."""
    note = asked.form.get("note", "").strip()
    if problem := note_problem(note):
        return _form(asked, problem, 400)
    return asked.once(lambda: _act(asked, note))


def _act(asked: Asked, note: str) -> Response:
    action, lane = _what(asked)
    if action == "renew":
        return _renew(asked, note)
    if action == "pause":
        pause(asked.ledger, lane, asked.person.name, note)
    else:
        done = resume_or_propose(asked.ledger, lane, asked.person.name, note)
        if isinstance(done, Approval):
            return see(address("/approvals", made=done.name))
        for each in LANES if lane == "all" else [lane]:
            asked.console.wake(each)
    return see("/system")


def _renew(asked: Asked, note: str) -> Response:
    session = asked.console.session
    if session is None:
        return _form(asked, "This host has no keys: run `b2copy-sync session renew` on one that has.", 409)
    record_renewal(asked.ledger, asked.person.name, note)
    try:
        renewal = session.renew("operator", force=True, wait=RENEWAL_S)
    except (B2CopyError, SettingsError) as error:
        return _form(asked, f"The session was not renewed: {error}", 409)
    if renewal.outcome not in RENEWED:
        return _form(asked, f"The session was not renewed: {OUTCOMES[renewal.outcome]}.", 409)
    return see(address("/system", renewed=renewal.outcome))


def _what(asked: Asked) -> tuple[str, str]:
    action = asked.request.path_params["action"]
    if action not in TITLES:
        raise NotFound("there is no such action")
    return action, word(asked.query, "lane", ("all", *LANES)) or "all"


def _form(asked: Asked, problem: str, status: int = 200) -> Response:
    action, lane = _what(asked)
    named = "all lanes" if lane == "all" else f"lane {lane}"
    flag = active_flags(asked.ledger).get(f"pause:{lane}")
    return asked.page(
        "fleet.html",
        status,
        title=TITLES[action] if action == "renew" else f"{TITLES[action]} {named}",
        effect=_EFFECTS[action].format(lane=named),
        flag=flag,
        problem=problem,
        danger=action == "pause",
        needs_approval=action == "resume" and asked.ledger.needs_approval(RESUME, lane),
        form=secrets.token_urlsafe(12),
        note=asked.form.get("note", ""),
    )
