"""Push what is due. Internal: started by wake-ups."""

import gc
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

from celery import signals

from tasks.registry import ALL_KINDS
from worker.app import app
from worker.flow.attempt import Destination
from worker.flow.pusher import Pusher
from worker.instances import b2copy, crm, ledger
from worker.messages.bad_message_text import short
from worker.messages.wake_up import wake, wake_soon
from worker.operation import MESSAGE_KIND, FailureReason
from worker.per_process import PerProcess
from worker.queues import B2COPY, CRM, NOTIFY, REQUEST_LANES
from worker.settings import worker_settings
from worker.watch import metrics
from worker.watch.observe import prepare_ended

log = logging.getLogger(__name__)

SWITCH_S = 0.0005  # seconds after which a thread must let another one run; 0.005 by default

_ending = threading.Event()  # set by the signal that ends this worker


@PerProcess
def pusher() -> Pusher:
    """This process's pusher."""
    # Everything is loaded by now and stays. Otherwise the garbage collector would look at all of it again and again.
    gc.collect()
    gc.freeze()
    # A lane that writes a batch would let the event loop wait that long, and all requests in flight with it.
    sys.setswitchinterval(SWITCH_S)
    settings = worker_settings()
    destinations: dict[str, Callable[[], Destination]] = {B2COPY: b2copy}
    if settings.wants_notices:  # without it, notices are left to the workers that can deliver them
        destinations[CRM] = crm
    return Pusher(ledger(), ALL_KINDS, destinations, settings, ask_for_token=lambda: b2copy().ask_for_token())


@app.task(name="b2copy.push")
def push(ledger_id: str, lane: str) -> None:
    """Send what is due in a lane. A wake-up of another ledger means that two systems share one Redis database."""
    if ledger_id != ledger().id:
        log.critical(
            "a wake-up came from another ledger (%s; ours is %s): B2COPY_REDIS_URL must name a Redis database of this"
            " system alone",
            short(ledger_id),
            ledger().id,
        )
        return
    metrics.WAKE_UPS.labels(lane).inc()
    made = pusher()
    if _ending.is_set():  # perhaps while the pusher was made, so that `finish_in_flight` found none
        made.stop()
    if made.drain(lane):
        wake(lane)
    if lane != NOTIFY and worker_settings().wants_notices:
        wake_soon(NOTIFY)  # so that the CRM is notified at once of what has ended in this lane


@signals.worker_init.connect
def count_ends_from_zero(**_: Any) -> None:
    """Export a series for each way in which an operation may end, before any has ended."""
    for kind in ALL_KINDS.values():
        lanes = (NOTIFY,) if kind.destination == CRM else REQUEST_LANES
        prepare_ended(kind.name, lanes, (*FailureReason, *kind.failure_reasons))
    prepare_ended(MESSAGE_KIND, ("default",), (FailureReason.BAD_PAYLOAD,))


@signals.worker_shutting_down.connect
def finish_in_flight(**_: Any) -> None:
    """Warm shutdown: claim nothing more, finish what is in flight."""
    _ending.set()
    if pusher.existing:
        pusher.existing.stop()
