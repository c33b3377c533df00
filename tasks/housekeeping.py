"""The scheduled jobs: wake what is due, renew the session."""

import logging

from worker.app import app, ledger, session
from worker.errors import B2CopyError
from worker.ledger import count_due, try_start_dispatch
from worker.messages.wake_up import wake, wake_ups_for
from worker.queues import LANES

log = logging.getLogger(__name__)


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


@app.task(name="b2copy.session.refresh")
def refresh() -> None:
    """Renew the shared session if it is time. Started by beat; the workers' own path is the same function."""
    try:
        session().renew("beat")
    except B2CopyError as error:
        # Operations wait by themselves, and the next tick tries again.
        log.warning("the session was not renewed: %s", error)
