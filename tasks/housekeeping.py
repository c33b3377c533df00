"""Two scheduled jobs: wake what is due, renew the session. The third one is in `tasks/reconcile.py`."""

import logging
import math
import time
from collections.abc import Mapping

from tasks.registry import KINDS
from worker.app import app
from worker.b2copy.client import SERVICE_ADMIN
from worker.crm.requests_table import lets_others_dispatch_first, take_requests
from worker.errors import B2CopyError
from worker.instances import ledger, sessions
from worker.ledger import DATABASE_UNAVAILABLE_ERRORS, count_due, make_due, sweep, try_start_dispatch
from worker.ledger.batches import sweep_forgotten
from worker.ledger.due import DISPATCH_EVERY_S
from worker.ledger.minute_statistics import MINUTE_MS, SETTLED_MS, summarize_minutes
from worker.ledger.notices import cancel_unwanted_notices, notices_wanted_until
from worker.ledger.running_workers import count_running
from worker.messages.dispatch_timer import outage
from worker.messages.wake_up import wake, wake_ups_for
from worker.operation import WaitReason
from worker.queues import LANES
from worker.settings import crm_settings
from worker.watch.outage_log import OutageLog

log = logging.getLogger(__name__)

_refresh_outage = OutageLog(log, "operations that wait for a session stay so, the next renewal tries again")
_summarized = -1  # the minute since the epoch in which this process last summarized
_unwanted_since = math.inf  # monotonic seconds; since when this process sees that nobody delivers notices
TAKE_S = 1.0  # seconds of each tick for the requests of the SQL API
SWEEP_S = 0.1  # seconds of each tick for the operations of batches that were paused, resumed or cancelled
CANCEL_S = 1.0  # seconds of each minute for the notices that nobody delivers any more
UNWANTED_FOR_S = 600.0  # seconds for which this process must have seen that nobody delivers notices
WITHOUT_SESSION = {"busy", "cooldown"}  # outcomes of a renewal after which there may be no usable session


@app.task(name="b2copy.ledger.dispatch")
def dispatch() -> bool:
    """Repeat the wake-ups of everything due, money first, and take in the requests of the SQL API.

    Then let operations obey what people decided about their batches. Once a minute `_run_minute_jobs` runs before that.

    Started by beat and by a timer in every worker; a compare-and-set in the ledger lets one of them act
    every `DISPATCH_EVERY_S`. Returns whether this call was the one. False also if the ledger is unavailable.
    """
    try:
        is_done = _dispatch()
    except DATABASE_UNAVAILABLE_ERRORS as error:  # Celery would log a traceback for each message of beat
        outage.failed(error)
        return False
    if is_done:
        outage.succeeded()
    return is_done


def _dispatch() -> bool:
    every_s = 2 * DISPATCH_EVERY_S if lets_others_dispatch_first() else DISPATCH_EVERY_S
    if not try_start_dispatch(ledger(), every_s):
        return False
    is_sent = _wake_lanes(count_due(ledger()))
    for queued in take_requests(ledger(), KINDS, crm_settings(), TAKE_S):
        is_sent = is_sent and _wake_lanes(queued)
    _run_minute_jobs()
    sweep(ledger(), SWEEP_S)
    return True


def _wake_lanes(due: Mapping[str, int]) -> bool:
    """Send wake-ups for what is due, but no more than workers run: those that drain already need none.

    Stop at the first wake-up that the broker does not take, and return False: each further one to a frozen Redis would
    delay the rest of this dispatch by seconds. The next dispatch tries again.
    """
    if not any(due.values()):
        return True
    with ledger().reading() as connection:
        workers = max(1, count_running(connection))
    return all(wake(lane, min(workers, wake_ups_for(due[lane]))) for lane in LANES if due.get(lane))


def _run_minute_jobs() -> None:
    """Do these jobs, unless this process has done them in this minute.

    Summarize the minutes that ended, and have batches swept again whose sweep left an operation. Cancel the notices
    that nobody delivers any more.
    """
    global _summarized
    minute = int(time.time() * 1000 - SETTLED_MS) // MINUTE_MS
    if minute != _summarized:
        summarize_minutes(ledger())
        sweep_forgotten(ledger())
        _cancel_unwanted_notices()
        _summarized = minute


def _cancel_unwanted_notices() -> None:
    """Not at once: after an outage of all workers, one that delivers notices may start later than this one."""
    global _unwanted_since
    if crm_settings().wants_notices or notices_wanted_until(ledger()) is not None:
        _unwanted_since = math.inf
        return
    _unwanted_since = min(_unwanted_since, time.monotonic())
    if time.monotonic() - _unwanted_since >= UNWANTED_FOR_S:
        cancel_unwanted_notices(ledger(), CANCEL_S)


@app.task(name="b2copy.session.refresh")
def refresh() -> None:
    """Renew the shared sessions if it is time. Started by beat; the workers' own path is the same function.

    Operations that waited for the session of a login become due when there is one, for instance after a person has
    corrected the key and logged in. What waits for another login or for the secret of seamless logins is not made due:
    it would use permits of the rate limit and send nothing.
    """
    for login, shared in sessions().items():
        try:
            renewal = shared.renew("beat")
        except B2CopyError as error:
            # Operations wait by themselves, and the next tick tries again.
            log.warning("the session of %s was not renewed: %s", login, error)
            continue
        if renewal.outcome not in WITHOUT_SESSION:
            _make_due(WaitReason.NO_SESSION if login == SERVICE_ADMIN else WaitReason.NO_OTHER_LOGIN)


def _make_due(reason: WaitReason) -> None:
    try:
        make_due(ledger(), "b2copy", reason)
    except DATABASE_UNAVAILABLE_ERRORS as error:
        _refresh_outage.failed(error)
    else:
        _refresh_outage.succeeded()
