"""Push what is due to B2COPY. Internal: started by wake-ups."""

import logging
from functools import partial
from typing import Any

from celery import signals

from tasks.kind import Kind
from tasks.kinds import KINDS
from tasks.wake import wake
from worker.app import PerProcess, app, b2copy, ledger
from worker.flow.limiter import Limiter
from worker.flow.outcome import Outcome
from worker.flow.policy import Policy
from worker.flow.polls import Polls
from worker.flow.pusher import Pusher
from worker.ledger import Claim, Why, backlog
from worker.settings import worker_settings

log = logging.getLogger(__name__)


def _act(kind: Kind[Any], claim: Claim) -> Outcome:
    return kind.act(b2copy(), kind.checked(claim.payload), claim)


@PerProcess
def pusher() -> Pusher:
    """This process's pusher."""
    settings = worker_settings()
    pending = partial(backlog, ledger(), Why.PENDING_AT_B2COPY)
    polls = Polls(pending, settings.concurrency, Limiter(settings).per_second)
    policy = Policy(settings.max_attempts, settings.fees_poll_first, settings.fees_poll_max, stretch=polls.apart)
    return Pusher(ledger(), {name: partial(_act, kind) for name, kind in KINDS.items()}, settings, policy)


@app.task(name="b2copy.push")
def push(ledger_id: str, lane: str) -> None:
    """Send what is due in a lane. A wake-up of another ledger means two systems share one Redis database."""
    if ledger_id != ledger().id:
        log.critical(
            "a wake-up came from another ledger (%s; ours is %s): B2COPY_REDIS_URL must name a Redis database of this"
            " system alone",
            ledger_id,
            ledger().id,
        )
        return
    if pusher().drain(lane):
        wake(lane)


@signals.worker_shutting_down.connect
def finish_in_flight(**_: Any) -> None:
    """Warm shutdown: claim nothing more, finish what is in flight."""
    if pusher.made:
        pusher.made.stop()
