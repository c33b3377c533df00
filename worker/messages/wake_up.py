"""Wake-ups: messages that say "this lane of this ledger has something due", and nothing else.

A wake-up may be lost, doubled or late without harm: dispatch repeats lost ones, and a worker that finds nothing due
stops at once. So an error while sending a wake-up never reaches the caller, whose operation is recorded already. Only
the time limit of the caller's own task does.
"""

import logging
import threading
import time

from worker.app import app
from worker.errors import comes_from_caller
from worker.instances import ledger
from worker.per_process import PerProcess
from worker.queues import LANES, WAKE_UP_LASTS_S, queue_of
from worker.watch.outage_log import OutageLog

log = logging.getLogger(__name__)

AFTER_FAILURE_S = 5.0  # seconds without wake-ups after the broker failed, so that not every call of a CRM waits for it

DUE_PER_WAKE_UP = 100  # due operations for which one more wake-up is sent
WAKE_UPS_MAX = 16  # most wake-ups of a lane that are sent together, because more than the workers take would pile up

_sent_at: dict[str, float] = {}  # lane -> when this process last sent a wake-up, monotonic seconds
_sending = PerProcess(lambda: {lane: threading.Lock() for lane in LANES})  # one thread at a time sends for a lane
_outage = OutageLog(log, "no wake-up was sent, dispatch will repeat it")


def wake_ups_for(due: int) -> int:
    """Return how many wake-ups to send for `due` operations. Each lets one more worker drain the lane."""
    return min(WAKE_UPS_MAX, -(-due // DUE_PER_WAKE_UP))


def wake_soon(lane: str, times: int = 1) -> None:
    """Send up to `times` wake-ups unless this process sent one for the lane less than `WAKE_UP_LASTS_S` ago.

    The worker that receives the earlier wake-up queries the ledger again after `RECHECK_AFTER_S` (flow/lane.py) and
    finds this operation too.

    While another thread sends one for the lane, none is sent either: if Redis is frozen, one thread waits for it and
    the others return at once. Dispatch then wakes the lane.
    """
    sending = _sending()[lane]
    if not sending.acquire(blocking=False):
        return
    try:
        now = time.monotonic()
        if now - _sent_at.get(lane, -WAKE_UP_LASTS_S) >= WAKE_UP_LASTS_S:
            _sent_at[lane] = now
            if not wake(lane, times):  # the broker does not serve the other lanes either
                _sent_at.update(dict.fromkeys(LANES, time.monotonic() + AFTER_FAILURE_S))
    finally:
        sending.release()


def wake(lane: str, times: int = 1) -> bool:
    """Send up to `times` wake-ups for a lane; return False if the broker did not take them.

    Raises nothing but the time limit of the caller's own task.

    The worker that reads a wake-up which is still in the queue finds this work too. So the queue never holds more than
    `times` wake-ups.
    """
    queue = queue_of(lane)
    try:
        with app.producer_or_acquire() as producer:
            unread = producer.channel.client.llen(queue)
            for _ in range(times - unread):
                app.send_task(
                    "b2copy.push",
                    kwargs={"ledger_id": ledger().id, "lane": lane},
                    queue=queue,
                    producer=producer,
                )
    except Exception as error:
        if comes_from_caller(error):
            raise
        _outage.failed(error)
        return False
    _outage.succeeded()
    return True
