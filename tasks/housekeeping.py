"""The scheduled jobs: wake what is due, renew the session."""

import logging
import threading
import time
from collections.abc import Mapping

from tasks.registry import KINDS
from worker.app import app
from worker.crm.requests_table import take_requests
from worker.errors import B2CopyError
from worker.instances import back_office, ledger, session
from worker.ledger import count_due, make_due, sweep, try_start_dispatch
from worker.ledger.batches import sweep_forgotten
from worker.ledger.due import DISPATCH_EVERY_S, lanes_due_within
from worker.ledger.minute_statistics import MINUTE_MS, SETTLED_MS, summarize_minutes
from worker.ledger.notices import want_notices
from worker.messages.wake_up import wake, wake_ups_for
from worker.operation import WaitReason
from worker.queues import LANES
from worker.settings import crm_settings, worker_settings

log = logging.getLogger(__name__)

_summarized = -1  # the minute since the epoch in which this process last summarized
HALF_S = DISPATCH_EVERY_S / 2  # seconds; what falls due so soon is woken then, so that polls are not later than this
SWEEP_S = 0.15  # seconds of each tick for the operations of batches that were paused, resumed or cancelled
WITHOUT_SESSION = {"busy", "cooldown"}  # outcomes of a renewal after which there may be no usable session


@app.task(name="b2copy.ledger.dispatch")
def dispatch() -> None:
    """Repeat the wake-ups of everything due, money first, and take in the requests of the SQL API.

    Then let operations obey what people decided about their batches.

    Started by beat and by a timer in every worker; a compare-and-set in the ledger lets one act, twice a second.
    """
    if not try_start_dispatch(ledger()):
        return
    _wake_lanes(count_due(ledger()))
    if soon := lanes_due_within(ledger(), HALF_S):
        again = threading.Timer(HALF_S, _wake_lanes, [dict.fromkeys(soon, 1)])
        again.daemon = True
        again.start()
    for queued in take_requests(ledger(), KINDS, crm_settings()):
        _wake_lanes(queued)
    _summarize_minutes_if_due()
    sweep(ledger(), SWEEP_S)


def _wake_lanes(due: Mapping[str, int]) -> None:
    for lane in LANES:
        if count := due.get(lane, 0):
            wake(lane, wake_ups_for(count))


def _summarize_minutes_if_due() -> None:
    """Have the ledger summarize the minutes that ended, if this process has not done so in this minute.

    A worker that delivers notices also says again that the CRM wants them.
    """
    global _summarized
    minute = int(time.time() * 1000 - SETTLED_MS) // MINUTE_MS
    if minute != _summarized:
        summarize_minutes(ledger())
        sweep_forgotten(ledger())
        if crm_settings().wants_notices:
            want_notices(ledger())
        _summarized = minute


@app.task(name="b2copy.session.refresh")
def refresh() -> None:
    """Renew the shared sessions if it is time. Started by beat; the workers' own path is the same function.

    Operations that waited for a session become due when there is one, for instance after a person has corrected the key
    and logged in.
    """
    shared = [session]
    if worker_settings().back_office_email is not None:
        shared.append(back_office)
    for each in shared:
        try:
            renewal = each().renew("beat")
        except B2CopyError as error:
            # Operations wait by themselves, and the next tick tries again.
            log.warning("the session was not renewed: %s", error)
            continue
        if renewal.outcome not in WITHOUT_SESSION:
            make_due(ledger(), "b2copy", WaitReason.NO_SESSION)
