"""Wake whatever is due and that nobody has claimed."""

import logging

from tasks.wake import wake
from worker.app import app, ledger
from worker.flow.lanes import LANES
from worker.ledger import dispatch_turn, due

log = logging.getLogger(__name__)

DUE_PER_WAKE = 100  # operations that justify one more worker
WAKES = 16  # at most, per lane and second: more than the workers can take would only pile up


@app.task(name="b2copy.ledger.dispatch")
def dispatch() -> None:
    """Repeat the wake-ups of everything due, once a second in the whole fleet, money first.

    Started by beat and by a timer in every worker; a compare-and-set in the ledger lets one of them act.
    """
    if not dispatch_turn(ledger()):
        return
    waiting = due(ledger())
    for lane in LANES:
        if count := waiting.get(lane, 0):
            wake(lane, min(WAKES, -(-count // DUE_PER_WAKE)))
