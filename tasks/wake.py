"""Wake-ups: messages that say "this lane of this ledger has something due", and nothing else.

One may be lost, doubled or late without harm: dispatch repeats what was lost, and a worker that finds nothing due goes
back to sleep.
"""

import logging
import time

from kombu.exceptions import OperationalError

from worker.app import app, ledger
from worker.flow.lanes import WAKE_UP_LASTS, queue_of

log = logging.getLogger(__name__)


AFTER_FAILURE = (
    5.0  # seconds without wake-ups when the broker took none: whoever enqueues must not wait for it each time
)

_sent: dict[str, float] = {}  # lane -> when this process last sent one, monotonic seconds


def wake_soon(lane: str) -> None:
    """Wake a lane for what has just been recorded, unless a wake-up of a moment ago does: its reader looks again."""
    now = time.monotonic()
    if now - _sent.get(lane, -WAKE_UP_LASTS) >= WAKE_UP_LASTS:
        _sent[lane] = now
        if not wake(lane):
            _sent[lane] = time.monotonic() + AFTER_FAILURE


def wake(lane: str, times: int = 1) -> bool:
    """Send up to `times` wake-ups for a lane; return False if the broker did not take them.

    A wake-up that nobody has read yet will find this work too, so that the queue never holds more than `times`.
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
    except (OperationalError, *app.connection_for_write().connection_errors) as error:
        # The operation is safe in the ledger; dispatch wakes it when the broker is back.
        log.warning("no wake-up for lane %s, dispatch will repeat it: %s", lane, error)
        return False
    return True
