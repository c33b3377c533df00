"""The scheduled jobs: wake what is due, renew the session."""

import logging
import time

from worker.app import app, ledger, session
from worker.errors import B2CopyError
from worker.ledger import count_due, make_due, try_start_dispatch
from worker.ledger.minutes import MINUTE_MS, SETTLED_MS, summarize_minutes
from worker.messages.wake_up import wake, wake_ups_for
from worker.operation import WaitReason
from worker.queues import LANES

log = logging.getLogger(__name__)

_summarized = -1  # the minute since the epoch in which this process last summarized
WITHOUT_SESSION = {"busy", "cooldown"}  # outcomes of a renewal that say nothing about a usable session


@app.task(name="b2copy.ledger.dispatch")
def dispatch() -> None:
    """Repeat the wake-ups of everything due, once a second in the whole fleet, money first.

    Started by beat and by a timer in every worker; a compare-and-set in the ledger lets one of them act.
    """
    if not try_start_dispatch(ledger()):
        return
    due = count_due(ledger())
    for lane in LANES:
        if count := due.get(lane, 0):
            wake(lane, wake_ups_for(count))
    _summarize_minutes_if_due()


def _summarize_minutes_if_due() -> None:
    """Have the ledger summarize the minutes that ended, if this process has not done so in this minute."""
    global _summarized
    minute = int(time.time() * 1000 - SETTLED_MS) // MINUTE_MS
    if minute != _summarized:
        summarize_minutes(ledger())
        _summarized = minute


@app.task(name="b2copy.session.refresh")
def refresh() -> None:
    """Renew the shared session if it is time. Started by beat; the workers' own path is the same function.

    Operations that waited for a session become due when there is one, for instance after a person has corrected the key
    and logged in.
    """
    try:
        renewal = session().renew("beat")
    except B2CopyError as error:
        # Operations wait by themselves, and the next tick tries again.
        log.warning("the session was not renewed: %s", error)
        return
    if renewal.outcome not in WITHOUT_SESSION:
        make_due(ledger(), "b2copy", WaitReason.NO_SESSION)
